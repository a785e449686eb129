"""Image lists: what a split holds, as (image, label) items, and how one is known to be right.

An image of a small dataset goes by the hash of its pixels, any other by its path.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt_bench.config import ROOT
from lt_bench.data.profiles import rank
from lt_bench.data.types import Split
from lt_bench.errors import DataError

LISTS = ROOT / "data_lists"
Item = tuple[str, int]


def pixel_hashes(images_NCHW: Tensor) -> list[str]:
    """16 hex digits of the sha256 of each image's pixels, row by row, channels last."""
    pixels = images_NCHW.permute(0, 2, 3, 1).contiguous().numpy()
    return [hashlib.sha256(image).hexdigest()[:16] for image in pixels]


def items_of(split: Split) -> list[Item]:
    """The images of a split by pixel hash, with their labels."""
    return list(zip(pixel_hashes(split.images), split.labels.tolist(), strict=True))


def identity(items: Iterable[Item]) -> str:
    """The sha256 of the sorted "image label" lines; repeated lines count."""
    lines = sorted(f"{image} {label}\n" for image, label in items)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def ranking(items: Iterable[Item]) -> str:
    """The sha256 of the same lines as they stand, where their order matters."""
    return hashlib.sha256("".join(f"{i} {label}\n" for i, label in items).encode()).hexdigest()


def ranked(items: Sequence[Item], *, num_classes: int, subset_seed: int) -> list[Item]:
    """Class by class, in the order in which a profile takes the images."""
    of_class: list[list[str]] = [[] for _ in range(num_classes)]
    for image, label in items:
        of_class[label].append(image)
    return [
        (images[i], label)
        for label, images in enumerate(of_class)
        for i in rank(images, subset_seed=subset_seed, label=label)
    ]


def by_label(items: Iterable[Item]) -> list[Item]:
    """The order of a test list: class by class, sorted by image."""
    return sorted(items, key=lambda item: (item[1], item[0]))


def first(items: Sequence[Item], counts: Sequence[int], *, place: str) -> list[Item]:
    """The first `counts[label]` images of each class of a ranking."""
    taken: Counter[int] = Counter()
    chosen = []
    for image, label in items:
        if taken[label] < counts[label]:
            taken[label] += 1
            chosen.append((image, label))
    for label, count in enumerate(counts):
        if taken[label] < count:
            raise DataError(
                f"{place}: class {label} has {taken[label]} images, {count} needed; "
                "lower the profile or complete the images"
            )
    return chosen


def pick(held: Split, items: Sequence[Item], *, place: str) -> Split:
    """The images of `items`, in that order, out of the images at hand."""
    held_items = items_of(held)
    position = {item: i for i, item in enumerate(held_items)}
    missing = [item for item in items if item not in position]
    if missing:
        image, label = missing[0]
        there = [held_label for held_image, held_label in held_items if held_image == image]
        raise DataError(
            f"{place}: {len(missing):,} of {len(items):,} listed images not found, the first "
            f"with pixel hash {image} and label {label}"
            + (f" (there with label {there[0]})" if there else "")
            + "; take the official data unchanged"
        )
    at = torch.tensor([position[item] for item in items])
    return Split(held.images[at], held.labels[at])


def published(dataset: str) -> dict[str, Any] | None:
    """What `data_lists/<dataset>.json` says, or None where the lists are not made yet."""
    path = LISTS / f"{dataset}.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except ValueError as error:
        raise DataError(f"{_shown(path)}: not readable as JSON: {error}; restore it") from error


def read_list(dataset: str, split: str, facts: dict[str, Any]) -> list[Item]:
    """The items of a committed list, verified against the facts of its JSON file."""
    path = LISTS / dataset / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{_shown(path)}: missing; restore it, or run {_remedy(dataset)}")
    items = parse(path, num_classes=len(facts["class_names"]))
    expected = facts[split]
    if len(items) != expected["images"]:
        raise DataError(
            f"{_shown(path)}: {len(items):,} lines, {expected['images']:,} expected; "
            f"restore it, or run {_remedy(dataset)}"
        )
    for what, found in (("identity", identity(items)), ("ranking", ranking(items))):
        if found != expected[what]:
            raise DataError(
                f"{_shown(path)}: {what} {found[:16]}, {expected[what][:16]} expected, so an "
                f"image, a label or the order was changed; restore it, or run {_remedy(dataset)}"
            )
    return items


def profile_name(imbalance_type: str, imbalance_factor: float) -> str:
    return f"{imbalance_type}-{imbalance_factor:g}"


def confirm(
    dataset: str,
    facts: dict[str, Any],
    imbalance_type: str,
    imbalance_factor: float,
    found: dict[str, str],
) -> None:
    """Refuse a split whose identity is not the published one of its profile."""
    profile = profile_name(imbalance_type, imbalance_factor)
    if profile not in facts["profiles"]:
        return
    expected = {
        "train": facts["profiles"][profile]["identity"],
        "test": facts["test"]["identity"],
    }
    for split, value in expected.items():
        if found[split] != value:
            raise DataError(
                f"{dataset} {profile} {split}: identity {found[split][:16]}, {value[:16]} "
                f"published in data_lists/{dataset}.json; restore that file, or run "
                f"{_remedy(dataset)}"
            )


def training_order(
    dataset: str,
    facts: dict[str, Any] | None,
    held: Sequence[Item],
    *,
    num_classes: int,
    subset_seed: int,
) -> list[Item]:
    """The order in which profiles take the images: the committed one, or another seed's.

    Args:
        held: the images at hand, which stand in where no list is committed yet.
    """
    if facts and subset_seed == 0:
        return read_list(dataset, "train", facts)
    pool = read_list(dataset, "train", facts) if facts else held
    return ranked(pool, num_classes=num_classes, subset_seed=subset_seed)


def parse(path: Path, *, num_classes: int) -> list[Item]:
    """The "image label" lines of a list file; line ends and a last newline do not matter."""
    items = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{_shown(path)}: not readable as a list: {error}; restore it") from error
    for number, line in enumerate(lines, start=1):
        image, _, label = line.strip().rpartition(" ")
        if not image or not (label.isascii() and label.isdecimal()):
            raise DataError(f"{_shown(path)}:{number}: {line!r} is not an image and its label")
        if len(label) > len(str(num_classes)) or int(label) >= num_classes:
            raise DataError(
                f"{_shown(path)}:{number}: label {label}, below {num_classes} expected; "
                "labels count from 0"
            )
        items.append((image, int(label)))
    return items


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _remedy(dataset: str) -> str:
    return f"python run.py data build {dataset}"
