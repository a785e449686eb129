"""Scores from counts: accuracies per class and shot group, calibration from bins. Numpy only.

A class without test images has no accuracy and is left out of every mean over classes. A score
that does not exist (an empty shot group) is None, never 0 or nan.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean  # summed exactly: the same digits on every machine
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

SHOT_GROUPS = ("many", "medium", "few")
MANY, FEW = 100, 20
TOP_LABEL_BINS, SCORE_BINS = 15, 10


@dataclass(frozen=True, eq=False)
class Tally:
    """Test images per class: all of them, those predicted right, and those predicted as it.

    Each is (C,), of integers.
    """

    total: IntArray
    correct: IntArray
    predicted: IntArray

    @classmethod
    def of(cls, labels: ArrayLike, predicted_labels: ArrayLike, num_classes: int) -> "Tally":
        """Count the images of a split by their labels and predicted labels, (N,) integers each.

        Raises:
            ValueError: they differ in length, are no integers, or are not in [0, num_classes).
        """
        labels, predicted_labels = (
            _labels(labels, num_classes),
            _labels(predicted_labels, num_classes),
        )
        if labels.shape != predicted_labels.shape:
            raise ValueError(
                f"predicted_labels: {len(predicted_labels)} of them for {len(labels)} labels"
            )
        return cls(
            total=np.bincount(labels, minlength=num_classes),
            correct=np.bincount(labels[labels == predicted_labels], minlength=num_classes),
            predicted=np.bincount(predicted_labels, minlength=num_classes),
        )


def shot_groups(
    class_counts: Sequence[int], *, many: int = MANY, few: int = FEW
) -> dict[str, list[int]]:
    """Classes by training images: more than `many`, fewer than `few`, and those between."""
    groups: dict[str, list[int]] = {name: [] for name in SHOT_GROUPS}
    for label, count in enumerate(class_counts):
        groups["many" if count > many else "few" if count < few else "medium"].append(label)
    return groups


def shot_accuracy(
    tally: Tally, class_counts: Sequence[int], *, many: int = MANY, few: int = FEW
) -> dict[str, float | None]:
    """Mean class accuracy of each shot group; None where it holds no class with test images."""
    accuracy = class_accuracy(tally)
    result: dict[str, float | None] = {}
    for name, labels in shot_groups(class_counts, many=many, few=few).items():
        present = [label for label in labels if tally.total[label] > 0]
        result[name] = fmean(accuracy[present]) if present else None
    return result


def class_accuracy(tally: Tally) -> FloatArray:
    """Correct / total of each class (its recall); nan for a class without test images."""
    with np.errstate(invalid="ignore"):
        return tally.correct / tally.total


def top1(tally: Tally) -> float:
    return float(tally.correct.sum() / tally.total.sum())


def balanced_accuracy(tally: Tally) -> float:
    """Mean class accuracy; equals `top1` on a balanced test set."""
    return fmean(_present_accuracy(tally))


def worst_class(tally: Tally) -> float:
    """The lowest class accuracy."""
    return float(_present_accuracy(tally).min())


def geometric_mean_recall(tally: Tally) -> float:
    """Geometric mean of the class accuracies; 0 as soon as one class is never right."""
    accuracy = _present_accuracy(tally)
    return geometric_mean(accuracy) if accuracy.all() else 0.0


def macro_f1(tally: Tally, *, zero_division: float = 0.0) -> float:
    """Mean over classes of the harmonic mean of precision and recall.

    A class without a correct prediction, so also one that is never predicted, counts as
    `zero_division`: 0 as in scikit-learn, nan as in code that divides 0 by 0.
    """
    found = np.full(len(tally.total), zero_division)
    hit = tally.correct > 0
    found[hit] = 2 * tally.correct[hit] / (tally.total[hit] + tally.predicted[hit])
    return fmean(found[tally.total > 0])


def shifted_accuracy(
    tally: Tally, class_counts: Sequence[int], *, imbalance_factor: float, backward: bool = False
) -> float:
    """Expected accuracy if the test labels followed an exponential long tail.

    The prior falls by `imbalance_factor` from the class with most training images to the one with
    fewest (forward), or rises by it (backward); 1 gives the balanced accuracy.
    """
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    prior = np.empty(len(order))
    descent = np.linspace(0.0, 1.0, len(order))
    prior[order] = imbalance_factor ** -(descent[::-1] if backward else descent)
    present = tally.total > 0
    return float(np.average(class_accuracy(tally)[present], weights=prior[present]))


@dataclass(frozen=True, eq=False)
class Bins:
    """Probabilities in equal-width bins [i/N, (i+1)/N), the last closed.

    Per bin: how many, the sum of their probabilities, and how many of them were right.
    """

    count: IntArray
    confidence: FloatArray
    correct: IntArray


def bin_edges(num_bins: int) -> FloatArray:
    """The N + 1 edges i/N, each the double nearest to it (linspace misses 0.3 and 0.7)."""
    return np.arange(num_bins + 1) / num_bins


def expected_calibration_error(bins: Bins) -> float:
    """ECE: the gap between confidence and share right, averaged over the samples of all bins."""
    return float(np.abs(bins.correct - bins.confidence).sum() / bins.count.sum())


def calibration_score(bins: Bins, *, nonempty: bool = False) -> float:
    """cal = 1 - (4/N) sum_i |share right - mean score| over the bins of every sample and class.

    Eq. 7 of the loss-scheduling paper, which leaves empty bins open: here they add nothing and N
    stays the number of bins, so that cal lies in about -2..1; `nonempty` lets N count the filled
    bins alone (-3..1). With many classes almost every score lies in the first bin.
    """
    filled = bins.count > 0
    gap = np.abs(bins.correct[filled] - bins.confidence[filled]) / bins.count[filled]
    return float(1 - 4 * gap.sum() / (filled.sum() if nonempty else len(bins.count)))


def harmonic_score(cal: float, rate: float, *, published: bool = False) -> float | None:
    """Harmonic mean of the calibration score and a rate: S_acc with top-1, S_rec with mean recall.

    A negative cal has no harmonic mean: None, unless `published`, which is the bare formula (two
    negative terms then look like a good score). Both zero is None either way.
    """
    if cal + rate == 0 or (cal < 0 and not published):
        return None
    return 2 * cal * rate / (cal + rate)


def _present_accuracy(tally: Tally) -> FloatArray:
    return class_accuracy(tally)[tally.total > 0]


def _labels(values: ArrayLike, num_classes: int) -> IntArray:
    labels: NDArray[Any] = np.asarray(values)
    if labels.ndim != 1 or (labels.size and labels.dtype.kind not in "iu"):
        raise ValueError(f"labels: expected a list of integers, got {labels.dtype} {labels.shape}")
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"labels: {labels.min()}..{labels.max()} out of range; {num_classes} classes"
        )
    return labels.astype(np.int64)
