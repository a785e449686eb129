"""Intervals of paired differences against scipy and against drawing the images one by one."""

import numpy as np
import pytest
from scipy import stats

from lt_bench.reports.intervals import (
    Difference,
    Interval,
    percentile_interval,
    resampled_class_gains,
    t_interval,
)
from lt_bench.reports.tables import frame


def test_a_t_interval_is_scipys():
    differences = [1.0, 2.5, 0.5, 3.0]
    wanted = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    found = t_interval(differences)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert t_interval([1.0]) is None
    assert t_interval([0.1 + 0.2, 0.3]) is None  # no width, no certainty


def test_resampled_classes_are_images_drawn_with_replacement():
    random = np.random.default_rng(1)
    labels = np.repeat([0, 1, 3], [50, 8, 20])
    gains = random.choice([-1.0, -1 / 3, 0.0, 2 / 3, 1.0], size=len(labels))
    found = resampled_class_gains(gains, labels, 4, draws=20_000)
    assert np.isnan(found[:, 2]).all()
    for label in (0, 1, 3):
        of_class = gains[labels == label]
        slow = random.choice(of_class, size=(20_000, len(of_class))).mean(axis=1)
        quantiles = [0.025, 0.25, 0.5, 0.75, 0.975]
        wanted, got = np.quantile(slow, quantiles), np.quantile(found[:, label], quantiles)
        assert got == pytest.approx(wanted, abs=0.03)


def test_an_interval_over_images_has_the_binomial_width():
    labels = np.zeros(10_000, dtype=int)
    gains = (np.arange(10_000) < 5_000).astype(float)
    interval = percentile_interval(resampled_class_gains(gains, labels, 1), np.ones(1))
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.5098), abs=1e-3)


def test_classes_of_weight_zero_do_not_enter():
    gains = np.array([[0.1, np.nan], [0.3, np.nan]])
    assert percentile_interval(gains, np.array([1.0, 0.0])).high <= 0.3


def test_a_difference_is_clear_only_if_all_the_intervals_asked_for_are():
    clear, unclear = Interval(0.1, 0.2), Interval(-0.1, 0.2)
    both = ("seeds", "images")
    assert Difference(0.1, 3, {"seeds": clear, "images": clear}).is_clear(both)
    assert not Difference(0.1, 3, {"seeds": clear, "images": unclear}).is_clear(both)
    assert Difference(-0.1, 1, {"images": Interval(-2.0, -1.0)}).is_clear(["images"])
    assert not Difference(-0.1, 1, {"images": Interval(-2.0, -1.0)}).is_clear(both)
    assert not Difference(0.1, 3, {"seeds": Interval(0.0, 1.0)}).is_clear(["seeds"])


def test_the_last_bits_of_a_product_do_not_move_an_end():
    # 7.25 points, which one decimal rounds either way
    gains = np.repeat([[0.0], [0.0725]], 1000, axis=0)
    ends = {percentile_interval(gains * (1 + bits), np.ones(1)) for bits in (-1e-14, 0, 1e-14)}
    assert ends == {Interval(0.0, 0.0725)}
    assert percentile_interval(gains[1000:], np.ones(1)) is None  # nothing varied


@pytest.fixture(scope="module")
def quick(committed):
    """The committed quick table, and the records of each of its methods, by seed."""
    (table,) = (table for table in committed.tables if table.name == "quick")
    (rows,) = table.rows.values()
    return frame(table).set_index("method"), {row.config.overlay: row.records for row in rows}


def test_a_committed_interval_over_seeds_is_scipys(quick):
    table, records = quick
    for method in ("cb", "recall", "sdn_recall"):
        ours, theirs = (
            [sum(record.test.correct) / sum(record.test.total) for record in records[m]]
            for m in (method, "ce")
        )
        wanted = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        found = table.loc[method, ["all_difference_seeds_low", "all_difference_seeds_high"]]
        assert list(found) == pytest.approx([wanted.low, wanted.high], abs=1e-5)


def test_a_committed_interval_over_images_is_the_normal_one(quick):
    """Its variance is that of a mean of class means, each over the images of one class."""
    table, records = quick
    for method in ("cb", "recall", "sdn_recall"):
        pairs = zip(records[method], records["ce"], strict=True)
        labels = np.repeat(np.arange(10), 50)
        rights = [[r.test.predictions() == labels for r in pair] for pair in pairs]
        gains = np.mean([np.subtract(*right, dtype=float) for right in rights], axis=0)
        by_class = gains.reshape(10, 50)
        half = 1.96 * np.sqrt((by_class.var(axis=1) / 50).sum()) / 10
        wanted = [by_class.mean() - half, by_class.mean() + half]
        found = table.loc[method, ["all_difference_images_low", "all_difference_images_high"]]
        assert list(found) == pytest.approx(wanted, abs=0.1 * half)
