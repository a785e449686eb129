"""`data check`: what a dataset needs, what was found, and whether a run could start."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lt_bench.data import cifar, cifar_sources, lists
from lt_bench.data.bad_images import OnTried, unreadable
from lt_bench.data.benchmarks import BENCHMARKS, Benchmark, facts_of
from lt_bench.data.build import repeats
from lt_bench.data.cifar_sources import Family
from lt_bench.data.datasets import DATASETS
from lt_bench.data.images import unreadable_as
from lt_bench.data.layouts import search
from lt_bench.data.listed import hint
from lt_bench.data.types import ImageFiles, LongTailData, Report, Split
from lt_bench.errors import DataError
from lt_bench.metrics import shot_groups
from lt_bench.schema import Spec, bind, build, placed

PROBLEMS_SHOWN = 20


def check(
    spec: Spec,
    root: Path | None,
    *,
    decode: bool = False,
    workers: int = 1,
    on_tried: OnTried = lambda number: None,
) -> Report:
    """Find and verify a dataset as its recipe asks for it.

    Args:
        decode: try to read every image, with so many `workers`.
        on_tried: called with the number of images tried since the last call.

    Raises:
        ConfigError: there is no such dataset or option.
    """
    bind("data", spec, DATASETS)
    lines: list[str] = []
    try:
        decoded = partial(_decoded, workers=workers, on_tried=on_tried) if decode else None
        for line in _findings(spec, root, decoded):
            lines.append(line)
    except DataError as error:
        return Report((*lines, *(p for p in error.problems if p != hint(spec.name))), ok=False)
    return Report((*lines, "a run can start"), ok=True)


def _findings(
    spec: Spec, root: Path | None, decoded: Callable[[LongTailData], Iterator[str]] | None
) -> Iterator[str]:
    if spec.name in cifar.FAMILIES:
        if decoded:
            raise _read_anyway(spec.name)
        yield from _cifar(cifar.FAMILIES[spec.name], cifar.Choice(**spec.options), root)
        return
    if spec.name in BENCHMARKS:
        yield from _official(BENCHMARKS[spec.name], root)
    data: LongTailData = build("data", spec, DATASETS, root)
    yield f"found: {data.source}"
    yield from _splits(data)
    if spec.name not in BENCHMARKS:  # whose splits are verified one by one
        yield from _same_content(data.files)
    if decoded:
        yield from decoded(data)


def _official(benchmark: Benchmark, root: Path | None) -> Iterator[str]:
    """What is to be fetched, and how far that has come."""
    yield f"official source: {benchmark.title}, {benchmark.page}"
    for archive in benchmark.archives:
        md5 = f"md5 {archive.md5}" if archive.md5 else "no checksum published"
        yield f"  {archive.name}, {archive.size}, {md5}: {archive.serves}"
    facts = facts_of(benchmark)
    for split in benchmark.published:
        try:
            images = len(lists.read_list(benchmark.name, split, facts))
        except DataError:
            continue  # said with its remedy when the data is loaded
        yield f"list of {split}: {images:,} images, as published"
    if root is None:
        return
    for one in search(benchmark.layouts, benchmark.places, root):
        missing = ", ".join(f"{folder}/" for folder in one.missing)
        yield f"there: {one.describe(root)}" + (f"; not there: {missing}" if missing else "")
    for archive in benchmark.archives:
        for place in ("", *benchmark.places):
            if (root / place / archive.name).is_file():
                yield f"there: {Path(place) / archive.name}; unpack it unless that is done"


def _same_content(splits: Mapping[str, ImageFiles]) -> Iterator[str]:
    """Images that are in two splits under two names; only those of one length are compared."""
    of_length: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for name, split in splits.items():
        for i in range(len(split)):
            with unreadable_as(split.reader, i):
                of_length[split.reader.num_bytes(i)].append((name, i))
    shared: dict[tuple[str, str], list[str]] = defaultdict(list)
    for length, places in of_length.items():  # none: a row of a pack that was skipped
        if not length or len({name for name, _ in places}) < 2:
            continue
        seen: dict[bytes, tuple[str, int]] = {}
        for name, i in places:
            with unreadable_as(splits[name].reader, i):
                digest = hashlib.sha256(splits[name].reader.content(i)).digest()
            other, j = seen.setdefault(digest, (name, i))
            if other != name:
                both = f"{splits[other].listed[j]} and {splits[name].listed[i]}"
                shared[other, name].append(both)
    for (one, other), pairs in shared.items():
        yield (
            f"note: {len(pairs):,} images of {other} are also in {one} under another name, such as "
            f"{pairs[0]}"
        )


def _decoded(data: LongTailData, workers: int, on_tried: OnTried) -> Iterator[str]:
    problems: list[str] = []
    if not data.files:
        raise _read_anyway(data.name)
    for name, split in data.files.items():
        bad = unreadable(split.reader, workers=workers, on_tried=on_tried)
        problems += bad.values()
        yield f"{name}: all {len(split):,} images tried, {len(bad):,} not readable"
    if problems:
        hidden = len(problems) - PROBLEMS_SHOWN
        raise DataError(
            problems[:PROBLEMS_SHOWN]
            + ([f"{hidden:,} more that are not readable"] if hidden > 0 else [])
        )


def _read_anyway(name: str) -> DataError:
    return DataError(f"--decode: has no effect on {name}, whose images are all read anyway")


def _cifar(family: Family, choice: cifar.Choice, root: Path | None) -> Iterator[str]:
    with placed("data"):
        choice.counts(family)  # refuses an impossible profile before anything is read
    archive = family.archives[0]
    yield (
        f"official source: {archive.name}, {family.megabytes} MB, "
        f"https://www.cs.toronto.edu/~kriz/cifar.html, md5 {archive.md5}"
    )
    for i, found in enumerate(sources := cifar_sources.find(family, root)):
        yield f"found: {found.name}" + (", not used" if i else "")
    train, test = sources[0].read()
    facts = lists.published(family.name)
    if facts:
        yield from _against_lists(family, facts, train, test)
    else:
        yield (
            f"lists: not made yet for {family.name}, so only the number of images is checked; "
            f"python run.py data build {family.name} makes them"
        )
    yield from _splits(cifar.long_tailed(family, choice, sources[0], train, test))


def _against_lists(
    family: Family, facts: dict[str, Any], train: Split, test: Split
) -> Iterator[str]:
    held = {"train": lists.items_of(train), "test": lists.items_of(test)}
    for split, items in held.items():
        listed = set(lists.read_list(family.name, split, facts))
        yield (
            f"{split}: {len(listed & set(items)):,} of {len(listed):,} different listed images "
            f"there, {len(set(items) - listed):,} that are not listed"
        )
    found = repeats(held["train"], held["test"])
    known = "as in the original" if found == facts["repeats"] else "unlike the original"
    yield "repeats, {}: {}".format(
        known, ", ".join(f"{name.replace('_', ' ')} {number}" for name, number in found.items())
    )


def _splits(data: LongTailData) -> Iterator[str]:
    counts = data.class_counts
    groups = "/".join(str(len(classes)) for classes in shot_groups(counts).values())
    yield (
        f"{data.name}: {len(data.train):,} training images, {max(counts)}..{min(counts)} per "
        f"class, many/medium/few {groups}; "
        + (f"{len(data.val):,} validation images; " if data.val else "")
        + f"{len(data.test):,} test images"
    )
    for split, value in data.identity.items():
        yield f"identity of {split}: {value}"
