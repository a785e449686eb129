"""`data check`: what a dataset needs, what was found, and whether a run could start."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lt_bench.config import Spec, bind, build
from lt_bench.data import cifar, cifar_sources, lists
from lt_bench.data.build import repeats
from lt_bench.data.cifar_sources import Family
from lt_bench.data.datasets import DATASETS
from lt_bench.data.types import LongTailData, Report, Split
from lt_bench.errors import DataError
from lt_bench.metrics import shot_groups


def check(name: str, options: Mapping[str, Any], root: Path | None) -> Report:
    """Find and verify a dataset as its recipe asks for it.

    Raises:
        ConfigError: there is no such dataset or option.
    """
    spec = Spec(name, options)
    bind("data", spec, DATASETS)
    lines: list[str] = []
    try:
        for line in _findings(spec, root):
            lines.append(line)
    except DataError as error:
        return Report((*lines, *error.problems), ok=False)
    return Report((*lines, "a run can start"), ok=True)


def _findings(spec: Spec, root: Path | None) -> Iterator[str]:
    if spec.name in cifar.FAMILIES:
        yield from _cifar(cifar.FAMILIES[spec.name], cifar.Choice(**spec.options), root)
    else:
        data: LongTailData = build("data", spec, DATASETS, root)
        yield f"found: {data.source}"
        yield from _splits(data)


def _cifar(family: Family, choice: cifar.Choice, root: Path | None) -> Iterator[str]:
    yield (
        f"official source: {family.archive}, {family.megabytes} MB, "
        f"https://www.cs.toronto.edu/~kriz/cifar.html, md5 {family.archive_md5}"
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
        f"class, many/medium/few {groups}; {len(data.test):,} test images"
    )
    for split, value in data.identity.items():
        yield f"identity of {split}: {value}"
