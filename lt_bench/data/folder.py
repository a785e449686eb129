"""folder: anyone's own images, as they are or made long-tailed."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lt_bench.data.benchmarks import IMAGENET_MEAN, IMAGENET_STD, shared_images
from lt_bench.data.image_list import MAX_DIGITS, parse, read_text
from lt_bench.data.images import FolderReader, ImageReader, is_image_name
from lt_bench.data.listed import PACK, Decode, assemble, image_files, missing_files
from lt_bench.data.lists import Item, by_label, counts_of, first, ranked
from lt_bench.data.pack import pack_path, read_pack
from lt_bench.data.profiles import SubsetSeed, largest_counts
from lt_bench.data.types import ImageFiles, LongTailData
from lt_bench.errors import ConfigError, DataError
from lt_bench.schema import Count, ImbalanceFactor

SPLITS = ("train", "val", "test")
FOLDERS_SHOWN = 3

# a test split that is carved out takes this share of the smallest class, within these limits
TEST_SHARE, MOST_TEST_PER_CLASS = 5, 50


@dataclass(frozen=True)
class Held:
    """What a folder holds: the items of each split, and where they lie below it.

    The paths of `items` are composed Unicode, so that a folder keeps its identity from one file
    system to another. `reader` opens the images of some items.
    """

    class_names: Sequence[str]
    items: Mapping[str, Sequence[Item]]
    source: str
    reader: Callable[[Sequence[Item]], ImageReader]


def folder(
    root: Path | None,
    *,
    path: str = "",
    layout: Literal["auto", "folders", "lists", "pack"] = "auto",
    profile: Literal["none", "exponential", "step", "pareto"] = "none",
    imbalance_factor: ImbalanceFactor | None = None,
    test_per_class: Count | None = None,
    val_per_class: Count | None = None,
    subset_seed: SubsetSeed | None = None,
    image_size: Count = 224,
    decode: Decode = "exact",
) -> LongTailData:
    """The images of `train/<class>/`, `val/`, `test/`, or of the list files of the same names.

    Args:
        path: a folder of the data root; by default the root itself.
        profile: how many images of each class are kept; the fullest class keeps the most.
        test_per_class: without a test split, so many images of each class are held back; by
            default a fifth of the smallest class, at most 50.
        val_per_class: without a validation split, so many images of each class are held back from
            training to choose on; by default none.
        subset_seed: which images are held back and kept; by default 0.
    """
    if (profile == "none") != (imbalance_factor is None):
        raise ConfigError(
            "imbalance_factor: has no effect on profile 'none'; write profile = 'exponential'"
            if profile == "none"
            else f"imbalance_factor: missing; profile {profile!r} needs it, for example 100"
        )
    base = _base(root, path)
    held = read_folder(base, layout, image_size, decode)
    items, said = _with_held_back(held, test_per_class, val_per_class, subset_seed or 0)
    if subset_seed is not None and profile == "none" and items.keys() == held.items.keys():
        raise ConfigError(
            f"subset_seed: {subset_seed} has no effect, since all images are kept where they are; "
            "leave it out"
        )
    if profile != "none" and imbalance_factor is not None:
        available = counts_of(items["train"], len(held.class_names))
        counts = largest_counts(available, profile, imbalance_factor)
        items["train"] = first(items["train"], counts, place=str(base))
    items = {split: by_label(listed) for split, listed in items.items()}
    return assemble(
        items,
        {split: held.reader(listed) for split, listed in items.items()},
        name="folder",
        class_names=held.class_names,
        image_size=image_size,
        decode=decode,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        source=held.source + said,
    )


def all_images(
    root: Path | None,
    *,
    path: str = "",
    layout: str = "auto",
    image_size: int = 224,
    **_choices: Any,
) -> tuple[Held, dict[str, ImageFiles]]:
    """What a folder holds, before anything is held back or left out, whatever is chosen of it."""
    held = read_folder(_base(root, path), layout, image_size, "exact")
    readers = {split: held.reader(listed) for split, listed in held.items.items()}
    return held, image_files(held.items, readers, image_size)


def read_folder(base: Path, layout: str, image_size: int, decode: Decode) -> Held:
    """The images below a folder, or in its pack, without opening any.

    Args:
        image_size: which a pack must serve, as `decode` must serve it.

    Raises:
        DataError: there is no such layout, a class without training images, or an unknown class.
    """
    lists_there = [split for split in SPLITS if (base / f"{split}.txt").is_file()]
    if layout == PACK:
        pack = read_pack(pack_path(base, "folder"), image_size, decode)
        held = Held(pack.class_names, pack.items, pack.source, pack.reader)
    elif layout == "lists" or (layout == "auto" and not (base / "train").is_dir() and lists_there):
        held = _read_lists(base)
    else:
        held = _read_class_folders(base)
    if not held.items["train"]:
        raise DataError(f"{base}: train holds no image; add some")
    counts = counts_of(held.items["train"], len(held.class_names))
    if 0 in counts:
        raise DataError(
            f"{base}: class {held.class_names[counts.index(0)]!r} has no training images; add some "
            "or remove the class"
        )
    if len(counts) < 2:
        raise DataError(f"{base}: only one class; put the images of each class into a folder")
    if empty := [split for split, listed in held.items.items() if not listed]:
        raise DataError(
            f"{base}: {empty[0]} holds no images of a class; sort them as in train, or remove it"
        )
    return held


def _base(root: Path | None, path: str) -> Path:
    if root is None:
        raise DataError("data root: none given; give --data-root DIR, the folder of your images")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ConfigError(f"path: {path!r} leaves the data root; write a folder inside it")
    if not (root / path).is_dir():
        raise DataError(f"{root / path}: no such folder; give --data-root DIR or data.path")
    return root / path


def _read_class_folders(base: Path) -> Held:
    """`train/<class>/<image>`, or `<class>/<image>` where there is no train/."""
    inner = _split_folders(base)
    names = _class_folders(inner["train"])
    if not names:
        raise DataError(
            f"{base}: neither train/<class>/ folders nor train.txt; sort your images into a folder "
            "for each class"
        )
    label_of = {name: label for label, name in enumerate(sorted(set(map(_composed, names))))}
    items: dict[str, list[Item]] = {}
    path_of: dict[str, str] = {}
    others, beside = [], []
    for split, folder_of_split in inner.items():
        items[split] = []
        beside += [
            file.relative_to(base).as_posix()
            for file in sorted(folder_of_split.iterdir())
            if is_image_name(file) and file.is_file() and not file.name.startswith(".")
        ]
        for class_folder in _class_folders(folder_of_split):
            if (label := label_of.get(_composed(class_folder))) is None:
                raise DataError(
                    f"{folder_of_split / class_folder}: train has no class of this name; known: "
                    f"{', '.join(sorted(label_of))}"
                )
            for file in sorted((folder_of_split / class_folder).iterdir()):
                path = file.relative_to(base).as_posix()
                if file.name.startswith("."):
                    continue  # of the system, as ._1.jpg of macOS
                if file.is_dir() and any(map(is_image_name, file.rglob("*"))):
                    raise DataError(
                        f"{file}: a folder of images inside class {class_folder!r}; move them up, "
                        "or list them in train.txt (data.layout=lists)"
                    )
                if not is_image_name(file) or file.is_dir():
                    others.append(path)
                elif (name := _composed(path)) in path_of:
                    raise DataError(f"{base / path}: there twice, composed and not; rename one")
                else:
                    items[split].append((name, label))
                    path_of[name] = path
    source = _source_of_folders(base, inner, beside, others)
    return Held(list(label_of), items, source, partial(_reader, base, path_of))


def _split_folders(base: Path) -> dict[str, Path]:
    """Where the class folders of each split lie."""
    inner = {split: base / split for split in SPLITS if (base / split).is_dir()}
    if "train" in inner:
        return inner
    if inner:
        raise DataError(
            f"{base}: {next(iter(inner))}/ but no train/ beside it; put the class folders of "
            "the training images into train/"
        )
    return {"train": base}


def _class_folders(folder_of_split: Path) -> list[str]:
    return sorted(
        entry.name
        for entry in folder_of_split.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _source_of_folders(
    base: Path, inner: Mapping[str, Path], beside: Sequence[str], others: Sequence[str]
) -> str:
    """What was read, and what lies there and was not.

    Args:
        beside: images that are in no class folder.
        others: files of class folders that are no images.
    """
    source = f"folders in {base.name}/: {', '.join(f'{split}/' for split in inner)}"
    if unused := [f"{split}.txt" for split in SPLITS if (base / f"{split}.txt").is_file()]:
        source += f"; {', '.join(unused)} not used (data.layout=lists would)"
    if base not in inner.values() and (idle := [n for n in _class_folders(base) if n not in inner]):
        shown = ", ".join(f"{name}/" for name in idle[:FOLDERS_SHOWN])
        source += f"; {shown}{', ...' if len(idle) > FOLDERS_SHOWN else ''} not used"
    if beside:
        source += f"; {len(beside):,} images in no class folder left out, such as {beside[0]}"
    if others:
        source += f"; {len(others):,} that are no images left out, such as {others[0]}"
    return source


def _read_lists(base: Path) -> Held:
    """train.txt, val.txt and test.txt with "path label" lines, classes.txt with a name a line."""
    texts = {
        split: read_text(base / f"{split}.txt")
        for split in SPLITS
        if (base / f"{split}.txt").is_file()
    }
    if "train" not in texts:
        raise DataError(f"{base}: no train.txt; write a line 'path label' for each image")
    if (base / "classes.txt").is_file():
        class_names = [_composed(name) for name in read_text(base / "classes.txt").splitlines()]
    else:
        labels = [line.strip().rpartition(" ")[2] for line in texts["train"].splitlines()]
        # more digits are a slip, and would ask for a name for each class up to there
        numbers = [int(n) for n in labels if n.isdecimal() and len(n) <= MAX_DIGITS]
        if (lowest := min(numbers, default=0)) > 0:
            raise DataError(
                f"{base / 'train.txt'}: the lowest label is {lowest}; labels count from 0"
            )
        class_names = [str(label) for label in range(max(numbers, default=-1) + 1)]
    items = {
        split: parse(
            text,
            place=str(base / f"{split}.txt"),
            class_names=class_names,
            normalise=lambda path: (PurePosixPath(path).as_posix(), None),
        )
        for split, text in texts.items()
    }
    problems = [
        problem
        for split, listed in items.items()
        for problem in missing_files(
            split, base, [path for path, _ in listed], "correct the list, or put them there"
        )
    ]
    problems += shared_images(items, "list each in one of them")
    if problems:
        raise DataError(problems)
    path_of = {path: path for listed in items.values() for path, _ in listed}
    source = f"lists in {base.name}/: {', '.join(f'{split}.txt' for split in texts)}"
    return Held(class_names, items, source, partial(_reader, base, path_of))


def _reader(base: Path, path_of: Mapping[str, str], listed: Sequence[Item]) -> FolderReader:
    return FolderReader(base, [path_of[name] for name, _ in listed], is_turned=True)


def _with_held_back(
    held: Held, test_per_class: int | None, val_per_class: int | None, subset_seed: int
) -> tuple[dict[str, list[Item]], str]:
    """All splits, the training images in the order in which a profile takes them; what was done."""
    items = {split: list(listed) for split, listed in held.items.items()}
    num_classes = len(held.class_names)
    items["train"] = ranked(items["train"], num_classes=num_classes, subset_seed=subset_seed)
    said = ""
    for split, per_class in (("test", test_per_class), ("val", val_per_class)):
        if split in held.items and per_class is not None:
            raise ConfigError(
                f"{split}_per_class: {per_class} has no effect, since there is a {split} split; "
                "leave it out"
            )
        if split == "test" and per_class is None:
            smallest = min(counts_of(items["train"], num_classes))
            per_class = max(1, min(smallest // TEST_SHARE, MOST_TEST_PER_CLASS))
        if split not in held.items and per_class is not None:
            _hold_back(items, split, per_class, held.class_names)
            said += f"; {split} split of {per_class} per class held back from train"
    return items, said


def _hold_back(
    items: dict[str, list[Item]], split: str, per_class: int, class_names: Sequence[str]
) -> None:
    """Make a balanced split of the first training images of each class."""
    pool = items["train"]
    for name, there in zip(class_names, counts_of(pool, len(class_names)), strict=True):
        if there <= per_class:
            raise ConfigError(
                f"{split}_per_class: class {name!r} has {there} images, {per_class} would be held "
                f"back and none left to train on; lower it, add images, or add a {split}/ folder"
            )
    items[split] = by_label(first(pool, [per_class] * len(class_names), place=split))
    held_back = set(items[split])
    items["train"] = [item for item in pool if item not in held_back]


def _composed(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{name}: its name is not UTF-8; rename it") from error
    return unicodedata.normalize("NFC", name)
