"""imagenet_lt, places_lt and inat2018: published lists over images on disk, verified."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lt_bench.data import layouts
from lt_bench.data.benchmarks import (
    IMAGENET_LT,
    INAT_2018,
    PLACES_LT,
    Benchmark,
    facts_of,
    shared_images,
)
from lt_bench.data.images import FolderReader, ImageReader
from lt_bench.data.layouts import Found
from lt_bench.data.lists import Item, by_label, counts_of, first, identity, ranked, read_list
from lt_bench.data.pack import pack_path, read_pack
from lt_bench.data.profiles import SubsetSeed, largest_counts
from lt_bench.data.types import ImageFiles, LongTailData
from lt_bench.errors import ConfigError, DataError
from lt_bench.schema import Count, ImbalanceFactor

Decode = Literal["exact", "scaled"]
ListName = Literal["published", "generated"]
GeneratedProfile = Literal["pareto", "exponential"]
PACK = "pack"
MISSING_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """A list of one's own: how many images of each class, and which."""

    profile: GeneratedProfile
    imbalance_factor: float
    subset_seed: int


def imagenet_lt(
    root: Path | None,
    *,
    list: ListName = "published",
    profile: GeneratedProfile | None = None,
    imbalance_factor: ImbalanceFactor | None = None,
    subset_seed: SubsetSeed | None = None,
    layout: Literal["auto", "class_folders", "flat_val", "pack"] = "auto",
    image_size: Count = 224,
    decode: Decode = "exact",
) -> LongTailData:
    """ImageNet-LT (Liu et al., 2019): 1,000 classes, 1,280 to 5 images; 50 test images each.

    Args:
        list: "generated" takes a sample of one's own from all training images, under another name.
        profile: of a generated list; by default "pareto".
        imbalance_factor: of a generated list; by default 256, that of the published one.
        subset_seed: of a generated list; by default 0.
    """
    sample = _sample(list, profile, imbalance_factor, subset_seed, factor_published=256)
    return load(IMAGENET_LT, root, sample, layout=layout, image_size=image_size, decode=decode)


def places_lt(
    root: Path | None,
    *,
    list: ListName = "published",
    profile: GeneratedProfile | None = None,
    imbalance_factor: ImbalanceFactor | None = None,
    subset_seed: SubsetSeed | None = None,
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
    """Places-LT (Liu et al., 2019): 365 scenes, 4,980 to 5 images; 100 test images each.

    Args:
        list: "generated" takes a sample of one's own from all training images, under another name.
        profile: of a generated list; by default "pareto".
        imbalance_factor: of a generated list; by default 996, that of the published one.
        subset_seed: of a generated list; by default 0.
    """
    sample = _sample(list, profile, imbalance_factor, subset_seed, factor_published=996)
    return load(PLACES_LT, root, sample, layout=layout, image_size=image_size, decode=decode)


def inat2018(
    root: Path | None,
    *,
    layout: Literal["auto", "train_val2018", "2018", "inside_train_val2018", "pack"] = "auto",
    image_size: Count = 224,
    decode: Decode = "exact",
) -> LongTailData:
    """iNaturalist 2018: 8,142 species as nature has them; 3 test images each, and no other."""
    return load(INAT_2018, root, None, layout=layout, image_size=image_size, decode=decode)


def load(
    benchmark: Benchmark,
    root: Path | None,
    sample: Sample | None,
    *,
    layout: str,
    image_size: int,
    decode: Decode,
) -> LongTailData:
    """The benchmark as published, from the first layout that is complete or from its pack.

    Args:
        sample: take the training images from all there are instead of from the published list.

    Raises:
        DataError: everything that is missing or wrong, a line each.
    """
    if sample and layout == PACK:
        raise ConfigError("layout: a pack holds no more than a list; write 'auto' to generate one")
    facts = facts_of(benchmark)
    items, problems = _lists(benchmark, facts, without_train=sample is not None)
    try:
        if layout == PACK:
            readers, source = _packed(benchmark, root, items, image_size, decode)
        else:
            found, source = _find(benchmark, root, layout)
            if sample and not problems:
                items["train"] = _generate(benchmark, sample, found, items, facts["class_names"])
            readers = _readers(found, items, facts["class_names"])
    except DataError as error:
        problems += error.problems
    if problems:
        raise DataError([*problems, hint(benchmark.name)])
    return assemble(
        items,
        readers,
        name=benchmark.name if sample is None else f"{benchmark.name}_generated",
        class_names=facts["class_names"],
        image_size=image_size,
        decode=decode,
        mean=benchmark.mean,
        std=benchmark.std,
        source=source,
    )


def assemble(
    items: Mapping[str, Sequence[Item]],
    readers: Mapping[str, ImageReader],
    *,
    image_size: int,
    decode: Decode,
    class_names: Sequence[str],
    **rest: Any,
) -> LongTailData:
    """The data whose splits hold these items, opened by these readers."""
    splits = image_files(items, readers, image_size, decode)
    return LongTailData(
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        class_names=class_names,
        class_counts=counts_of(items["train"], len(class_names)),
        identity={split: identity(listed) for split, listed in items.items()},
        **rest,
    )


def image_files(
    items: Mapping[str, Sequence[Item]],
    readers: Mapping[str, ImageReader],
    image_size: int,
    decode: Decode = "exact",
) -> dict[str, ImageFiles]:
    """The images of each split."""
    return {
        split: ImageFiles(
            readers[split],
            [path for path, _ in listed],
            torch.tensor([label for _, label in listed]),
            image_size,
            decode == "scaled",
        )
        for split, listed in items.items()
    }


def _packed(
    benchmark: Benchmark,
    root: Path | None,
    items: Mapping[str, Sequence[Item]],
    image_size: int,
    decode: Decode,
) -> tuple[Mapping[str, ImageReader], str]:
    """A reader for each split out of the pack, and what the pack says of itself."""
    if root is None:
        raise DataError("data root: none given; give --data-root DIR, which holds the pack")
    pack = read_pack(pack_path(root, benchmark.name), image_size, decode)
    return {split: pack.reader(listed) for split, listed in items.items()}, pack.source


def _find(benchmark: Benchmark, root: Path | None, layout: str) -> tuple[Found, str]:
    """The first complete layout, and in words where it and others are."""
    found, *others = layouts.choose(
        benchmark.title, benchmark.layouts, benchmark.places, root, layout
    )
    assert root is not None  # or nothing would have been found
    return found, found.describe(root) + "".join(
        f"; also there, not used: {other.describe(root)}" for other in others
    )


def _readers(
    found: Found, items: Mapping[str, Sequence[Item]], class_names: Sequence[str]
) -> dict[str, ImageReader]:
    paths = {
        split: [found.layout.locate(path, class_names[label]) for path, label in listed]
        for split, listed in items.items()
    }
    remedy = "unpack the official archive there once more"
    problems = [p for s in paths for p in missing_files(s, found.base, paths[s], remedy)]
    if problems:
        raise DataError(problems)
    return {split: FolderReader(found.base, paths[split]) for split in paths}


def _generate(
    benchmark: Benchmark,
    sample: Sample,
    found: Found,
    items: Mapping[str, Sequence[Item]],
    class_names: Sequence[str],
) -> list[Item]:
    """A long-tailed sample of all training images that no other split has."""
    taken = {path for listed in items.values() for path, _ in listed}
    pool: list[Item] = []
    for label, name in enumerate(class_names):
        folder = (found.base / found.layout.locate(f"train/{name}/-", name)).parent
        if not folder.is_dir():
            raise DataError(f"train: no folder {folder}; unpack the official archive there")
        paths = {f"train/{name}/{entry.name}" for entry in folder.iterdir()}
        pool += [(path, label) for path in paths - taken if benchmark.normalise(path)]
    available = counts_of(pool, len(class_names))
    kept = largest_counts(available, sample.profile, sample.imbalance_factor)
    order = ranked(pool, num_classes=len(class_names), subset_seed=sample.subset_seed)
    return by_label(first(order, kept, place=f"{benchmark.name} train"))


def missing_files(split: str, base: Path, paths: Sequence[str], remedy: str) -> list[str]:
    """A problem that counts the listed files that are not there and names the first; or none."""
    missing = [path for path in paths if not os.path.exists(os.path.join(base, path))]  # noqa: PTH110, PTH118
    if not missing:
        return []
    shown = ", ".join(missing[:MISSING_SHOWN]) + (", ..." if len(missing) > MISSING_SHOWN else "")
    return [
        f"{split}: {len(missing):,} of {len(paths):,} listed images are not in {base}: {shown}; "
        f"{remedy}"
    ]


def hint(name: str) -> str:
    return f"to see what is needed: python run.py data check {name}"


def _sample(
    list_name: ListName,
    profile: GeneratedProfile | None,
    imbalance_factor: float | None,
    subset_seed: int | None,
    *,
    factor_published: float,
) -> Sample | None:
    """What is to be sampled, if anything; options that would then have no effect are refused."""
    if list_name == "generated":
        factor = factor_published if imbalance_factor is None else imbalance_factor
        return Sample(profile or "pareto", factor, subset_seed or 0)
    given = {"profile": profile, "imbalance_factor": imbalance_factor, "subset_seed": subset_seed}
    if idle := [name for name, value in given.items() if value is not None]:
        raise ConfigError(
            f"{name}: has no effect on the published list; write list = 'generated', or leave it "
            "out"
            for name in idle
        )
    return None


def _lists(
    benchmark: Benchmark, facts: Mapping[str, Any], *, without_train: bool
) -> tuple[dict[str, list[Item]], list[str]]:
    """The verified lists by split, and what is wrong with the others."""
    items: dict[str, list[Item]] = {}
    problems: list[str] = []
    for split in benchmark.published:
        if split == "train" and without_train:
            continue
        try:
            items[split] = read_list(benchmark.name, split, facts)
        except DataError as error:
            problems += error.problems
    return items, problems + shared_images(items)
