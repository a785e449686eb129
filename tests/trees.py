"""Miniature trees of the layouts that people have on disk, with tiny JPEGs and lists to match."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from lt_bench.data.benchmarks import BENCHMARKS
from lt_bench.data.image_list import git_blobs
from lt_bench.data.layouts import IMAGENET, INAT2018, PLACES, Layout
from lt_bench.data.lists import Item, as_text, by_label, identity

CLASSES = {
    "imagenet_lt": ("n01440764", "n01443537", "n15075141"),
    "places_lt": ("airfield", "church-indoor", "zen_garden"),
    "inat2018": ("Plantae/0", "Insecta/1", "Plantae/2"),
}
TRAIN_COUNTS = (6, 3, 2)

# every layout in the data root, and some in the folders where people have them
FORMS = [(name, one, "") for name, benchmark in BENCHMARKS.items() for one in benchmark.layouts]
FORMS += [
    ("imagenet_lt", IMAGENET[1], "ILSVRC/Data/CLS-LOC"),
    ("places_lt", PLACES[0], "places365_standard"),
    ("places_lt", PLACES[1], "Place365"),
    ("inat2018", INAT2018[0], "iNaturalist18"),
]


def canonical(name: str, split: str, label: int, number: int) -> str:
    """The canonical path of an image of a benchmark; training and validation numbers differ."""
    class_name = CLASSES[name][label]
    number += {"train": 0, "val": 1000, "test": 2000}[split] + 100 * label
    if name == "inat2018":
        return f"train_val2018/{class_name}/{number:032x}.jpg"
    if name == "imagenet_lt":
        if split == "test":
            return f"val/ILSVRC2012_val_{number:08d}.JPEG"
        return f"train/{class_name}/{class_name}_{number}.JPEG"
    if split == "test":
        return f"val/Places365_val_{number:08d}.jpg"
    return f"train/{class_name}/{number:08d}.jpg"


def items(name: str) -> dict[str, list[Item]]:
    """The lists of a miniature: 6, 3 and 2 training images, one of each class in other splits."""
    counts = {split: (1, 1, 1) for split in BENCHMARKS[name].published} | {"train": TRAIN_COUNTS}
    return {
        split: [
            (canonical(name, split, label, i), label)
            for label, n in enumerate(per)
            for i in range(n)
        ]
        for split, per in counts.items()
    }


def write_lists(name: str, folder: Path) -> None:
    """`data_lists/` of a miniature: the facts and the built lists."""
    facts = {"dataset": name, "class_names": CLASSES[name]}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for split, listed in items(name).items():
        counts = Counter(label for _, label in listed)
        text = as_text(by_label(listed))
        facts[split] = {
            "images": len(listed),
            "identity": identity(listed),
            "git_blob": git_blobs(text)[0],
            "class_counts": [counts[label] for label in range(len(CLASSES[name]))],
        }
        (folder / name / f"{split}.txt").write_text(text, encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


def write_tree(name: str, layout: Layout, base: Path) -> list[Path]:
    """The images of a miniature, in one layout."""
    written = []
    for listed in items(name).values():
        for path, label in listed:
            file = base / layout.locate(path, CLASSES[name][label])
            write_photo(file, seed=len(written), label=label)
            written.append(file)
    return written


def write_photo(path: Path, *, seed: int, label: int = 0, size: tuple[int, int] = (40, 30)) -> None:
    """A smooth JPEG whose colour tells its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 120, (4, 5, 3), dtype=np.uint8)
    noise[:, :, label % 3] += 120
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
