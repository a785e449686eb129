"""cifar10_lt and cifar100_lt: CIFAR made long-tailed, the same images whatever the source."""

from pathlib import Path
from typing import Any, Literal

import torch

from lt_bench.config import ImbalanceFactor
from lt_bench.data import cifar_sources
from lt_bench.data.cifar_sources import Family, Source
from lt_bench.data.lists import (
    Item,
    by_label,
    confirm,
    first,
    identity,
    items_of,
    locate,
    published,
    ranked,
    read_list,
    take,
)
from lt_bench.data.profiles import ImbalanceType, SubsetSeed, class_counts, ldam_positions
from lt_bench.data.types import LongTailData, Split
from lt_bench.errors import DataError

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

CIFAR10 = Family(
    name="cifar10_lt",
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    archive="cifar-10-python.tar.gz",
    archive_md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    train_files=(
        ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        ("data_batch_4", "634d18415352ddfa80567beed471001a"),
        ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test_files=(("test_batch", "40351d587109b95175f43aff81a1287e"),),
    archive_label="labels",
    parquet_label="label",
    places=("cifar10", "cifar-10", "cifar10_lt"),
    class_names=CIFAR10_CLASSES,
    train_per_class=5000,
    test_per_class=1000,
)

CIFAR100 = Family(
    name="cifar100_lt",
    title="CIFAR-100",
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    archive="cifar-100-python.tar.gz",
    archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    train_files=(("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test_files=(("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    archive_label="fine_labels",
    parquet_label="fine_label",
    places=("cifar100", "cifar-100", "cifar100_lt"),
    class_names=CIFAR100_CLASSES,
    train_per_class=500,
    test_per_class=100,
)

FAMILIES = {family.name: family for family in (CIFAR10, CIFAR100)}


def cifar10_lt(
    root: Path | None,
    *,
    imbalance_factor: ImbalanceFactor = 100,
    imbalance_type: ImbalanceType = "exponential",
    subset: Subset = "lt_bench",
    subset_seed: SubsetSeed = 0,
) -> LongTailData:
    """CIFAR-10-LT: 5,000 images of the first class, fewer of every next one."""
    return _long_tailed(CIFAR10, root, imbalance_factor, imbalance_type, subset, subset_seed)


def cifar100_lt(
    root: Path | None,
    *,
    imbalance_factor: ImbalanceFactor = 100,
    imbalance_type: ImbalanceType = "exponential",
    subset: Subset = "lt_bench",
    subset_seed: SubsetSeed = 0,
) -> LongTailData:
    """CIFAR-100-LT: 500 images of the first class, fewer of every next one."""
    return _long_tailed(CIFAR100, root, imbalance_factor, imbalance_type, subset, subset_seed)


def download_cifar(name: str, root: Path) -> None:
    """Fetch the official archive of `cifar10_lt` or `cifar100_lt` into the data root."""
    cifar_sources.download(FAMILIES[name], root)


def _long_tailed(
    family: Family,
    root: Path | None,
    imbalance_factor: float,
    imbalance_type: ImbalanceType,
    subset: Subset,
    subset_seed: int,
) -> LongTailData:
    counts = class_counts(
        family.num_classes,
        family.train_per_class,
        imbalance_factor=imbalance_factor,
        imbalance_type=imbalance_type,
    )
    source, *others = cifar_sources.find(family, root)
    if subset == "ldam" and not source.is_ordered:
        raise DataError(
            f"data.subset: 'ldam' takes images by their place in the official archive, found "
            f'{source.name}; add {family.folder}/ (--download), or use subset = "lt_bench"'
        )
    train, test = source.read()
    facts = published(family.name)
    chosen, train = _train(family, facts, train, counts, subset, subset_seed, source)
    listed, test = _test(family, facts, test, source)
    found = {"train": identity(chosen), "test": identity(listed)}
    if facts and subset == "lt_bench" and subset_seed == 0:
        confirm(family.name, facts, imbalance_type, imbalance_factor, found)
    return LongTailData(
        name=family.name,
        train=train,
        val=None,
        test=test,
        class_names=family.class_names,
        class_counts=counts,
        identity=found,
        # the field's values, of CIFAR-10, for both
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        source=source.name + "".join(f"; also there, not used: {o.name}" for o in others),
    )


def _train(
    family: Family,
    facts: dict[str, Any] | None,
    held: Split,
    counts: list[int],
    subset: Subset,
    subset_seed: int,
    source: Source,
) -> tuple[list[Item], Split]:
    """The images that the profile keeps, class by class, and their items."""
    items = items_of(held)
    if facts is None:
        check_complete(family, held, family.train_per_class, f"train, {source.name}")
    if subset == "ldam":
        of_class = [torch.nonzero(held.labels == c).flatten() for c in range(family.num_classes)]
        kept = ldam_positions(counts, subset_seed, available=family.train_per_class)
        at = torch.cat([of_class[c][kept[c]] for c in range(family.num_classes)]).tolist()
        return [items[i] for i in at], take(held, at)
    order = read_list(family.name, "train", facts) if facts else items
    if facts is None or subset_seed != 0:
        order = ranked(order, num_classes=family.num_classes, subset_seed=subset_seed)
    chosen = first(order, counts, place=family.name)
    return chosen, take(held, locate(chosen, items, place=f"{family.name} train, {source.name}"))


def _test(
    family: Family, facts: dict[str, Any] | None, held: Split, source: Source
) -> tuple[list[Item], Split]:
    """All test images in list order: by label, then by pixel hash."""
    items = items_of(held)
    if facts is None:
        check_complete(family, held, family.test_per_class, f"test, {source.name}")
    listed = read_list(family.name, "test", facts) if facts else by_label(items)
    return listed, take(held, locate(listed, items, place=f"{family.name} test, {source.name}"))


def check_complete(family: Family, held: Split, per_class: int, place: str) -> None:
    """Refuse images that cannot be all of CIFAR, where no list says which they must be."""
    counts = torch.bincount(held.labels, minlength=family.num_classes).tolist()
    wrong = [c for c, count in enumerate(counts) if count != per_class or c >= family.num_classes]
    if wrong:
        raise DataError(
            f"{family.name} {place}: {counts[wrong[0]]:,} images with label {wrong[0]}, "
            f"{per_class:,} expected for each of {family.num_classes} classes; "
            "take the official data unchanged"
        )
