"""Long-tailed profiles: how many training images each class keeps, and which."""

import bisect
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray

from lt_bench.errors import ConfigError
from lt_bench.schema import Range

ImbalanceType = Literal["exponential", "step"]
Profile = Literal["exponential", "step", "pareto"]
PARETO_ALPHA = 6  # of ImageNet-LT and Places-LT (Liu et al., 2019)
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
    shares = shares_of_most(num_classes, imbalance_type, imbalance_factor)
    counts = _truncated(n_max, shares)
    if 0 in counts:
        raise ConfigError(
            f"imbalance_factor: {imbalance_factor:g} leaves class {counts.index(0)} of "
            f"{num_classes} without an image; give at most {n_max}, the images of a full class"
        )
    return counts


def shares_of_most(num_classes: int, profile: Profile, imbalance_factor: float) -> list[float]:
    """Images of each class as a share of the first one's, 1 to 1 / imbalance_factor.

    Pareto: the quantiles of a Lomax distribution with alpha 6, brought to these ends; at factor 256
    they come near the counts of ImageNet-LT, which are a random sample.
    """
    least = 1 / imbalance_factor
    if profile == "step":
        return [least ** (0.0 if c < num_classes // 2 else 1.0) for c in range(num_classes)]
    if profile == "exponential" or num_classes == 1:
        return [least ** (c / max(num_classes - 1, 1)) for c in range(num_classes)]
    sizes = [((c + 1) / (num_classes + 1)) ** (-1 / PARETO_ALPHA) for c in range(num_classes)]
    span = sizes[0] - sizes[-1]
    return [least + (1 - least) * (size - sizes[-1]) / span for size in sizes]


def largest_counts(
    available: Sequence[int], profile: Profile, imbalance_factor: float
) -> list[int]:
    """The largest counts of this profile that the classes can give, the fullest class first.

    Args:
        available: images per class, in label order, in which the counts are given back.
    """
    fullest_first = sorted(range(len(available)), key=lambda c: -available[c])
    shares = shares_of_most(len(available), profile, imbalance_factor)

    def fits(n_max: int) -> bool:
        counts = _truncated(n_max, shares)
        return all(n <= available[c] for n, c in zip(counts, fullest_first, strict=True))

    n_max = bisect.bisect_left(range(1, max(available) + 1), True, key=lambda n: not fits(n))
    counts = [0] * len(available)
    for count, c in zip(_truncated(n_max, shares), fullest_first, strict=True):
        counts[c] = count
    if 0 in counts:
        raise ConfigError(
            f"imbalance_factor: {imbalance_factor:g} leaves class {counts.index(0)} without an "
            f"image, since the fullest can keep {n_max}; lower it, or complete the images"
        )
    return counts


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


def _truncated(n_max: int, shares: Sequence[float]) -> list[int]:
    return [int(n_max * share + 1e-9) for share in shares]  # 49 * (1 / 49) is below 1
