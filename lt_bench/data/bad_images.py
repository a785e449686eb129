"""Images that cannot be read: found by trying every one, and left out on request."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from lt_bench.data.images import ImageReader, unreadable_as
from lt_bench.data.lists import identity
from lt_bench.data.types import LongTailData
from lt_bench.errors import DataError

PORTION = 64
NAMES_SHOWN = 5
LEFT_OUT = " left out: "  # as the source of such data says

OnTried = Callable[[int], object]


def unreadable(
    reader: ImageReader, *, workers: int, on_tried: OnTried = lambda number: None
) -> dict[int, str]:
    """Decode every image; the positions of those that cannot be, with what is wrong.

    Args:
        workers: threads; decoding runs outside Python's lock.
        on_tried: called with the number of images tried since the last call.
    """

    def try_portion(first: int) -> dict[int, str]:
        problems = {}
        for index in range(first, min(first + PORTION, len(reader))):
            try:
                with unreadable_as(reader, index):
                    reader.open(index).pixels()
            except DataError as error:
                problems[index] = str(error)
        return problems

    found: dict[int, str] = {}
    with ThreadPoolExecutor(max(1, workers)) as pool:
        starts = range(0, len(reader), PORTION)
        for start, problems in zip(starts, pool.map(try_portion, starts), strict=True):
            found |= problems
            on_tried(min(PORTION, len(reader) - start))
    return found


def without_unreadable(data: LongTailData, *, workers: int) -> LongTailData:
    """The data without its unreadable images: counts, identities and source say what is left.

    Raises:
        DataError: a class loses its last training image.
    """
    kept: dict[str, Any] = {}
    said = ""
    for name, split in data.files.items():
        if bad := unreadable(split.reader, workers=workers):
            kept[name] = split.only([i for i in range(len(split)) if i not in bad])
            names = [split.listed[i] for i in list(bad)[:NAMES_SHOWN]]
            more = ", ..." if len(bad) > NAMES_SHOWN else ""
            said += f"; {len(bad):,} unreadable of {name}{LEFT_OUT}{', '.join(names)}{more}"
    return _with(data, kept, said) if kept else data


def _with(data: LongTailData, kept: dict[str, Any], said: str) -> LongTailData:
    counts = data.class_counts
    for name, split in kept.items():
        if not len(split):
            raise DataError(f"{data.name}: no image of {name} is readable; replace them")
    if "train" in kept:
        counts = torch.bincount(kept["train"].labels, minlength=data.num_classes).tolist()
        if 0 in counts:
            raise DataError(
                f"{data.name}: no image of class {data.class_names[counts.index(0)]} is readable; "
                "replace them"
            )
    identities = {name: identity(split.items) for name, split in kept.items()}
    return replace(
        data,
        **kept,
        class_counts=counts,
        identity={**data.identity, **identities},
        source=data.source + said,
    )
