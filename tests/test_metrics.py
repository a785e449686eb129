"""Scores against scikit-learn, torchmetrics, the golden values and small sums done by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score

from lt_bench import metrics
from lt_bench.evaluate import BinSums
from lt_bench.metrics import Bins, Tally


@pytest.fixture(params=range(5))
def split(request):
    """Labels, predictions and probabilities of a split; class 4 is never predicted, 5 absent."""
    generator = np.random.default_rng(request.param)
    labels = generator.choice([0, 1, 2, 3, 4, 6], size=200)
    probabilities = generator.dirichlet(np.full(7, 0.4), size=200)
    probabilities[np.arange(200), labels] += generator.random(200)
    probabilities[:, 4] *= 1e-3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities.argmax(axis=1), probabilities


def of_accuracy(*per_class):
    """A tally of ten test images per class with these class accuracies."""
    correct = np.array([round(10 * accuracy) for accuracy in per_class])
    return Tally(np.full(len(correct), 10), correct, np.full(len(correct), 10))


def test_accuracies_agree_with_scikit_learn(split):
    labels, predicted, _ = split
    tally = Tally.of(labels, predicted, 7)
    assert metrics.top1(tally) == pytest.approx(accuracy_score(labels, predicted))
    recalls = recall_score(labels, predicted, labels=np.unique(labels), average=None)
    assert metrics.balanced_accuracy(tally) == pytest.approx(recalls.mean())
    assert metrics.worst_class(tally) == recalls.min()


def test_macro_f1_agrees_with_scikit_learn(split):
    labels, predicted, _ = split
    expected = f1_score(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0
    )
    assert metrics.macro_f1(Tally.of(labels, predicted, 7)) == pytest.approx(expected)


def test_a_class_never_predicted_adds_nothing_to_macro_f1():
    tally = Tally.of([0, 0, 1, 1], [0, 0, 0, 0], 2)
    assert metrics.macro_f1(tally) == pytest.approx((2 * 2 / (2 + 4)) / 2)
    assert math.isnan(metrics.macro_f1(tally, zero_division=math.nan))


def test_tally_counts_labels_hits_and_predictions():
    tally = Tally.of([0, 0, 2, 2, 2], [0, 1, 2, 2, 0], 4)
    assert tally.total.tolist() == [2, 0, 3, 0]
    assert tally.correct.tolist() == [1, 0, 2, 0]
    assert tally.predicted.tolist() == [2, 1, 2, 0]
    assert tally.total.dtype == tally.correct.dtype == tally.predicted.dtype == np.int64


@pytest.mark.parametrize(
    ("labels", "predicted"),
    [([0, 4], [0, 0]), ([0, -1], [0, 0]), ([0.0], [0]), ([0, 1], [0]), ([[0]], [[0]])],
)
def test_tally_refuses_what_are_not_labels(labels, predicted):
    with pytest.raises(ValueError, match="labels"):
        Tally.of(labels, predicted, 4)


def test_shot_groups_at_the_thresholds():
    groups = metrics.shot_groups([101, 100, 99, 21, 20, 19, 1])
    assert groups == {"many": [0], "medium": [1, 2, 3, 4], "few": [5, 6]}
    assert metrics.shot_groups([101, 100, 20, 19], many=99, few=21) == {
        "many": [0, 1],
        "medium": [],
        "few": [2, 3],
    }


def test_shot_accuracy_is_the_mean_of_class_accuracies():
    tally = Tally(np.array([10, 100, 10]), np.array([5, 100, 1]), np.array([10, 100, 10]))
    shots = metrics.shot_accuracy(tally, [500, 200, 3])
    assert shots == {"many": 0.75, "medium": None, "few": 0.1}


def test_a_class_without_test_images_is_in_no_mean():
    tally = Tally(np.array([10, 0, 10]), np.array([5, 0, 10]), np.array([10, 0, 10]))
    shots = metrics.shot_accuracy(tally, [500, 300, 200])
    assert shots == {"many": 0.75, "medium": None, "few": None}
    assert metrics.balanced_accuracy(tally) == 0.75
    assert metrics.worst_class(tally) == 0.5
    assert np.isnan(metrics.class_accuracy(tally)).tolist() == [False, True, False]
    assert metrics.shot_accuracy(tally, [500, 50, 200])["medium"] is None


def test_geometric_mean_of_recalls():
    assert metrics.geometric_mean_recall(of_accuracy(0.1, 0.4, 0.8)) == pytest.approx(
        (0.1 * 0.4 * 0.8) ** (1 / 3)
    )
    assert metrics.geometric_mean_recall(of_accuracy(0.9, 0.0)) == 0.0


def test_shifted_priors_follow_the_training_counts():
    tally = of_accuracy(0.2, 0.9, 0.5)  # class 1 has most training images, class 0 fewest
    counts = [3, 300, 30]
    prior = np.array([0.01, 1.0, 0.1])
    forward = metrics.shifted_accuracy(tally, counts, imbalance_factor=100)
    assert forward == pytest.approx((prior * [0.2, 0.9, 0.5]).sum() / prior.sum())
    backward = metrics.shifted_accuracy(tally, counts, imbalance_factor=100, backward=True)
    reverse = np.array([1.0, 0.01, 0.1])
    assert backward == pytest.approx((reverse * [0.2, 0.9, 0.5]).sum() / reverse.sum())
    uniform = metrics.shifted_accuracy(tally, counts, imbalance_factor=1)
    assert uniform == pytest.approx(metrics.balanced_accuracy(tally))


def test_shifted_accuracy_equals_a_test_set_drawn_that_way():
    labels = np.repeat([0, 1, 2], [1000, 100, 10])
    is_right = np.concatenate(
        [np.arange(n) < right for n, right in ((1000, 700), (100, 50), (10, 2))]
    )
    balanced = of_accuracy(0.7, 0.5, 0.2)
    shifted = metrics.shifted_accuracy(balanced, [90, 60, 30], imbalance_factor=100)
    assert shifted == pytest.approx(is_right.sum() / len(labels))


def summed(probability, is_right, num_bins):
    sums = BinSums(num_bins)
    sums.add(torch.as_tensor(probability, dtype=torch.float64), torch.as_tensor(is_right))
    return sums.read()


def test_ece_agrees_with_torchmetrics(split):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    labels, predicted, probabilities = split
    bins = summed(probabilities.max(axis=1), predicted == labels, 15)
    expected = functional.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=7, n_bins=15
    )
    assert metrics.expected_calibration_error(bins) == pytest.approx(expected.item(), abs=1e-6)


def test_a_bin_holds_its_lower_edge_and_the_last_one_both():
    edges = [0.0, 0.1, 0.3, 0.6, 0.7, 0.9, 1.0]
    assert summed(edges, [True] * 7, 10).count.tolist() == [1, 1, 0, 1, 0, 0, 1, 1, 0, 2]
    just_below = np.nextafter([0.1, 0.3, 0.7], 0)
    assert summed(just_below, [True] * 3, 10).count.nonzero()[0].tolist() == [0, 2, 6]


def test_perfectly_calibrated_scores_one_and_the_opposite_minus_one():
    right = Bins(np.array([0, 0, 4, 4]), np.array([0, 0, 2.5, 3.5]), np.array([0, 0, 0, 0]))
    perfect = Bins(right.count, np.array([0, 0, 2.0, 3.0]), np.array([0, 0, 2, 3]))
    assert metrics.calibration_score(perfect) == 1
    assert metrics.expected_calibration_error(perfect) == 0
    assert metrics.calibration_score(right) == pytest.approx(1 - (0.625 + 0.875))
    assert metrics.calibration_score(right, nonempty=True) == pytest.approx(1 - 2 * (0.625 + 0.875))
    middles = (np.arange(1000) + 0.5) / 1000  # the line from (0, 1) to (1, 0)
    opposite = Bins(np.full(1000, 2000), 2000 * middles, (2000 * middles[::-1]).astype(int))
    assert metrics.calibration_score(opposite) == pytest.approx(-1, abs=1e-3)


def test_harmonic_score_of_a_negative_cal_does_not_exist():
    assert metrics.harmonic_score(0.5, 0.25) == pytest.approx(1 / 3)
    assert metrics.harmonic_score(0.0, 0.5) == 0
    assert metrics.harmonic_score(-0.5, 0.1) is None
    assert metrics.harmonic_score(-0.5, 0.1, published=True) == pytest.approx(0.25)
    assert metrics.harmonic_score(-0.5, 0.5, published=True) is None
    assert metrics.harmonic_score(0.0, 0.0) is None
