"""imagenet_lt, places_lt and inat2018: published lists over images on disk, verified."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from lt_bench.config import Count
from lt_bench.data import layouts
from lt_bench.data.benchmarks import (
    IMAGENET_LT,
    INAT_2018,
    PLACES_LT,
    Benchmark,
    facts_of,
    read_split,
    shared_images,
)
from lt_bench.data.images import FolderReader, Reader
from lt_bench.data.layouts import Found
from lt_bench.data.lists import Item, identity
from lt_bench.data.pack import pack_path, read_pack
from lt_bench.data.types import ImageFiles, LongTailData
from lt_bench.errors import DataError

Decode = Literal["exact", "scaled"]
PACK = "pack"
MISSING_SHOWN = 3


def imagenet_lt(
    root: Path | None,
    *,
    layout: Literal["auto", "class_folders", "flat_val", "pack"] = "auto",
    image_size: Count = 224,
    decode: Decode = "exact",
) -> LongTailData:
    """ImageNet-LT (Liu et al., 2019): 1,000 classes, 1,280 to 5 images; 50 test images each."""
    return load(IMAGENET_LT, root, layout=layout, image_size=image_size, decode=decode)


def places_lt(
    root: Path | None,
    *,
    layout: Literal[
        "auto",
        "easy_format",
        "data_256",
        "data_256_standard",
        "data_large",
        "data_large_standard",
        "pack",
    ] = "auto",
    image_size: Count = 224,
    decode: Decode = "exact",
) -> LongTailData:
    """Places-LT (Liu et al., 2019): 365 scenes, 4,980 to 5 images; 100 test images each."""
    return load(PLACES_LT, root, layout=layout, image_size=image_size, decode=decode)


def inat2018(
    root: Path | None,
    *,
    layout: Literal["auto", "train_val2018", "2018", "inside_train_val2018", "pack"] = "auto",
    image_size: Count = 224,
    decode: Decode = "exact",
) -> LongTailData:
    """iNaturalist 2018: 8,142 species as nature has them; 3 test images each, and no other."""
    return load(INAT_2018, root, layout=layout, image_size=image_size, decode=decode)


def load(
    benchmark: Benchmark, root: Path | None, *, layout: str, image_size: int, decode: Decode
) -> LongTailData:
    """The benchmark as published, from the first layout that is complete or from its pack.

    Raises:
        DataError: everything that is missing or wrong, a line each.
    """
    facts = facts_of(benchmark)
    items, problems = _lists(benchmark, facts)
    try:
        if layout == PACK:
            readers, source = _packed(benchmark, root, items)
        else:
            readers, source = _on_disk(benchmark, root, layout, items, facts["class_names"])
    except DataError as error:
        problems += error.problems
    if problems:
        raise DataError([*problems, hint(benchmark.name)])
    splits = {
        split: ImageFiles(
            readers[split],
            [path for path, _ in listed],
            torch.tensor([label for _, label in listed]),
            image_size,
            decode == "scaled",
        )
        for split, listed in items.items()
    }
    counts = Counter(label for _, label in items["train"])
    return LongTailData(
        name=benchmark.name,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        class_names=facts["class_names"],
        class_counts=[counts[label] for label in range(len(facts["class_names"]))],
        identity={split: identity(listed) for split, listed in items.items()},
        mean=benchmark.mean,
        std=benchmark.std,
        source=source,
    )


def _packed(
    benchmark: Benchmark, root: Path | None, items: Mapping[str, Sequence[Item]]
) -> tuple[Mapping[str, Reader], str]:
    """A reader for each split out of the pack, and what the pack says of itself."""
    if root is None:
        raise DataError("data root: none given; give --data-root DIR, which holds the pack")
    pack = read_pack(pack_path(root, benchmark.name))
    return {split: pack.reader(listed) for split, listed in items.items()}, pack.source


def _on_disk(
    benchmark: Benchmark,
    root: Path | None,
    layout: str,
    items: Mapping[str, Sequence[Item]],
    class_names: Sequence[str],
) -> tuple[Mapping[str, Reader], str]:
    """A reader for each split out of the first complete layout, and where that is."""
    found, *others = layouts.choose(
        benchmark.title, benchmark.layouts, benchmark.places, root, layout
    )
    assert root is not None  # or nothing would have been found
    paths = located(items, found, class_names)
    if problems := [p for split in paths for p in missing_files(split, found.base, paths[split])]:
        raise DataError(problems)
    source = found.describe(root) + "".join(
        f"; also there, not used: {other.describe(root)}" for other in others
    )
    return {split: FolderReader(found.base, paths[split]) for split in paths}, source


def located(
    items: Mapping[str, Sequence[Item]], found: Found, class_names: Sequence[str]
) -> dict[str, list[str]]:
    """Where the images of each split lie below the base of a layout."""
    return {
        split: [found.layout.locate(path, class_names[label]) for path, label in listed]
        for split, listed in items.items()
    }


def missing_files(split: str, base: Path, paths: Sequence[str]) -> list[str]:
    """A problem that counts the listed files that are not there and names the first; or none."""
    missing = [path for path in paths if not os.path.exists(os.path.join(base, path))]  # noqa: PTH110, PTH118
    if not missing:
        return []
    shown = ", ".join(missing[:MISSING_SHOWN]) + (", ..." if len(missing) > MISSING_SHOWN else "")
    return [
        f"{split}: {len(missing):,} of {len(paths):,} listed images are not in {base}: {shown}; "
        "unpack the official archive there once more"
    ]


def hint(name: str) -> str:
    return f"to see what is needed: python run.py data check {name}"


def _lists(
    benchmark: Benchmark, facts: Mapping[str, Any]
) -> tuple[dict[str, list[Item]], list[str]]:
    """The verified lists by split, and what is wrong with the others."""
    items: dict[str, list[Item]] = {}
    problems: list[str] = []
    for split in benchmark.published:
        try:
            items[split] = read_split(benchmark, split, facts)
        except DataError as error:
            problems += error.problems
    return items, problems + shared_images(items)
