"""Images that cannot be read: found by trying every one, and left out on request."""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from lt_bench.data.images import CentreWindow, Reader, pixels
from lt_bench.data.lists import identity
from lt_bench.data.types import ImageFiles, LongTailData
from lt_bench.errors import DataError

PORTION = 64
NAMES_SHOWN = 5

OnTried = Callable[[int], object]


def unreadable(
    reader: Reader, *, workers: int, on_tried: OnTried = lambda number: None
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
                draw = np.random.default_rng(0)  # the window does not use it
                pixels(reader, index, CentreWindow(), size=8, draw=draw)
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


def without_unreadable(
    data: LongTailData, *, workers: int, on_tried: OnTried = lambda number: None
) -> LongTailData:
    """The data without its unreadable images: counts, identities and source say what is left.

    Raises:
        DataError: a class loses its last training image.
    """
    kept: dict[str, ImageFiles] = {}
    said = ""
    for name, split in data.files.items():
        bad = unreadable(split.reader, workers=workers, on_tried=on_tried)
        if bad:
            kept[name] = split.only([i for i in range(len(split)) if i not in bad])
            names = [split.listed[i] for i in list(bad)[:NAMES_SHOWN]]
            more = ", ..." if len(bad) > NAMES_SHOWN else ""
            said += f"; {len(bad):,} unreadable of {name} left out: {', '.join(names)}{more}"
    return _with(data, kept, said) if kept else data


def _with(data: LongTailData, kept: Mapping[str, ImageFiles], said: str) -> LongTailData:
    counts = data.class_counts
    for name, split in kept.items():
        if not len(split):
            raise DataError(f"{data.name}: no image of {name} is readable; replace them")
    if "train" in kept:
        found = Counter(kept["train"].labels.tolist())
        counts = [found[label] for label in range(data.num_classes)]
        if 0 in counts:
            raise DataError(
                f"{data.name}: no image of class {data.class_names[counts.index(0)]} is readable; "
                "replace them"
            )
    identities = {
        name: identity(zip(split.listed, split.labels.tolist(), strict=True))
        for name, split in kept.items()
    }
    return replace(
        data,
        train=kept.get("train", data.train),
        val=kept.get("val", data.val),
        test=kept.get("test", data.test),
        class_counts=counts,
        identity={**data.identity, **identities},
        source=data.source + said,
    )
