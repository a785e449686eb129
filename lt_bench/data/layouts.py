"""The forms in which people have ImageNet, Places365 and iNaturalist 2018 on disk.

A list names an image by its canonical path; a layout says where that image lies.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lt_bench.data.image_list import Canonical
from lt_bench.errors import DataError

AUTO = "auto"


@dataclass(frozen=True)
class Layout:
    """One form on disk.

    `folders` are those that hold its images, told from other forms by `is_like`; `locate` gives
    where an image lies from its canonical path and its class.
    """

    name: str
    folders: tuple[str, ...]
    locate: Callable[[str, str], str]
    is_like: Callable[[Path], bool] = lambda base: True


@dataclass(frozen=True)
class Found:
    """A layout with at least one of its folders there."""

    layout: Layout
    base: Path
    missing: tuple[str, ...]

    @property
    def there(self) -> tuple[str, ...]:
        return tuple(folder for folder in self.layout.folders if folder not in self.missing)

    def describe(self, root: Path) -> str:
        place = self.base.relative_to(root).as_posix()
        inside = "the data root" if place == "." else f"{place}/"
        return f"{self.layout.name} in {inside}: {', '.join(f'{f}/' for f in self.there)}"


def search(layouts: Sequence[Layout], places: Sequence[str], root: Path) -> list[Found]:
    """Every layout under the data root, complete ones first, in the order they are tried.

    Of two that share the only folders that are there, the first speaks for both.
    """
    bases = {root.joinpath(place).resolve(): root / place for place in ("", *places)}
    found = []
    for layout in layouts:
        for base in bases.values():
            missing = tuple(folder for folder in layout.folders if not (base / folder).is_dir())
            if len(missing) < len(layout.folders) and layout.is_like(base):
                found.append(Found(layout, base, missing))
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: len(one.missing)):
        others = [other.there for other in kept if other.base == one.base]
        if not one.missing or not any(set(one.there) <= set(there) for there in others):
            kept.append(one)
    return kept


def choose(
    title: str, layouts: Sequence[Layout], places: Sequence[str], root: Path | None, wanted: str
) -> list[Found]:
    """The complete layouts, the one to use first.

    Args:
        wanted: the name of a layout, or "auto" for the first that is complete.

    Raises:
        DataError: none is complete; says what was found and what was looked for.
    """
    if root is None:
        raise DataError(
            f"data root: none given for {title}; give --data-root DIR or set LT_BENCH_DATA"
        )
    candidates = [one for one in layouts if wanted in (AUTO, one.name)]
    found = search(candidates, places, root)
    complete = [one for one in found if not one.missing]
    if complete:
        return complete
    if found:
        raise DataError(
            f"data root: {one.describe(root)} but no {', '.join(f'{m}/' for m in one.missing)} "
            "beside it; unpack that part there"
            for one in found
        )
    looked_for = "; or ".join(
        f"{one.name} ({', '.join(f'{folder}/' for folder in one.folders)})" for one in candidates
    )
    raise DataError(
        f"data root: no {title} in {root}; looked for {looked_for}; there and in "
        f"{', '.join(f'{place}/' for place in places)}"
    )


# --- ImageNet: canonical train/<wnid>/<file> and val/<file>

IMAGENET_TRAIN = re.compile(r"train/(n\d{8})/n\d{8}_\d+\.JPEG")
IMAGENET_VAL = re.compile(r"val/(?:(n\d{8})/)?(ILSVRC2012_val_\d{8}\.JPEG)")


def imagenet_path(path: str) -> Canonical | None:
    if match := IMAGENET_TRAIN.fullmatch(path):
        return path, match[1]
    if match := IMAGENET_VAL.fullmatch(path):
        return f"val/{match[2]}", match[1]
    return None


def _val_in_class_folder(path: str, class_name: str) -> str:
    return f"val/{class_name}/{path[4:]}" if path.startswith("val/") else path


def _holds(folder: Path, name: str) -> bool:
    """Whether the first entries of a folder, if it is there, have names of this pattern."""
    entries = islice(folder.iterdir(), 20) if folder.is_dir() else ()
    return any(re.fullmatch(name, entry.name) for entry in entries)


def _has_val_folders(base: Path) -> bool:
    return _holds(base / "val", r"n\d{8}")


def _has_flat_val(base: Path) -> bool:
    # while val/ is not there, what it will be like is open
    return not _has_val_folders(base) and (
        _holds(base / "train", r"n\d{8}") or _holds(base / "val", r"ILSVRC2012_val_.*")
    )


IMAGENET = (
    Layout("class_folders", ("train", "val"), _val_in_class_folder, _has_val_folders),
    Layout("flat_val", ("train", "val"), lambda path, _: path, _has_flat_val),
)

# --- Places365: canonical train/<class>/<file> and val/<file>, nested classes joined with "-"

PLACES_TRAIN = re.compile(
    r"(?:train|data_(?:256|large)(?:_standard)?/[a-z])/([a-z_/-]+)/(\d{8}\.jpg)"
)
PLACES_VAL = re.compile(r"val(?:_256|_large)?/(?:([a-z_-]+)/)?(Places365_val_\d{8}\.jpg)")


def places_path(path: str) -> Canonical | None:
    if match := PLACES_TRAIN.fullmatch(path):
        name = match[1].replace("/", "-")
        return f"train/{name}/{match[2]}", name
    if match := PLACES_VAL.fullmatch(path):
        return f"val/{match[2]}", match[1]
    return None


def _places_official(train: str, val: str) -> Layout:
    """The form of the official archives: class folders by first letter, nested; val/ flat."""

    def locate(path: str, class_name: str) -> str:
        file = path.rpartition("/")[2]
        if path.startswith("val/"):
            return f"{val}/{file}"
        return f"{train}/{class_name[0]}/{class_name.replace('-', '/')}/{file}"

    return Layout(train, (train, val), locate)


PLACES = (
    Layout(
        "easy_format",
        ("train", "val"),
        _val_in_class_folder,
        lambda base: any(_holds(base / part, r"[a-z_-]+") for part in ("train", "val")),
    ),
    _places_official("data_256", "val_256"),
    _places_official("data_256_standard", "val_256"),
    _places_official("data_large", "val_large"),
    _places_official("data_large_standard", "val_large"),
)

# --- iNaturalist 2018: canonical train_val2018/<super category>/<label>/<file>

INAT = re.compile(r"train_val2018/([A-Z][a-z]+/\d+)/[0-9a-f]{32}\.jpg")


def inat_path(path: str) -> Canonical | None:
    match = INAT.fullmatch(path)
    return (path, match[1]) if match else None


INAT2018 = (
    Layout("train_val2018", ("train_val2018",), lambda path, _: path),
    # torchvision renames the folder when it unpacks; its own split is never used
    Layout("2018", ("2018",), lambda path, _: f"2018/{path.partition('/')[2]}"),
    # the data root is train_val2018/ itself
    Layout("inside_train_val2018", ("Plantae",), lambda path, _: path.partition("/")[2]),
)
