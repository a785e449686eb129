"""Paired differences between two methods and their 95 % intervals: over seeds, over test images.

Shapes: N test images, C classes, R resampled test splits.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import stdtrit

from lt_bench.metrics import FloatArray, IntArray

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """Mean difference over `pairs` seeds that both methods have, and what it may be by chance.

    `over["seeds"]` says how much other trainings would move it, `over["images"]` another test
    split; either may be unknown.
    """

    mean: float
    pairs: int
    over: Mapping[str, Interval] = field(default_factory=dict)

    def is_clear(self, kinds: Iterable[str]) -> bool:
        """Whether it has an interval of every kind, and all of them exclude zero."""
        return all(kind in self.over and self.over[kind].excludes_zero for kind in kinds)


def t_interval(differences: Sequence[float]) -> Interval | None:
    """The mean's interval if the differences are draws from a normal distribution.

    None below two of them, and where all are the same: no width would say how sure one can be.
    """
    n = len(differences)
    if n < 2 or (sd := statistics.stdev(differences)) < 1e-9:
        return None
    mean = statistics.fmean(differences)
    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return Interval(mean - half, mean + half)


def resampled_class_gains(
    gain_N: FloatArray, labels_N: IntArray, num_classes: int, draws: int = DRAWS
) -> FloatArray:
    """Mean gain of each class in `draws` test splits drawn with replacement, class by class.

    A gain is right minus right of one image, averaged over seeds, so it takes few values: drawing
    how often each occurs is drawing the images. A class without images has nan.
    """
    # the legacy generator's stream is frozen: the same table under every version of numpy
    random = np.random.RandomState(0)
    gains_RC = np.full((draws, num_classes), np.nan)
    for label in range(num_classes):
        values, counts = np.unique(gain_N[labels_N == label], return_counts=True)
        if len(values):
            times = random.multinomial(counts.sum(), counts / counts.sum(), size=draws)
            gains_RC[:, label] = times @ values / counts.sum()
    return gains_RC


def percentile_interval(gains_RC: FloatArray, weight_C: FloatArray) -> Interval | None:
    """The middle 95 % of a weighted mean over classes; classes of weight zero do not enter.

    None where all draws are the same: no width would say how sure one can be.
    To 9 decimals: matrix products differ beyond them from one processor to another, and a table
    that rounds 7.25 must not.
    """
    used = weight_C > 0
    ends = np.percentile(gains_RC[:, used] @ weight_C[used], [2.5, 97.5])
    low, high = (round(float(end), 9) + 0.0 for end in ends)  # no -0
    return Interval(low, high) if low < high else None
