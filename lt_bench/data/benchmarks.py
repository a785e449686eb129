"""ImageNet-LT, Places-LT and iNaturalist 2018: what is official about them, and their lists."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lt_bench.data import layouts, lists
from lt_bench.data.image_list import Normalise
from lt_bench.data.layouts import Layout
from lt_bench.data.lists import Item
from lt_bench.errors import DataError


@dataclass(frozen=True)
class Archive:
    """An official download; `md5` is None where none is published."""

    name: str
    size: str
    md5: str | None
    serves: str


# at the last commit of the repository, so that a list cannot change under its address
_DECOUPLING = "facebookresearch/classifier-balancing"
_DECOUPLING_RAW = (
    f"https://raw.githubusercontent.com/{_DECOUPLING}/22370c64141cc662f62ead89447c838c4a7977b5/data"
)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Benchmark:
    """A dataset whose long-tailed split its authors published as lists of paths.

    `published` names the list of each split, which can be fetched below `url`: itself, or in the
    archive of its `annotations`. `places` are folders of the data root to look in besides the root
    itself.
    """

    name: str
    title: str
    page: str
    archives: tuple[Archive, ...]
    layouts: tuple[Layout, ...]
    places: tuple[str, ...]
    normalise: Normalise
    published: Mapping[str, str]
    list_page: str
    url: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def _names(stem: str) -> dict[str, str]:
    return {split: f"{stem}_{split}.txt" for split in ("train", "val", "test")}


# fmt: off
IMAGENET_LT = Benchmark(
    name="imagenet_lt",
    title="ImageNet (ILSVRC2012)",
    page="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
    archives=(
        Archive("ILSVRC2012_img_train.tar", "about 138 GB", "1d675b47d978889d74fa0da5fadfb00e",
                "train/ (a tar per class inside)"),
        Archive("ILSVRC2012_img_val.tar", "about 6.3 GB", "29b22e2961454d5413ddabcf34fc5622",
                "val/, flat"),
    ),
    layouts=layouts.IMAGENET,
    places=("imagenet", "ImageNet", "ILSVRC2012", "imagenet_lt", "ILSVRC/Data/CLS-LOC",
            "imagenet/ILSVRC/Data/CLS-LOC"),
    normalise=layouts.imagenet_path,
    published=_names("ImageNet_LT"),
    list_page=f"https://github.com/{_DECOUPLING}, data/ImageNet_LT/",
    url=f"{_DECOUPLING_RAW}/ImageNet_LT",
)

PLACES_LT = Benchmark(
    name="places_lt",
    title="Places365-Standard",
    page="http://places2.csail.mit.edu/download.html",
    archives=(
        Archive("places365standard_easyformat.tar", "about 21 GB", None,
                "train/ and val/ in one, at 256 pixels: what most repositories use"),
        Archive("train_256_places365standard.tar", "about 24 GB",
                "53ca1c756c3d1e7809517cc47c5561c5", "or data_256/"),
        Archive("val_256.tar", "about 501 MB", "e27b17d8d44f4af9a78502beb927f808", "with val_256/"),
        Archive("train_large_places365standard.tar", "about 105 GB",
                "67e186b496a84c929568076ed01a8aa1", "or data_large/, at full size"),
        Archive("val_large.tar", "about 2.1 GB", "9b71c4993ad89d2d8bcbdc4aef38042f",
                "with val_large/"),
    ),
    layouts=layouts.PLACES,
    places=("places365_standard", "places365", "Places365", "Place365", "places", "Places",
            "places_lt", "Places_LT"),
    normalise=layouts.places_path,
    published=_names("Places_LT"),
    list_page=f"https://github.com/{_DECOUPLING}, data/Places_LT/",
    url=f"{_DECOUPLING_RAW}/Places_LT",
)

INAT_2018 = Benchmark(
    name="inat2018",
    title="iNaturalist 2018",
    page="https://github.com/visipedia/inat_comp/tree/master/2018",
    archives=(
        Archive("train_val2018.tar.gz", "about 120 GB", "b1c6952ce38f31868cc50ea72d066cc3",
                "train_val2018/"),
        Archive("train2018.json.tar.gz", "about 26 MB", "bfa29d89d629cbf04d826a720c0a68b0",
                "the train list"),
        Archive("val2018.json.tar.gz", "about 26 MB", "f2ed8bfe3e9901cdefceb4e53cd3775d",
                "the test list"),
    ),
    layouts=layouts.INAT2018,
    places=("inat2018", "iNaturalist2018", "iNaturalist18", "inaturalist", "iNat18", "inat"),
    normalise=layouts.inat_path,
    # the official validation split is the field's test split; the official test has no labels
    published={"train": "iNaturalist18_train.txt", "test": "iNaturalist18_val.txt"},
    list_page="https://github.com/visipedia/inat_comp/tree/master/2018 (train2018.json.tar.gz, "
    "val2018.json.tar.gz)",
    url="https://ml-inat-competition-datasets.s3.amazonaws.com/2018",
    annotations={"train": "train2018.json", "test": "val2018.json"},
    mean=(0.466, 0.471, 0.380),
    std=(0.195, 0.194, 0.192),
)
# fmt: on

BENCHMARKS = {one.name: one for one in (IMAGENET_LT, PLACES_LT, INAT_2018)}


def facts_of(benchmark: Benchmark) -> dict[str, Any]:
    """What `data_lists/<name>.json` says about the splits."""
    facts = lists.published(benchmark.name)
    if facts is None:
        raise DataError(f"data_lists/{benchmark.name}.json: missing; restore it")
    return facts


def shared_images(
    items: Mapping[str, Sequence[Item]], remedy: str = "take the published lists unchanged"
) -> list[str]:
    """Problems with images that two splits share, a line per pair of splits."""
    images = {split: {image for image, _ in listed} for split, listed in items.items()}
    return [
        f"{one} and {other}: share {len(both):,} images, such as {min(both)}; {remedy}"
        for one, other in itertools.combinations(images, 2)
        if (both := images[one] & images[other])
    ]
