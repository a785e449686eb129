"""Image lists: what a split holds, as (image, label) items, and how one is known to be right.

An image of a small dataset goes by the hash of its pixels, any other by its path.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lt_bench.config import ROOT
from lt_bench.data.types import Split
from lt_bench.errors import ConfigError, DataError

LISTS = ROOT / "data_lists"
Item = tuple[str, int]


def pixel_hashes(images_NCHW: Tensor) -> list[str]:
    """16 hex digits of the sha256 of each image's pixels, row by row, channels last."""
    pixels = images_NCHW.permute(0, 2, 3, 1).contiguous().numpy()
    return [hashlib.sha256(image).hexdigest()[:16] for image in pixels]


def items_of(split: Split) -> list[Item]:
    """The images of a split by pixel hash, with their labels."""
    return list(zip(pixel_hashes(split.images), split.labels.tolist(), strict=True))


def as_text(items: Iterable[Item]) -> str:
    """A line "image label" for each."""
    return "".join(f"{image} {label}\n" for image, label in items)


def identity(items: Iterable[Item]) -> str:
    """The sha256 of the sorted "image label" lines; repeated lines count."""
    return _sha256("".join(sorted(f"{image} {label}\n" for image, label in items)))


def ranking(items: Iterable[Item]) -> str:
    """The sha256 of the same lines as they stand, where their order matters."""
    return _sha256(as_text(items))


def ranked(items: Iterable[Item], *, num_classes: int, subset_seed: int) -> list[Item]:
    """Class by class, in the order in which a profile takes the images.

    Sorted by name, which is a pixel hash or a path, then shuffled by a generator seeded from
    (subset seed, label): the same images whatever file they came from, and a smaller factor's
    subset contains a larger one's.
    """
    of_class: list[list[str]] = [[] for _ in range(num_classes)]
    for image, label in items:
        of_class[label].append(image)
    for label, images in enumerate(of_class):
        images.sort()
        # the legacy generator, since its stream is frozen for good
        np.random.RandomState([subset_seed, label]).shuffle(images)
    return [(image, label) for label, images in enumerate(of_class) for image in images]


def by_label(items: Iterable[Item]) -> list[Item]:
    """The order of a test list: class by class, sorted by image."""
    return sorted(items, key=lambda item: (item[1], item[0]))


def counts_of(items: Iterable[Item], num_classes: int) -> list[int]:
    """Images of each class."""
    counts = Counter(label for _, label in items)
    return [counts[label] for label in range(num_classes)]


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


def divide(
    items: Sequence[Item], counts: Sequence[int], val_per_class: int | None, *, place: str
) -> dict[str, list[Item]]:
    """The training images of a ranking and, where they are wanted, validation images.

    Those are the last of each class, which a profile takes last, so that no other class than the
    fullest ones has fewer training images than without them.
    """
    if val_per_class is None:
        return {"train": first(items, counts, place=place)}
    held = counts_of(items, len(counts))
    left = [min(n, there - val_per_class) for n, there in zip(counts, held, strict=True)]
    if min(left) < 1:
        label = left.index(min(left))
        raise ConfigError(
            f"val_per_class: {val_per_class} leaves class {label}, of {held[label]} images, none "
            "to train on; lower it"
        )
    val = first(items[::-1], [val_per_class] * len(counts), place=place)
    return {"train": first(items, left, place=place), "val": by_label(val)}


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


def read_list(dataset: str, split: str, facts: Mapping[str, Any]) -> list[Item]:
    """The items of a list, which is the one that its JSON file knows: line by line where their
    order matters, and else by its identity, which needs a verified `data build`.
    """
    path, expected = LISTS / dataset / f"{split}.txt", facts[split]
    remedy = f"run python run.py data build {dataset}"
    if "ranking" in expected:
        remedy = f"restore it, or {remedy}"
    else:  # its authors' list, not one made here
        remedy += " --lists DIR (or --download)"
    if not path.is_file():
        raise DataError(f"{_shown(path)}: missing; {remedy}")
    known = expected.get("ranking") or expected["identity"]
    if known is None:
        raise DataError(f"{_shown(path)}: there, but not verified by data build; {remedy}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{_shown(path)}: not readable as a list: {error}; {remedy}") from error
    ordered = lines if "ranking" in expected else sorted(lines)
    if (found := _sha256("".join(f"{line}\n" for line in ordered))) != known:
        raise DataError(
            f"{_shown(path)}: {len(lines):,} lines, sha256 {found[:16]}; {expected['images']:,}, "
            f"{known[:16]} expected, so an image, a label or the order was changed; {remedy}"
        )
    return [(image, int(label)) for image, _, label in (line.rpartition(" ") for line in lines)]


def _shown(path: Path) -> str:
    return str("data_lists" / path.relative_to(LISTS))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
