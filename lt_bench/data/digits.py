"""digits_lt: scikit-learn's 8x8 scans of handwritten digits, made long-tailed."""

from pathlib import Path

import numpy as np
import torch

from lt_bench.data.lists import (
    Item,
    by_label,
    divide,
    first,
    identity,
    items_of,
    pick,
    published,
    ranked,
    read_list,
)
from lt_bench.data.profiles import ImbalanceType, SubsetSeed, class_counts
from lt_bench.data.types import LongTailData, Split
from lt_bench.schema import Count, ImbalanceFactor

NUM_CLASSES = 10
TEST_PER_CLASS = 50
N_MAX = 118
MEAN, STD = (0.2873,), (0.3539,)  # of all 1,797 scans
SOURCE = "scikit-learn's load_digits"


def digits_lt(
    root: Path | None,
    *,
    imbalance_factor: ImbalanceFactor = 50,
    imbalance_type: ImbalanceType = "exponential",
    subset_seed: SubsetSeed = 0,
    val_per_class: Count | None = None,
) -> LongTailData:
    """The embedded default: nothing to fetch, trains in seconds.

    Args:
        root: not used; the scans come with scikit-learn.
        val_per_class: so many images of each class are held back from training to choose on.
    """
    counts = class_counts(
        NUM_CLASSES, N_MAX, imbalance_factor=imbalance_factor, imbalance_type=imbalance_type
    )
    scans = read_scans()
    pool, test = pool_and_test(items_of(scans))
    if facts := published("digits_lt"):
        pool, test = (read_list("digits_lt", split, facts) for split in ("train", "test"))
    order = ranked(pool, num_classes=NUM_CLASSES, subset_seed=subset_seed)
    items = divide(order, counts, val_per_class, place="digits_lt") | {"test": test}
    splits = {name: pick(scans, listed, place="digits_lt") for name, listed in items.items()}
    return LongTailData(
        name="digits_lt",
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        class_names=[str(digit) for digit in range(NUM_CLASSES)],
        class_counts=splits["train"].labels.bincount(minlength=NUM_CLASSES).tolist(),
        identity={name: identity(listed) for name, listed in items.items()},
        mean=MEAN,
        std=STD,
        source=SOURCE,
    )


def read_scans() -> Split:
    """All 1,797 scans, grey values 0..16 spread over 0..240."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits = load_digits()
    images = torch.from_numpy((digits.images * 15).astype(np.uint8)).unsqueeze(1)
    return Split(images, torch.from_numpy(digits.target).long())


def pool_and_test(held: list[Item]) -> tuple[list[Item], list[Item]]:
    """The pool that training images are taken from, and the test split, always the same."""
    order = ranked(held, num_classes=NUM_CLASSES, subset_seed=0)
    test = first(order, [TEST_PER_CLASS] * NUM_CLASSES, place="digits_lt")
    return sorted(set(held) - set(test)), by_label(test)
