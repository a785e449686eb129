"""How many images a class keeps, and which."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lt_bench.data.lists import ranked
from lt_bench.data.profiles import class_counts, ldam_positions
from lt_bench.errors import ConfigError
from lt_bench.metrics import shot_groups

GOLDEN = Path(__file__).parents[1].parent / "shared" / "reference" / "golden.json"


@pytest.mark.parametrize(
    ("classes", "factor", "total"),
    [
        (100, 10, 19_573),
        (100, 20, 15_907),
        (100, 50, 12_608),
        (100, 100, 10_847),
        (100, 200, 9_502),
        (10, 10, 20_431),
        (10, 20, 17_023),
        (10, 50, 13_996),
        (10, 100, 12_406),
        (10, 200, 11_203),
    ],
)
def test_cifar_totals_are_the_published_ones(classes, factor, total):
    assert sum(class_counts(classes, 50_000 // classes, imbalance_factor=factor)) == total


def test_cifar100_shot_groups():
    sizes = {
        factor: [
            len(g) for g in shot_groups(class_counts(100, 500, imbalance_factor=factor)).values()
        ]
        for factor in (10, 50, 100, 200)
    }
    assert sizes == {10: [69, 31, 0], 50: [41, 41, 18], 100: [35, 35, 30], 200: [30, 31, 39]}


def test_step_profile_halves_the_classes():
    counts = class_counts(100, 500, imbalance_factor=100, imbalance_type="step")
    assert counts == [500] * 50 + [5] * 50


def test_a_factor_of_one_is_balanced():
    assert class_counts(7, 30, imbalance_factor=1) == [30] * 7


def test_a_profile_that_empties_a_class_is_refused():
    with pytest.raises(ConfigError, match=r"imbalance_factor: 1000 leaves class 90 of 100 without"):
        class_counts(100, 500, imbalance_factor=1000)


@given(st.integers(1, 60), st.integers(1, 3000), st.floats(1, 1000))
def test_counts_never_rise_and_start_at_the_full_class(num_classes, n_max, factor):
    try:
        counts = class_counts(num_classes, n_max, imbalance_factor=factor)
    except ConfigError:
        assert n_max / factor < 1 + 1e-9
        return
    assert counts[0] == n_max
    assert all(a >= b >= 1 for a, b in zip(counts, counts[1:], strict=False))


def test_the_order_of_a_class_depends_on_content_seed_and_class_alone():
    hashes = [f"{i:016x}" for i in np.random.default_rng(0).integers(0, 2**62, 40)]

    def order(images, seed=0, label=3):
        items = [(image, label) for image in images]
        return [image for image, _ in ranked(items, num_classes=5, subset_seed=seed)]

    assert order(hashes) == order(hashes[::-1])
    assert sorted(order(hashes)) == sorted(hashes) != order(hashes)
    assert order(hashes, seed=1) != order(hashes) != order(hashes, label=4)


@pytest.mark.skipif(not GOLDEN.exists(), reason="no shared/reference/golden.json")
def test_counts_and_positions_match_the_published_code():
    cases = [case for case in json.loads(GOLDEN.read_text())["cases"] if case["loss"] == "cifar_lt"]
    assert len(cases) == 6
    for case in cases:
        given, expected = case["hparams"], case["expected"]
        n_max = 50_000 // given["classes"]
        counts = class_counts(
            given["classes"],
            n_max,
            imbalance_factor=float(given["imb_factor"].removeprefix("1/")),
            imbalance_type={"exp": "exponential", "step": "step"}[given["imb_type"]],
        )
        kept = ldam_positions(counts, given["rand_number"], available=n_max)
        content = np.concatenate(kept).astype("<i8").tobytes()
        assert counts == expected["counts"], case["id"]
        assert hashlib.sha256(content).hexdigest() == expected["positions_sha256"], case["id"]


def test_ldam_positions_leave_the_global_generator_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].tolist()
    ldam_positions([5, 3], 0, available=5)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("factor", [49, 98, 107, 996])
def test_the_rarest_class_has_one_image_where_the_factor_is_the_count(factor):
    """Though n * (1 / n) is below 1 for some n."""
    assert class_counts(10, factor, imbalance_factor=factor)[-1] == 1
    assert class_counts(10, 5 * factor, imbalance_factor=factor)[-1] == 5
