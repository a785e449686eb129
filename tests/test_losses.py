"""Losses: a conformance suite over every entry, and one slow answer each, worked out by hand."""

import copy
import inspect
import math
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from lt_bench import kernels, losses
from lt_bench.class_vectors import effective_number_weight, inverse_frequency_weight, is_tail
from lt_bench.errors import ConfigError
from lt_bench.losses import LOSSES
from lt_bench.progress import Progress
from lt_bench.schema import Spec, build
from tests.conformance import (
    BATCHES,
    CLASS_COUNTS,
    LOSS_SPECS,
    NUM_CLASSES,
    OBJECTIVES,
    batch,
    objective_id,
    objective_of,
    spec_id,
)

entries = pytest.mark.parametrize("entry", OBJECTIVES, ids=objective_id)
loss_specs = pytest.mark.parametrize("spec", LOSS_SPECS, ids=spec_id)


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def made(name, counts=CLASS_COUNTS, **options):
    return build("loss", Spec(name, options), LOSSES, counts)


# --- conformance


@entries
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("step", [0, 85], ids=["start", "late"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_value_and_gradient_are_finite(entry, kind, step, autocast):
    objective = objective_of(*entry)
    given, target = batch(kind)
    given.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = F.linear(given, torch.eye(NUM_CLASSES))
        assert logits.dtype is (torch.bfloat16 if autocast else torch.float32)
        value = objective(logits, target, Progress(step, 100, 10))
    value.backward()
    assert value.dtype is torch.float32
    assert value.isfinite()
    assert given.grad.isfinite().all()


@entries
def test_serves_as_a_plain_criterion(entry):
    torch.manual_seed(0)
    plain = objective_of(*entry)(*batch("ordinary"))
    torch.manual_seed(0)
    assert torch.equal(plain, objective_of(*entry)(*batch("ordinary"), Progress(0, 1, 1)))


@entries
def test_state_is_buffers(entry):
    objective = objective_of(*entry)
    objective(*batch("ordinary"))
    for module in objective.modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]
    assert not list(objective.parameters())


@entries
def test_state_survives_saving_and_copying(entry, tmp_path):
    objective = objective_of(*entry)
    for kind in ("ordinary", "all wrong"):
        objective(*batch(kind))
    torch.save(objective.state_dict(), tmp_path / "state.pt")
    loaded = objective_of(*entry)
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    copied = copy.deepcopy(objective)

    def next_value(of):
        torch.manual_seed(0)
        return of(*batch("ordinary"), Progress(85, 100, 10))

    expected = next_value(objective)
    assert torch.equal(next_value(loaded), expected)
    assert torch.equal(next_value(copied), expected)
    # they are independent: what was just run on one did not move the others
    copied(*batch("all wrong"))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, objective.state_dict()[name])


@entries
def test_progress_as_a_device_tensor_gives_the_same(entry):
    """Inside a captured step the clock is a tensor."""
    for step in (0, 79, 80, 99):
        torch.manual_seed(0)
        expected = objective_of(*entry)(*batch("ordinary"), Progress(step, 100, 10))
        torch.manual_seed(0)
        clock = Progress(torch.tensor(step), 100, 10)
        torch.testing.assert_close(objective_of(*entry)(*batch("ordinary"), clock), expected)


@entries
def test_compiles_to_one_graph_for_all_steps(entry):
    """No break (a branch on values, a read by the host) and nothing new when the clock moves."""
    torch._dynamo.reset()
    eager, compiled = objective_of(*entry), objective_of(*entry)
    step = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for at in (0, 79, 80, 99):
            results = []
            for run in (eager, step):
                torch.manual_seed(0)
                logits, target = batch("ordinary")
                value = run(logits.requires_grad_(), target, Progress(torch.tensor(at), 100, 10))
                value.backward()
                results.append((value, logits.grad))
            torch.testing.assert_close(results[1], results[0])
    for name, value in compiled.state_dict().items():
        torch.testing.assert_close(value, eager.state_dict()[name])


@loss_specs
def test_one_value_per_sample(spec):
    logits, target = batch("ordinary")
    assert build("loss", spec, LOSSES, CLASS_COUNTS)(logits, target).shape == target.shape


@loss_specs
def test_the_logits_given_are_left_alone(spec):
    logits, target = batch("ordinary")
    before = logits.clone()
    build("loss", spec, LOSSES, CLASS_COUNTS)(logits, target)
    assert torch.equal(logits, before)


@loss_specs
def test_only_a_loss_of_the_whole_batch_mixes_samples(spec):
    loss = build("loss", spec, LOSSES, CLASS_COUNTS).eval()
    logits, target = batch("ordinary")
    torch.manual_seed(0)
    together = loss(logits, target)
    torch.manual_seed(0)
    alone = torch.cat([loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(target))])
    if spec.name != "seql" or spec.options:  # at gamma 1 the draw does not matter
        assert torch.allclose(together, alone, rtol=1e-5) is not loss.per_rank


@loss_specs
def test_probabilities_rank_classes_as_the_logits(spec):
    loss = build("loss", spec, LOSSES, CLASS_COUNTS)
    logits, _ = batch("ordinary")
    scores = loss.probabilities(logits)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert torch.equal(scores.argmax(1), logits.argmax(1))
    if type(loss).probabilities is losses.Loss.probabilities:
        assert torch.allclose(scores.sum(1), torch.ones(len(scores)))


@pytest.mark.parametrize("name", LOSSES)
def test_docstring_says_where_it_is_from(name):
    text = " ".join(inspect.getdoc(LOSSES[name]).split())
    assert name in ("ce", "sigmoid_ce") or re.search(r", (19|20)\d\d", text)


# --- the slow way, in plain Python floats


def log_sum_exp(values):
    return math.log(math.fsum(math.exp(value) for value in values))


def softmax(row):
    return [math.exp(value - log_sum_exp(row)) for value in row]


def log_sigmoid(value):
    return -math.log1p(math.exp(-value))


def frequencies(counts):
    return [count / sum(counts) for count in counts]


def cross_entropy(row, label, counts):
    return log_sum_exp(row) - row[label]


def focal(row, label, counts, gamma=1.0):
    p = softmax(row)[label]
    return (1 - p) ** gamma * -math.log(p)


def ldam(row, label, counts, max_margin=0.5, scale=30.0):
    margin = max_margin * (min(counts) / counts[label]) ** 0.25
    shifted = [scale * (z - margin * (c == label)) for c, z in enumerate(row)]
    return cross_entropy(shifted, label, counts)


def balanced_softmax(row, label, counts):
    return cross_entropy([z + math.log(n) for z, n in zip(row, counts, strict=True)], label, counts)


def logit_adjusted(row, label, counts, tau=1.0):
    prior = frequencies(counts)
    shifted = [z + math.log(f**tau + 1e-12) for z, f in zip(row, prior, strict=True)]
    return cross_entropy(shifted, label, counts)


def vector_scaling(row, label, counts, gamma=0.3, tau=1.0):
    scaled = [
        z / (max(counts) / n) ** gamma + tau * math.log(f)
        for z, n, f in zip(row, counts, frequencies(counts), strict=True)
    ]
    return cross_entropy(scaled, label, counts)


def label_aware_smoothing(row, label, counts, at_max=0.4, at_min=0.1):
    position = (counts[label] - min(counts)) / (max(counts) - min(counts))
    eps = at_min + (at_max - at_min) * math.sin(math.pi / 2 * position)
    surprise = [-math.log(p) for p in softmax(row)]
    return (1 - eps) * surprise[label] + eps * sum(surprise) / len(row)


def sigmoid_ce(row, label, counts):
    return -sum(log_sigmoid(z if c == label else -z) for c, z in enumerate(row))


def sigmoid_focal(row, label, counts, gamma=1.0):
    total = 0.0
    for c, z in enumerate(row):
        log_p = log_sigmoid(z if c == label else -z)
        total -= (1 - math.exp(log_p)) ** gamma * log_p
    return total


def eql(row, label, counts, threshold=0.05):
    kept = [c for c, f in enumerate(frequencies(counts)) if c == label or not f < threshold]
    return -sum(log_sigmoid(row[c] if c == label else -row[c]) for c in kept)


def dice_per_sample(row, label, counts):
    p = softmax(row)
    return 1 - 2 * (p[label] + 1) / (sum(value**2 for value in p) + 1 + 1 + 1e-5)


def seesaw_first_batch(row, label, counts, p=0.8, q=2.0, eps=0.01):
    seen = [sum(1 for target in batch("ordinary")[1] if target == c) for c in range(len(row))]
    scores = softmax(row)
    shifted = []
    for c, z in enumerate(row):
        mitigation = min(1.0, max(seen[c], 1) / max(seen[label], 1)) ** p
        compensation = max(1.0, scores[c] / max(scores[label], eps)) ** q
        shifted.append(z if c == label else z + math.log(mitigation * compensation))
    return cross_entropy(shifted, label, counts)


BY_HAND = [
    ("ce", {}, cross_entropy),
    ("focal", {}, focal),
    ("focal", {"gamma": 2.5}, focal),
    ("ldam", {}, ldam),
    ("ldam", {"max_margin": 0.3, "scale": 10.0}, ldam),
    ("balanced_softmax", {}, balanced_softmax),
    ("logit_adjusted", {}, logit_adjusted),
    ("logit_adjusted", {"tau": 1.5}, logit_adjusted),
    ("vs", {}, vector_scaling),
    ("vs", {"gamma": 0.15, "tau": 0.5}, vector_scaling),
    ("label_aware_smoothing", {}, label_aware_smoothing),
    ("label_aware_smoothing", {"at_max": 0.3, "at_min": 0.0}, label_aware_smoothing),
    ("sigmoid_ce", {}, sigmoid_ce),
    ("sigmoid_focal", {}, sigmoid_focal),
    ("sigmoid_focal", {"gamma": 0.5}, sigmoid_focal),
    ("eql", {"threshold": 0.05}, eql),
    ("dice", {"layout": "sample"}, dice_per_sample),
    ("seesaw", {}, seesaw_first_batch),
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("name", "options", "by_hand"), BY_HAND)
def test_equals_the_answer_by_hand(name, options, by_hand):
    logits, target = batch("ordinary")
    counts = CLASS_COUNTS.tolist()
    slow = {} if name in ("eql", "dice", "seesaw") else options
    expected = [
        by_hand(row, label, counts, **slow)
        for row, label in zip(logits.tolist(), target.tolist(), strict=True)
    ]
    got = made(name, **options)(logits, target)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_seql_by_hand():
    """A tail class leaves the denominator of others' samples where the draw is below gamma."""
    logits, target = batch("ordinary")
    uniform = torch.rand(logits.shape, generator=torch.Generator().manual_seed(1))
    tail = [f < 0.05 for f in frequencies(CLASS_COUNTS.tolist())]
    assert any(tail)
    expected = []
    for i, (row, label) in enumerate(zip(logits.tolist(), target.tolist(), strict=True)):
        kept = [
            z
            for c, z in enumerate(row)
            if c == label or not (tail[c] and float(uniform[i, c]) < 0.6)
        ]
        expected.append(log_sum_exp(kept) - row[label])
    loss = made("seql", gamma=0.6, threshold=0.05)
    torch.testing.assert_close(
        loss(logits, target, uniform_BC=uniform), torch.tensor(expected), rtol=1e-10, atol=1e-12
    )


def test_seql_draws_are_uniform_and_independent():
    """Four draws come of one number: each of the four, and neighbours, as if drawn alone."""
    torch.manual_seed(0)
    draw = kernels.uniform(torch.empty(0), 1001, 403).flatten()
    draw = draw[: len(draw) // 4 * 4]
    assert (draw * 2**16 == (draw * 2**16).round()).all()
    assert draw.min() < 1e-4
    assert 1 - 1e-4 < draw.max() < 1
    n = len(draw) / 4
    for part in draw.view(-1, 4).T:
        counts = torch.histc(part, bins=100, min=0, max=1)
        chi_squared = float(((counts - n / 100) ** 2 / (n / 100)).sum())
        assert 57 < chi_squared < 149  # 99 degrees of freedom: one in a thousand either side
    pairs = torch.corrcoef(draw.view(-1, 4).T) - torch.eye(4)
    assert pairs.abs().max() < 4 / n**0.5


@pytest.mark.usefixtures("float64")
def test_lade_by_hand():
    logits, target = batch("ordinary")
    rows, labels = logits.tolist(), target.tolist()
    prior = frequencies(CLASS_COUNTS.tolist())
    regulariser = 0.0
    for c, pi in enumerate(prior):
        own = [row[c] for row, label in zip(rows, labels, strict=True) if label == c]
        of_class = sum(own) / (len(own) + 1e-8)
        of_all = log_sum_exp(
            [row[c] - math.log(pi + 1e-9) + math.log(1 / NUM_CLASSES + 1e-9) for row in rows]
        ) - math.log(len(rows))
        regulariser -= pi * (of_class - of_all - 0.1 * of_all**2)
    expected = [
        cross_entropy([z + math.log(f + 1e-9) for z, f in zip(row, prior, strict=True)], label, 0)
        + 0.1 * regulariser
        for row, label in zip(rows, labels, strict=True)
    ]
    got = made("lade")(logits, target)
    torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("balanced", [False, True])
def test_dice_by_hand(balanced):
    logits, target = batch("ordinary")
    counts = CLASS_COUNTS.tolist()
    weight = [1 / n for n in counts] if balanced else [1.0] * NUM_CLASSES
    weight = [w * NUM_CLASSES / sum(weight) for w in weight]
    overlap = area = 0.0
    for row, label in zip(logits.tolist(), target.tolist(), strict=True):
        for c, p in enumerate(softmax(row)):
            overlap += weight[c] * p * (c == label)
            area += weight[c] * (p**2 + (c == label))
    expected = 1 - 2 * (overlap + 1) / (area + 1 + 1e-5)
    got = made("dice", balanced=balanced)(logits, target)
    torch.testing.assert_close(got, torch.full((8,), expected), rtol=1e-10, atol=1e-12)


def test_dice_of_groups_is_the_mean_over_them():
    logits, target = batch("ordinary")
    group = torch.tensor([0, 1, 0, 0, 1, 2, 2, 2])
    loss = made("dice")
    each = [loss(logits[group == g], target[group == g])[0] for g in range(3)]
    got = loss(logits, target, group_B=group)
    torch.testing.assert_close(got, torch.stack(each).mean().expand(8))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("p", "m_over_n"), [(1.3, 0.1), (1.3, 0.4), (2.0, 0.25), (1.7, 1.0)])
def test_max_pooled_weights_by_bisection(p, m_over_n):
    """The worst weights lie on the norm's bound; which alpha puts them there is searched for."""
    loss_B = torch.rand(40, generator=torch.Generator().manual_seed(3)).square() * 9
    n, q = len(loss_B), p / (p - 1)
    bound = n ** (-1 / q)
    tau = bound * (m_over_n * n) ** (-1 / p)

    def weights(alpha):
        return tau * (loss_B / alpha).clamp(max=1).pow(q - 1)

    low, high = 1e-9, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if weights(middle).norm(p) > bound else (low, middle)
    got = made("max_pooled", p=p, m_over_n=m_over_n).sample_weight(loss_B)
    torch.testing.assert_close(got, weights(high), rtol=1e-8, atol=1e-12)
    assert got.max() <= tau * (1 + 1e-12)
    assert got.norm(p) <= bound * (1 + 1e-12)
    # no other allowed weights make more of the loss
    for seed in range(20):
        other = torch.rand(n, generator=torch.Generator().manual_seed(seed)).pow(3)
        other = (other * bound / other.norm(p)).clamp(max=tau)
        assert other @ loss_B <= got @ loss_B


def test_max_pooling_over_all_samples_is_the_mean():
    logits, target = batch("ordinary")
    got = made("max_pooled", m_over_n=1.0)(logits, target).mean()
    torch.testing.assert_close(got, F.cross_entropy(logits, target))


# --- what is particular about single losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", BATCHES)
def test_cross_entropy_is_torchs(kind, dtype):
    given, target = batch(kind)
    results = []
    for function in (kernels.cross_entropy, partial(F.cross_entropy, reduction="none")):
        logits = given.to(dtype, copy=True).requires_grad_()
        value = function(logits, target)
        (value * torch.arange(1.0, len(value) + 1)).sum().backward(retain_graph=True)
        value.sum().backward()  # once more through the same graph
        results.append((value.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1])


def test_cross_entropy_of_a_class_shut_out():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]], requires_grad=True)
    value = kernels.cross_entropy(logits, torch.tensor([0]))
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert logits.grad[0].tolist() == [-0.5, 0, 0.5]


def test_unset_tail_ratio_is_five_percent():
    counts = torch.tensor([80, 10, 4, 3, 2, 1])
    assert torch.equal(is_tail(counts), is_tail(counts, tail_ratio=0.05))


@pytest.mark.parametrize(
    ("ratio", "tail"),
    [
        (0.0, [0, 0, 0, 0, 0]),
        (0.01, [0, 0, 0, 0, 1]),
        (0.08, [0, 0, 0, 0, 1]),  # one of the two equal classes would still fit
        (0.09, [0, 0, 1, 1, 1]),
        (0.99, [0, 1, 1, 1, 1]),
        (1.0, [1, 1, 1, 1, 1]),
    ],
)
def test_tail_ratio_takes_equal_counts_together(ratio, tail):
    counts = torch.tensor([70, 21, 4, 4, 1])
    assert is_tail(counts, tail_ratio=ratio).int().tolist() == tail


def test_exactly_the_tail_ratio_is_tail():
    """249 of 3,000 images are 0.083 of them, which is 248.99... in float32."""
    counts = torch.tensor([2751, 249])
    assert is_tail(counts, tail_ratio=0.083).int().tolist() == [0, 1]


def test_threshold_is_strict():
    counts = torch.tensor([5, 3, 1, 1])
    assert is_tail(counts, threshold=0.3).tolist() == [False, False, True, True]
    assert is_tail(counts, threshold=0.1).tolist() == [False] * 4


@pytest.mark.parametrize("name", ["seql", "eql"])
def test_threshold_and_tail_ratio_together_are_refused(name):
    with pytest.raises(ConfigError, match=r"^loss\.threshold: 0\.1 and tail_ratio 0\.2 both say"):
        made(name, threshold=0.1, tail_ratio=0.2)


def test_seql_draws_with_probability_gamma_and_anew():
    loss = made("seql", gamma=0.7, threshold=1.1)
    logits, target = torch.zeros(20_000, NUM_CLASSES), torch.zeros(20_000, dtype=torch.int64)
    torch.manual_seed(0)
    first, second = loss(logits, target), loss(logits, target)
    assert not torch.equal(first, second)
    others_kept = (first.exp() - 1).mean() / (NUM_CLASSES - 1)
    assert float(others_kept) == pytest.approx(0.3, abs=0.01)


def test_seql_extremes_of_gamma():
    logits, target = batch("ordinary")
    never = made("seql", gamma=0.0, threshold=1.1)(logits, target)
    torch.testing.assert_close(never, F.cross_entropy(logits, target, reduction="none"))
    always = made("seql", gamma=1.0, threshold=1.1)(logits, target)
    torch.testing.assert_close(always, torch.zeros(8))


def test_eql_background_is_a_negative_for_every_class():
    logits, _ = batch("ordinary")
    background = torch.full((8,), NUM_CLASSES)
    got = made("eql", threshold=1.1, background=True)(logits, background)
    torch.testing.assert_close(got, F.softplus(logits).sum(1))
    with pytest.raises((RuntimeError, IndexError)):
        made("eql", threshold=1.1)(logits, background)


def test_eql_keeps_a_share_of_what_it_spares():
    logits, target = torch.zeros(1, len(CLASS_COUNTS)), torch.tensor([0])
    drawn = torch.full((1, len(CLASS_COUNTS)), 0.3)
    drawn[0, :3] = 0.2  # below 0.3 of the target itself, and of two negatives

    def terms(**options):
        value = made("eql", threshold=1.1, **options)(logits, target, uniform_BC=drawn)
        return float(value / math.log(2))

    assert terms(keep=0.3) == pytest.approx(3)
    assert terms(keep=1.0) == pytest.approx(len(CLASS_COUNTS))
    assert terms() == pytest.approx(1)


def test_sigmoid_losses_start_at_the_published_bias():
    assert made("sigmoid_focal").initial_bias() == -math.log(NUM_CLASSES - 1)
    assert made("sigmoid_ce").initial_bias() == -math.log(NUM_CLASSES - 1)
    assert torch.tensor(made("eql").initial_bias()).sigmoid() == pytest.approx(0.001)
    assert made("ce").initial_bias() is None
    into_ce = {"first": Spec("sigmoid_ce"), "second": Spec("ce")}
    assert made("ramp", **into_ce).initial_bias() == -math.log(NUM_CLASSES - 1)


def test_focal_with_gamma_zero_is_cross_entropy():
    logits, target = batch("ordinary")
    got = made("focal", gamma=0.0)(logits, target)
    torch.testing.assert_close(got, F.cross_entropy(logits, target, reduction="none"))


@pytest.mark.usefixtures("float64")
def test_focal_weight_in_the_exponent():
    logits, target = batch("ordinary")
    weight = effective_number_weight(CLASS_COUNTS, 0.99)[target]
    weighted = weight * F.cross_entropy(logits, target, reduction="none")
    expected = (1 - (-weighted).exp()).pow(2) * weighted
    got = made("focal", gamma=2.0, exponent_beta=0.99)(logits, target)
    torch.testing.assert_close(got, expected)


def test_sigmoid_focal_keeps_the_hardest_positive():
    logits = torch.tensor([[-100.0, 0.0]])
    got = made("sigmoid_focal", torch.tensor([1, 1]))(logits, torch.tensor([0]))
    assert float(got) == pytest.approx(100 + 0.5 * math.log(2), rel=1e-6)


def test_balanced_softmax_gives_an_empty_class_no_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    value = made("balanced_softmax", torch.tensor([3, 0, 1]))(logits, torch.tensor([0]))
    value.sum().backward()
    assert logits.grad[0].tolist() == pytest.approx([-0.25, 0.0, 0.25])


@pytest.mark.parametrize("name", ["ldam", "vs"])
def test_an_empty_class_is_refused_where_its_weight_is_infinite(name):
    with pytest.raises(ConfigError, match=r"^loss\.class_counts: class 1 has no training image"):
        made(name, torch.tensor([3, 0, 1]))


def test_logit_adjusted_is_balanced_softmax_at_tau_one():
    logits, target = batch("ordinary")
    torch.testing.assert_close(
        made("logit_adjusted")(logits, target), made("balanced_softmax")(logits, target)
    )


def test_ldam_gives_the_rarest_class_the_largest_margin():
    margin = made("ldam").margin_C
    assert float(margin[-1]) == 0.5
    assert (margin.diff() > 0).all()
    logits, _ = batch("ordinary")
    torch.testing.assert_close(made("ldam").probabilities(logits), (30 * logits).softmax(1))


def test_seesaw_counts_in_training_only():
    loss = made("seesaw")
    logits, target = batch("ordinary")
    loss(logits, target)
    expected = torch.bincount(target, minlength=NUM_CLASSES).float()
    assert torch.equal(loss.count_C, expected)
    loss.eval()(logits, target)
    assert torch.equal(loss.count_C, expected)


def test_smoothing_of_balanced_counts_is_the_least():
    loss = made("label_aware_smoothing", torch.tensor([9, 9, 9]))
    assert loss.smoothing_C.tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("shape", "middle"), [("concave", 0.3121320), ("linear", 0.25), ("convex", 0.1878680)]
)
def test_smoothing_shapes(shape, middle):
    loss = made("label_aware_smoothing", torch.tensor([5, 10, 15]), shape=shape)
    assert loss.smoothing_C.tolist() == pytest.approx([0.1, middle, 0.4], rel=1e-5)


def test_sum_adds_its_parts_by_factor():
    logits, target = batch("ordinary")
    got = made("sum", parts=["ce", {"name": "focal", "gamma": 2.0}], factors=[0.8, 0.2])
    expected = 0.8 * made("ce")(logits, target) + 0.2 * made("focal", gamma=2.0)(logits, target)
    torch.testing.assert_close(got(logits, target), expected)
    assert not got.per_rank
    assert made("sum").per_rank


def test_ramp_goes_from_the_first_loss_to_the_second():
    logits, target = batch("ordinary")
    ramp = made("ramp", first="focal", second="ldam", begin=0.25, end=0.75)
    first, second = made("focal")(logits, target), made("ldam")(logits, target)

    def at(step):
        return ramp(logits, target, Progress(step, 100))

    assert torch.equal(at(0), first)
    assert torch.equal(at(25), first)
    torch.testing.assert_close(at(50), (first + second) / 2)
    assert torch.equal(at(75), second)
    assert torch.equal(at(99), second)


def test_alternating_ramp_returns_to_the_second_loss():
    ramp = made("ramp", shape="alternating")
    share = [float(ramp.share_of_second(Progress(step, 100))) for step in (0, 25, 50, 70, 90, 99)]
    assert share == pytest.approx([1, 0.5, 0, 1 - math.sqrt(0.5), 1, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ramp", {"begin": 0.9}, r"^loss\.begin: 0\.9 leaves 'naive' no time"),
        ("ramp", {"begin": 0.0, "shape": "alternating"}, "leaves 'alternating' no time"),
        ("ramp", {"first": "dise"}, r"loss\.first\.name: unknown 'dise'; did you mean 'dice'"),
        ("sum", {"parts": ["ce"]}, "factors: 2 given for 1 parts"),
        (
            "sum",
            {"parts": ["ce", {"name": "focal", "gama": 1}]},
            r"loss\.parts\[1\]\.gama: no such",
        ),
        ("focal", {"exponent_beta": 1.0}, r"loss\.exponent_beta: 1\.0 is out of range"),
        ("max_pooled", {"p": 1.0}, r"loss\.p: 1\.0 is out of range"),
    ],
)
def test_a_wrong_option_is_refused_with_its_place(name, options, message):
    with pytest.raises(ConfigError, match=message):
        made(name, **options)


def test_inner_losses_refuse_with_their_place():
    with pytest.raises(ConfigError, match=r"^loss\.parts\[0\]\.class_counts: class 1"):
        made("sum", torch.tensor([3, 0]), parts=["ldam"], factors=[1])


# --- class vectors


def test_effective_number_between_uniform_and_inverse_frequency():
    assert effective_number_weight(CLASS_COUNTS, 0.0).tolist() == [1.0] * NUM_CLASSES
    torch.testing.assert_close(
        effective_number_weight(CLASS_COUNTS, 1 - 1e-9),
        inverse_frequency_weight(CLASS_COUNTS),
        rtol=1e-6,
        atol=0,
    )
    by_hand = [(1 - 0.99) / (1 - 0.99**n) for n in CLASS_COUNTS.tolist()]
    by_hand = [w * NUM_CLASSES / sum(by_hand) for w in by_hand]
    assert effective_number_weight(CLASS_COUNTS, 0.99).tolist() == pytest.approx(by_hand)


def test_weights_keep_their_digits_for_large_counts():
    """1 - beta^n would lose them in float32, and be 0 in float16."""
    weight = effective_number_weight(torch.tensor([1, 2]), 1 - 1e-12)
    assert float(weight[0] / weight[1]) == pytest.approx(2, rel=1e-9)
