"""digits_lt: the embedded default."""

import pytest
import torch

from lt_bench.data import lists
from lt_bench.data.build import build_lists
from lt_bench.data.check import check
from lt_bench.data.datasets import DATASETS
from lt_bench.data.lists import items_of
from lt_bench.errors import ConfigError
from lt_bench.schema import Spec, build


def digits(**options):
    return build("data", Spec("digits_lt", options), DATASETS, None)


def test_sizes():
    data = digits()
    assert list(data.class_counts) == [118, 76, 49, 32, 20, 13, 8, 5, 3, 2]
    assert len(data.train) == 326
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert torch.bincount(data.train.labels).tolist() == data.class_counts
    assert torch.bincount(data.test.labels).tolist() == [50] * 10
    assert data.val is None


def test_no_test_image_is_trained_on():
    for seed in (0, 1):
        data = digits(imbalance_factor=1, subset_seed=seed)
        assert not set(items_of(data.train)) & set(items_of(data.test))


def test_the_test_split_never_changes_and_the_subset_seed_changes_the_rest():
    one, other = digits(), digits(subset_seed=1, imbalance_factor=10, imbalance_type="step")
    assert torch.equal(one.test.images, other.test.images)
    assert one.identity["test"] == other.identity["test"]
    assert one.identity["train"] != digits(subset_seed=1).identity["train"]


def test_a_smaller_factor_contains_a_larger_ones_images():
    held = [set(items_of(digits(imbalance_factor=factor).train)) for factor in (100, 50, 10, 1)]
    assert all(a < b for a, b in zip(held, held[1:], strict=False))


def test_committed_lists_are_what_the_scans_give(tmp_path, monkeypatch):
    committed = lists.LISTS
    monkeypatch.setattr(lists, "LISTS", tmp_path)
    without_lists = digits()
    build_lists("digits_lt", None)
    for name in ("digits_lt.json", "digits_lt/train.txt", "digits_lt/test.txt"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes()
    with_lists = digits()
    assert with_lists.identity == without_lists.identity
    assert torch.equal(with_lists.train.images, without_lists.train.images)
    assert torch.equal(with_lists.test.images, without_lists.test.images)


def test_impossible_profiles_are_refused():
    with pytest.raises(ConfigError, match=r"data.imbalance_factor: 500 leaves class"):
        digits(imbalance_factor=500)


def test_check_reports_what_a_run_would_use():
    report = check(Spec("digits_lt", {"imbalance_factor": 10}), None)
    assert report.ok
    assert any("many/medium/few" in line for line in report.lines)
    assert digits(imbalance_factor=10).identity["train"] in " ".join(report.lines)


def test_a_validation_split_is_balanced_and_costs_the_fullest_class_alone():
    usual, data = digits(), digits(val_per_class=20)
    assert data.val.labels.bincount().tolist() == [20] * 10
    assert data.class_counts[1:] == usual.class_counts[1:]
    assert data.class_counts[0] < usual.class_counts[0]
    assert not set(items_of(data.val)) & set(items_of(data.train) + items_of(data.test))
    assert data.identity["test"] == usual.identity["test"]
