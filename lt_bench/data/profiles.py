"""Long-tailed profiles: how many training images each class keeps, and which."""

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from lt_bench.config import Range
from lt_bench.errors import ConfigError

ImbalanceType = Literal["exponential", "step"]
SubsetSeed = Annotated[int, Range(low=0, high=2**32 - 1)]


def class_counts(
    num_classes: int,
    n_max: int,
    *,
    imbalance_factor: float,
    imbalance_type: ImbalanceType = "exponential",
) -> list[int]:
    """Training images per class, in label order, as the CIFAR-LT benchmarks count them.

    Exponential: `int(n_max * IF^(-c/(C-1)))`; step: n_max for the first half of the classes,
    `int(n_max / IF)` for the rest. Truncated, not rounded: rounding gives other totals than the
    published ones (10,899 instead of 10,847 for CIFAR-100-LT at factor 100).
    """
    share = 1 / imbalance_factor
    if imbalance_type == "step":
        exponents = [0.0 if c < num_classes // 2 else 1.0 for c in range(num_classes)]
    else:
        exponents = [c / max(num_classes - 1, 1) for c in range(num_classes)]
    counts = [int(n_max * share**exponent) for exponent in exponents]
    if 0 in counts:
        raise ConfigError(
            f"imbalance_factor: {imbalance_factor:g} leaves class {counts.index(0)} of "
            f"{num_classes} without an image; give at most {n_max}, the images of a full class"
        )
    return counts


def rank(hashes: Sequence[str], *, subset_seed: int, label: int) -> list[int]:
    """The order in which the images of one class are taken, as positions in `hashes`.

    Sorted by pixel hash, then shuffled by a generator seeded from (subset seed, label): the same
    images whatever file they came from, and a smaller factor's subset contains a larger one's.
    """
    by_hash = sorted(range(len(hashes)), key=hashes.__getitem__)
    # the legacy generator, since its stream is frozen for good
    np.random.RandomState([subset_seed, label]).shuffle(by_hash)
    return by_hash


def ldam_positions(
    counts: Sequence[int], seed: int = 0, *, available: int
) -> list[NDArray[np.int64]]:
    """Which images LDAM-DRW's published code keeps, as positions among the images of each class.

    Positions are in the order of the official CIFAR archive.

    Args:
        available: images per class before any are dropped.
    """
    generator = np.random.RandomState(seed)
    kept = []
    for count in counts:
        positions = np.arange(available, dtype=np.int64)
        generator.shuffle(positions)
        kept.append(positions[:count])
    return kept
