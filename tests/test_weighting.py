"""Class weights, reductions and the objective."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from lt_bench.config import ObjectiveConfig
from lt_bench.errors import ConfigError
from lt_bench.kernels import first_argmax
from lt_bench.losses import CrossEntropy
from lt_bench.progress import Progress
from lt_bench.schema import Spec, build
from lt_bench.weighting import (
    WEIGHTINGS,
    Objective,
    Recall,
    Uniform,
    make_objective,
    reduce,
)
from tests.conformance import (
    BATCHES,
    CLASS_COUNTS,
    NUM_CLASSES,
    WEIGHTING_SPECS,
    batch,
    objective_of,
    spec_id,
)

weighting_specs = pytest.mark.parametrize("spec", WEIGHTING_SPECS, ids=spec_id)


def made(name, **options):
    return build("weighting", Spec(name, options), WEIGHTINGS, CLASS_COUNTS)


def answers(*pairs):
    """Logits and targets of a batch given as (label, predicted label) pairs, over 4 classes."""
    target = torch.tensor([label for label, _ in pairs])
    predicted = torch.tensor([label for _, label in pairs])
    return F.one_hot(predicted, 4).float(), target


def recall_of(estimate, **options):
    return Recall(torch.tensor([9, 9, 9, 9]), estimate=estimate, **options)


# --- conformance (finite values, state and copies: in test_losses, over the same entries)


@weighting_specs
@pytest.mark.parametrize("kind", BATCHES)
def test_one_finite_weight_per_class_without_a_gradient(spec, kind):
    logits, target = batch(kind)
    weight = build("weighting", spec, WEIGHTINGS, CLASS_COUNTS)(logits.requires_grad_(), target)
    assert weight.shape == (NUM_CLASSES,)
    assert (weight.isfinite() & (weight >= 0)).all()
    assert not weight.requires_grad


@weighting_specs
def test_evaluation_changes_nothing(spec):
    weighting = build("weighting", spec, WEIGHTINGS, CLASS_COUNTS)
    weighting(*batch("ordinary"))
    before = {name: value.clone() for name, value in weighting.state_dict().items()}
    weighting.eval()(*batch("all wrong"))
    for name, value in weighting.state_dict().items():
        assert torch.equal(value, before[name])


@weighting_specs
def test_a_weighting_tracks_if_and_only_if_it_says_so(spec):
    weighting = build("weighting", spec, WEIGHTINGS, CLASS_COUNTS)
    before = weighting.weight_C.clone()
    for kind in ("all correct", "all wrong", "ordinary"):
        weighting(*batch(kind), Progress(90, 100))
    assert torch.equal(weighting.weight_C, before) is not weighting.is_tracking


@pytest.mark.parametrize("name", ["uniform", "inverse_frequency", "effective_number"])
def test_static_weights_add_up_to_the_number_of_classes(name):
    assert float(made(name).weight_C.sum()) == pytest.approx(NUM_CLASSES)


# --- effective number


def test_inverse_frequency_by_hand():
    inverse = [1 / n for n in CLASS_COUNTS.tolist()]
    expected = [w * NUM_CLASSES / sum(inverse) for w in inverse]
    assert made("inverse_frequency").weight_C.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("steps_per_epoch", [1, 7, 85, 391])
def test_drw_switches_exactly_at_start(steps_per_epoch):
    """160 of 200 epochs, as 0.8 of the run."""
    weighting, total = made("effective_number", start=0.8), 200 * steps_per_epoch
    switch = 160 * steps_per_epoch
    for step, expected in (
        (0, torch.ones(NUM_CLASSES)),
        (switch - 1, torch.ones(NUM_CLASSES)),
        (switch, weighting.weight_C),
        (total - 1, weighting.weight_C),
    ):
        got = weighting(*batch("ordinary"), Progress(step, total, steps_per_epoch))
        assert torch.equal(got, expected)


def test_an_empty_class_is_refused():
    config = ObjectiveConfig(weighting=Spec("effective_number"))
    with pytest.raises(ConfigError, match=r"^objective\.weighting\.class_counts: class 1 has no"):
        make_objective(config, torch.tensor([4, 0, 2]))


# --- recall


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        # class 0: 1 of 4 missed; 1: none of 2; 2: its only one; 3: absent
        ("official_batch", [1 / 4, 1 / 2, 1, 1]),
        ("paper_batch", [1 / 4, 0, 1, 0]),
        ("decayed_counts", [1 / 4, 1 / 2, 1, 1]),
        ("official_ema", [1 / 4, 1 / 2, 1, 1]),
        ("present_ema", [1 / 4, 0, 1, 1]),
    ],
)
def test_recall_of_a_first_batch(estimate, expected):
    first = answers((0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (2, 0))
    assert recall_of(estimate)(*first).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        # then class 0: 2 of 2 missed; 1: absent; 2: right; 3: absent
        ("official_batch", [1, 1, 1, 1]),
        ("paper_batch", [1, 0, 0, 0]),
        # N 4 -> 0.8 * 4 + 2, FN 1 -> 0.8 * 1 + 2; class 2: N 1.8, FN 0.8, floored at 1
        ("decayed_counts", [2.8 / 5.2, 1 / 2, 1 / 1.8, 1]),
        ("official_ema", [0.8 / 4 + 0.2, 0.8 / 2 + 0.2, 1, 1]),
        ("present_ema", [0.8 / 4 + 0.2, 0, 0.8, 1]),
    ],
)
def test_recall_of_a_second_batch(estimate, expected):
    options = {} if estimate.endswith("_batch") else {"memory": 0.8}
    weighting = recall_of(estimate, **options)
    weighting(*answers((0, 0), (0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (2, 0)))
    assert weighting(*answers((0, 1), (0, 3), (2, 2))).tolist() == pytest.approx(expected)
    assert weighting.weight_C.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimate", "memory"), [("decayed_counts", 0.99), ("official_ema", 0.5), ("present_ema", 0.5)]
)
def test_unset_memory_is_the_estimates_own(estimate, memory):
    assert recall_of(estimate).memory == memory


def test_recall_goes_from_cross_entropy_to_inverse_frequency():
    """The paper's two ends: every weight 1 at recall 0, 1 / N_c at recall 1."""
    counts = torch.tensor([600, 300, 60, 30])
    target = torch.repeat_interleave(torch.arange(4), counts)
    for predicted, expected in (((target + 1) % 4, torch.ones(4)), (target, 1 / counts)):
        weighting = Recall(counts)
        assert torch.equal(weighting(F.one_hot(predicted, 4).float(), target), expected)


def test_floor_is_the_least_weight():
    weighting = recall_of("present_ema", floor=0.2)
    assert weighting(*answers((0, 0), (1, 0))).tolist() == pytest.approx([0.2, 1, 1, 1])


def test_equal_logits_count_as_the_first_class():
    logits = torch.zeros(2, 4)
    weight = recall_of("paper_batch")(logits, torch.tensor([0, 1]))
    assert weight.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimate": "official_batch", "memory": 0.5}, "memory: 0.5 has no effect on 'official_b"),
        ({"floor": 0.1}, "floor: 0.1 has no effect on 'decayed_counts'"),
        ({"estimate": "batch"}, "estimate: unknown 'batch'"),
        ({"memory": 1.5}, "memory: 1.5 is out of range"),
    ],
)
def test_recall_refuses_options_without_an_effect(options, message):
    with pytest.raises(ConfigError, match=message):
        made("recall", **options)


@given(
    num_classes=st.integers(1, 700),
    width=st.integers(1, 80),
    levels=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_first_argmax_is_argmax(num_classes, width, levels, seed):
    """Few distinct values, so that the largest is there several times."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(levels, (5, num_classes), generator=generator).float()
    assert torch.equal(first_argmax(logits, width), logits.argmax(1))


# --- objective


def test_mean_divides_by_the_batch_and_weighted_mean_by_the_weights():
    loss, weight = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 1.0, 0.5])
    assert float(reduce(loss, weight, "mean")) == pytest.approx(6 / 3)
    assert float(reduce(loss, weight, "weighted_mean")) == pytest.approx(6 / 3.5)


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_zero_weights_make_zero_loss(reduction):
    loss = torch.tensor([1.0, 2.0], requires_grad=True)
    value = reduce(loss, torch.zeros(2), reduction)
    value.backward()
    assert value.item() == 0
    assert loss.grad.tolist() == [0, 0]


def test_weighted_mean_is_torch_weighted_cross_entropy():
    logits, target = batch("ordinary")
    objective = objective_of(weighting=Spec("inverse_frequency"), reduction="weighted_mean")
    expected = F.cross_entropy(logits, target, weight=objective.weighting.weight_C)
    torch.testing.assert_close(objective(logits, target), expected)


def test_an_unknown_reduction_is_refused():
    parts = CrossEntropy(CLASS_COUNTS), Uniform(CLASS_COUNTS)
    with pytest.raises(ConfigError, match="reduction: unknown 'sum'; known: mean, weighted_mean"):
        Objective(*parts, "sum")


@pytest.mark.parametrize("name", ["dice", "max_pooled", "lade", "sum", "ramp"])
def test_class_weights_on_a_batch_loss_need_the_weighted_mean(name):
    config = ObjectiveConfig(Spec(name), Spec("inverse_frequency"), "mean")
    with pytest.raises(ConfigError, match=rf"^here\.reduction: 'mean' would scale '{name}'"):
        make_objective(config, CLASS_COUNTS, place="here")
    make_objective(ObjectiveConfig(Spec(name), Spec("uniform"), "mean"), CLASS_COUNTS)


def test_a_constant_batch_loss_keeps_its_value_under_a_weighted_mean():
    logits, target = batch("ordinary")
    plain = objective_of(Spec("dice"))(logits, target)
    weighted = objective_of(Spec("dice"), Spec("inverse_frequency"), "weighted_mean")
    torch.testing.assert_close(weighted(logits, target), plain)


def test_dice_then_weighted_cross_entropy_as_published():
    """Loss scheduling's best: dice first, cross-entropy weighed by inverse frequency at the end."""
    logits, target = batch("ordinary")
    objective = objective_of(Spec("ramp"), Spec("inverse_frequency"), "weighted_mean")
    dice = objective_of(Spec("dice"))(logits, target)
    weighted = objective_of(weighting=Spec("inverse_frequency"), reduction="weighted_mean")
    cross_entropy = weighted(logits, target)
    for step, share in ((0, 0), (60, 0.5), (95, 1)):
        got = objective(logits, target, Progress(step, 100))
        torch.testing.assert_close(got, (1 - share) * dice + share * cross_entropy)


def test_messages_say_which_part_is_wrong():
    with pytest.raises(ConfigError, match=r"^objective\.loss\.name: unknown 'ladm'; did you mean"):
        make_objective(ObjectiveConfig(Spec("ladm")), CLASS_COUNTS)
    with pytest.raises(ConfigError, match=r"^objective\.weighting\.beta: 2\.0 is out of range"):
        make_objective(
            ObjectiveConfig(weighting=Spec("effective_number", {"beta": 2.0})), CLASS_COUNTS
        )


# --- dense predictions


def dense(num_images=2, shape=(3, 5)):
    generator = torch.Generator().manual_seed(11)
    logits = torch.randn(num_images, NUM_CLASSES, *shape, generator=generator)
    target = torch.randint(NUM_CLASSES, (num_images, *shape), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.3] = 255
    return logits, target


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
@weighting_specs
def test_ignored_elements_never_count(spec, reduction):
    logits, target = dense()
    logits.requires_grad_()
    objective = objective_of(weighting=spec, reduction=reduction)
    objective.ignore_index = 255
    value = objective(logits, target)
    value.backward()

    kept = target != 255
    flat = logits.detach().movedim(1, -1)[kept]
    alone = objective_of(weighting=spec, reduction=reduction)
    torch.testing.assert_close(value, alone(flat, target[kept]))
    assert not logits.grad.movedim(1, -1)[~kept].any()
    for name, counted in alone.state_dict().items():
        assert torch.equal(objective.state_dict()[name], counted)


def test_all_elements_ignored_make_zero_loss():
    logits, target = dense()
    logits.requires_grad_()
    for loss in ("ce", "dice", "max_pooled", "lade", "seesaw"):
        objective = objective_of(Spec(loss))
        objective.ignore_index = 255
        value = objective(logits, torch.full_like(target, 255))
        value.backward()
        assert value.item() == 0
        assert not logits.grad.any()


def test_without_an_ignore_index_every_element_counts():
    logits, target = dense()
    target = target % NUM_CLASSES
    expected = F.cross_entropy(logits, target)
    torch.testing.assert_close(objective_of()(logits, target), expected)


def test_recall_equals_the_official_segmentation_code_where_that_works():
    """Written out from what recall_loss.py computes: counters that start at ones and are set for
    the classes seen, the plain mean over all pixels."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 19, 128, 256, generator=generator)
    # labels in patches, mostly found by the logits; class 18 is absent, class 5 never missed
    target = torch.randint(18, (2, 16, 32), generator=generator)
    target = target.repeat_interleave(8, 1).repeat_interleave(8, 2)
    logits += 2 * F.one_hot(target, 19).movedim(-1, 1)
    logits[:, 5] += 20 * (target == 5)
    logits.requires_grad_()

    predicted = logits.argmax(1)
    count, missed = torch.ones(19), torch.ones(19)
    for label in range(19):
        if (target == label).any():
            count[label] = (target == label).sum()
        if ((target == label) & (predicted != label)).any():
            missed[label] = ((target == label) & (predicted != label)).sum()
    weight = missed / count
    assert float(weight[18]) == 1
    assert torch.equal(weight[5], 1 / (target == 5).sum())
    expected = (weight[target] * F.cross_entropy(logits, target, reduction="none")).mean()
    (expected_gradient,) = torch.autograd.grad(expected, logits)

    counts = torch.ones(19, dtype=torch.int64)
    weighting = Recall(counts, estimate="official_batch")
    objective = Objective(CrossEntropy(counts), weighting, "mean", ignore_index=255)
    got = objective(logits, target)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, logits)[0], expected_gradient)
    torch.testing.assert_close(weighting.weight_C, weight)


def test_logits_of_other_classes_than_the_counts_are_refused():
    objective = make_objective(ObjectiveConfig(), torch.tensor([5, 3, 2]))
    with pytest.raises(ConfigError, match=r"logits: \(4, 5\), \(B, 3\) expected"):
        objective(torch.zeros(4, 5), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 1, 2], r"target: \(3,\) labels for logits of \(2, 3\); give one for each"),
        ([[0, 1]], r"target: \(1, 2\) labels for logits of \(2, 3\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, said):
    objective = make_objective(ObjectiveConfig(), torch.tensor([5, 3, 2]))
    with pytest.raises(ConfigError, match=said):
        objective(torch.zeros(2, 3), torch.tensor(labels))


def test_a_batch_without_images_is_refused_and_one_of_ignored_labels_gives_zero():
    objective = make_objective(ObjectiveConfig(), torch.tensor([5, 3]), ignore_index=255)
    with pytest.raises(ConfigError, match="and at least one"):
        objective(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert objective(torch.randn(3, 2), torch.full((3,), 255)) == 0


@pytest.mark.parametrize("counts", [[5.5, 2.0], [-1.0, 3.0], [[1.0, 2.0]], [0, 0]])
def test_what_are_no_counts_is_refused(counts):
    with pytest.raises(ConfigError, match="class_counts: not the number of training images"):
        make_objective(ObjectiveConfig(), torch.tensor(counts))


def test_an_objective_made_to_ignore_a_label_ignores_it():
    counts = torch.tensor([5, 3])
    objective = make_objective(ObjectiveConfig(), counts, ignore_index=255)
    logits, target = torch.randn(3, 2), torch.tensor([0, 255, 1])
    assert objective(logits, target) == make_objective(ObjectiveConfig(), counts)(
        logits[[0, 2]], target[[0, 2]]
    )
