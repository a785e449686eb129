"""cifar10_lt and cifar100_lt: CIFAR made long-tailed, the same images whatever the source."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lt_bench.data import cifar_sources
from lt_bench.data.cifar_sources import Archive, Family, Source, binary, pickled
from lt_bench.data.lists import (
    Item,
    by_label,
    divide,
    identity,
    items_of,
    pick,
    published,
    ranked,
    read_list,
)
from lt_bench.data.profiles import ImbalanceType, SubsetSeed, class_counts, ldam_positions
from lt_bench.data.types import LongTailData, Split
from lt_bench.errors import ConfigError, DataError
from lt_bench.schema import Count, ImbalanceFactor

Subset = Literal["lt_bench", "ldam"]

# fmt: off
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)
CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle",
    "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
)
# fmt: on
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

SERVER = "https://www.cs.toronto.edu/~kriz"

CIFAR10 = Family(
    name="cifar10_lt",
    title="CIFAR-10",
    megabytes=170,
    archives=(
        Archive(
            version="archive",
            url=f"{SERVER}/cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
            folder="cifar-10-batches-py",
            train_files=(
                ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
            test_files=(("test_batch", "40351d587109b95175f43aff81a1287e"),),
            parse=pickled("labels"),
        ),
        Archive(
            version="binary archive",
            url=f"{SERVER}/cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
            folder="cifar-10-batches-bin",
            train_files=(
                ("data_batch_1.bin", "5dd7e06a14cb22eb9f671a540d1b7c25"),
                ("data_batch_2.bin", "5ea93a67294ea407fff1d09f752e9692"),
                ("data_batch_3.bin", "942cd6a4bcdd0dd3c604fbe906cb4421"),
                ("data_batch_4.bin", "ae636b3ba5c66a11e91e8cb52e771fcb"),
                ("data_batch_5.bin", "53f37980c15c3d472c316c40844f3f0d"),
            ),
            test_files=(("test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d"),),
            parse=binary(label_bytes=1),
        ),
    ),
    parquet_label="label",
    places=("cifar10", "cifar-10", "cifar10_lt"),
    class_names=CIFAR10_CLASSES,
    train_per_class=5000,
    test_per_class=1000,
)

CIFAR100 = Family(
    name="cifar100_lt",
    title="CIFAR-100",
    megabytes=169,
    archives=(
        Archive(
            version="archive",
            url=f"{SERVER}/cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            folder="cifar-100-python",
            train_files=(("train", "16019d7e3df5f24257cddd939b257f8d"),),
            test_files=(("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
            parse=pickled("fine_labels"),
        ),
        Archive(
            version="binary archive",
            url=f"{SERVER}/cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
            folder="cifar-100-binary",
            train_files=(("train.bin", "6172c7755cfe09b2fe270c85cebc1b15"),),
            test_files=(("test.bin", "4499cfba6c016c1be1438163640a0898"),),
            parse=binary(label_bytes=2),  # superclass, class
        ),
    ),
    parquet_label="fine_label",
    places=("cifar100", "cifar-100", "cifar100_lt"),
    class_names=CIFAR100_CLASSES,
    train_per_class=500,
    test_per_class=100,
)

FAMILIES = {family.name: family for family in (CIFAR10, CIFAR100)}


@dataclass(frozen=True)
class Choice:
    """Which training images are wanted: the options of a recipe's [data]."""

    imbalance_factor: float = 100
    imbalance_type: ImbalanceType = "exponential"
    subset: Subset = "lt_bench"
    subset_seed: int = 0
    val_per_class: int | None = None

    def counts(self, family: Family) -> list[int]:
        return class_counts(
            family.num_classes,
            family.train_per_class,
            imbalance_factor=self.imbalance_factor,
            imbalance_type=self.imbalance_type,
        )


def cifar10_lt(
    root: Path | None,
    *,
    imbalance_factor: ImbalanceFactor = 100,
    imbalance_type: ImbalanceType = "exponential",
    subset: Subset = "lt_bench",
    subset_seed: SubsetSeed = 0,
    val_per_class: Count | None = None,
) -> LongTailData:
    """CIFAR-10-LT: 5,000 images of the first class, fewer of every next one.

    Args:
        val_per_class: so many images of each class are held back from training to choose on.
    """
    choice = Choice(imbalance_factor, imbalance_type, subset, subset_seed, val_per_class)
    return _load(CIFAR10, root, choice)


def cifar100_lt(
    root: Path | None,
    *,
    imbalance_factor: ImbalanceFactor = 100,
    imbalance_type: ImbalanceType = "exponential",
    subset: Subset = "lt_bench",
    subset_seed: SubsetSeed = 0,
    val_per_class: Count | None = None,
) -> LongTailData:
    """CIFAR-100-LT: 500 images of the first class, fewer of every next one.

    Args:
        val_per_class: so many images of each class are held back from training to choose on.
    """
    choice = Choice(imbalance_factor, imbalance_type, subset, subset_seed, val_per_class)
    return _load(CIFAR100, root, choice)


def download_cifar(name: str, root: Path | None) -> None:
    """Fetch the official archive of `cifar10_lt` or `cifar100_lt` into the data root."""
    if name not in FAMILIES:
        raise DataError(f"--download: nothing is fetched for {name}; leave it out")
    if root is None:
        raise DataError("--download: no data root; give --data-root DIR or set LT_BENCH_DATA")
    cifar_sources.download(FAMILIES[name], root)


def _load(family: Family, root: Path | None, choice: Choice) -> LongTailData:
    choice.counts(family)  # refuses an impossible profile before anything is read
    source, *others = cifar_sources.find(family, root)
    train, test = source.read()
    data = long_tailed(family, choice, source, train, test)
    return replace(
        data, source=source.name + "".join(f"; also there, not used: {o.name}" for o in others)
    )


def long_tailed(
    family: Family, choice: Choice, source: Source, train: Split, test: Split
) -> LongTailData:
    """The wanted subset of all of CIFAR, verified against the committed lists."""
    facts = published(family.name)
    if facts is None:
        check_complete(family, source, train, test)
    place = f"{family.name} from {source.name}"
    items = _choose(family, choice, source, train, facts)
    splits = {name: pick(train, listed, place=f"{place}, {name}") for name, listed in items.items()}
    listed = read_list(family.name, "test", facts) if facts else by_label(items_of(test))
    return LongTailData(
        name=family.name,
        train=splits["train"],
        val=splits.get("val"),
        test=pick(test, listed, place=f"{place}, test"),
        class_names=family.class_names,
        class_counts=splits["train"].labels.bincount(minlength=family.num_classes).tolist(),
        identity={name: identity(held) for name, held in (items | {"test": listed}).items()},
        # the field's values, of CIFAR-10, for both
        mean=MEAN,
        std=STD,
        source=source.name,
    )


def check_complete(family: Family, source: Source, train: Split, test: Split) -> None:
    """Refuse what cannot be all of CIFAR; needed where no list says which images it must be."""
    for name, split, per_class in (
        ("train", train, family.train_per_class),
        ("test", test, family.test_per_class),
    ):
        counts = Counter(split.labels.tolist())
        expected = dict.fromkeys(range(family.num_classes), per_class)
        for label in sorted(counts.keys() | expected.keys()):
            if counts[label] != expected.get(label, 0):
                raise DataError(
                    f"{family.name} from {source.name}, {name}: {counts[label]:,} images with "
                    f"label {label}, {expected.get(label, 0):,} expected; take the official data "
                    "unchanged"
                )


def _choose(
    family: Family, choice: Choice, source: Source, train: Split, facts: dict[str, Any] | None
) -> dict[str, list[Item]]:
    """The training images that the profile keeps, class by class, and those held back."""
    if choice.subset == "ldam":
        return {"train": _choose_as_ldam(family, choice, source, train)}
    pool = read_list(family.name, "train", facts) if facts else items_of(train)
    order = ranked(pool, num_classes=family.num_classes, subset_seed=choice.subset_seed)
    return divide(order, choice.counts(family), choice.val_per_class, place=family.name)


def _choose_as_ldam(family: Family, choice: Choice, source: Source, train: Split) -> list[Item]:
    if choice.val_per_class is not None:
        raise ConfigError(
            "val_per_class: has no effect on subset 'ldam', whose code holds nothing back; leave "
            'it out, or write subset = "lt_bench"'
        )
    if not source.is_ordered:
        raise DataError(
            f"data.subset: 'ldam' chooses by place in the official archive, and {source.name} "
            f"were found; add {family.archives[0].folder}/ (--download fetches it), or write "
            '"lt_bench"'
        )
    kept = ldam_positions(
        choice.counts(family), choice.subset_seed, available=family.train_per_class
    )
    items = items_of(train)
    labels = train.labels.numpy()
    chosen: list[Item] = []
    for label, positions in enumerate(kept):
        of_class = np.flatnonzero(labels == label)
        chosen += [items[i] for i in of_class[positions]]
    return chosen
