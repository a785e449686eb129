"""The loop: averages, mixing, accumulation, faults."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lt_bench import experiment, provenance
from lt_bench.assembly import prepare
from lt_bench.config import ROOT
from lt_bench.data.mixing import Mixed, Mixer
from lt_bench.errors import RunError
from lt_bench.experiment import run
from lt_bench.losses import LOSSES
from lt_bench.progress import Progress
from lt_bench.record import read
from lt_bench.runtime import Runtime, generator, seed_everything
from lt_bench.samplers import instance
from lt_bench.train import (
    CLASS_VALUES_KEPT,
    History,
    NotFiniteError,
    _keep_class_values,
    fit,
)
from lt_bench.weighting import WEIGHTINGS, Objective
from tests.digits import CPU, ready

COUNTS = torch.tensor([50, 20, 10, 5])


def runtime(results: Path) -> Runtime:
    return Runtime.choose(device="cpu", precision="fp32", results=results)


def train(*overrides, overlay="ce", on_epoch=lambda line: None):
    config, method, loader = ready(overlay, "optim.epochs=2", *overrides)
    history = fit(method, loader, instance, config.optim, config.seed, CPU, on_epoch)
    return method, history


def weights(method):
    return torch.cat([p.detach().flatten() for p in method.parameters()])


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({}, "fp32"),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, "bf16"),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}, "bf16"),
    ],
)
def test_the_precision_is_the_faster_one_of_the_cpu(capabilities, precision, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert Runtime.choose("cpu").precision == precision


def test_history_has_a_line_per_epoch_and_the_last_learning_rate():
    seen = []
    _, history = train("optim.schedule={name='cosine'}", on_epoch=seen.append)
    assert [line["epoch"] for line in history.epochs] == [0, 1]
    assert seen == history.epochs
    assert history.epochs[1]["loss"] < history.epochs[0]["loss"]
    assert 0 < history.epochs[1]["lr"] < history.epochs[0]["lr"] < 0.05


def test_a_last_batch_of_a_few_images_is_told_of(caplog):
    train("optim.batch_size=36")
    assert caplog.messages == [
        "optim.batch_size: 36 leaves 2 images in the last batch of an epoch, whose step is as "
        "large as any other and costs rare classes; 37 leaves 30"
    ]
    caplog.clear()
    for size in (30, 31, 163, 326, 400):  # 26, 16, all, all, all
        train(f"optim.batch_size={size}", "optim.epochs=1")
    train("optim.batch_size=36", "optim.accumulate=4")  # its 10 batches are steps of 4, 4 and 2
    assert caplog.messages == []


def test_a_learning_rate_for_steps_of_another_size_is_told_of(caplog, tmp_path):
    """The digits' recipe has 0.05 for 30 images."""

    def told(*overrides):
        caplog.clear()
        run(prepare("digits_lt", "ce", ["optim.epochs=1", *overrides]), runtime(tmp_path))
        return caplog.messages

    assert told("optim.batch_size=60") == [
        "optim.lr: 0.05 is that of steps of 30 images, these have 60; optim.lr=0.1 is in proportion"
    ]
    assert len(told("optim.accumulate=2")) == 1
    assert len(told("optim={batch_size=90}")) == 1
    assert told("optim.batch_size=15", "optim.accumulate=2") == []
    assert told("optim.batch_size=60", "optim.lr=0.1") == []
    caplog.clear()
    experiment._heed_learning_rate(prepare("digits_lt", "tau_norm", ["optim.batch_size=60"]))
    assert caplog.messages == []  # it takes no steps


def test_class_weights_are_kept_at_evenly_spaced_epochs_the_last_among_them():
    _, history = train("optim.epochs=50", overlay="recall")
    kept = history.classes["class_weight"]
    assert len(kept["epochs"]) == CLASS_VALUES_KEPT
    assert kept["epochs"][-1] == 49
    assert all(len(values) == 10 for values in kept["values"])
    gaps = {b - a for a, b in zip(kept["epochs"], kept["epochs"][1:], strict=False)}
    assert gaps == {2, 3}


def test_of_many_classes_the_means_of_ten_groups_are_kept_the_fullest_first():
    history = History()
    labels = torch.cat([torch.arange(2000), torch.arange(1000, 2000)])  # the later are fuller
    value = torch.arange(2000.0)
    _keep_class_values(history, 3, {"class_weight": value, "few": value[:10]}, labels)
    means = [*range(1100, 2000, 200), *range(100, 1000, 200)]
    kept = history.classes["class_weight"]
    assert kept["epochs"] == [3]
    assert kept["values"][0] == pytest.approx(means, abs=1)
    assert history.classes["few"]["values"] == [value[:10].tolist()]


def test_accumulation_over_whole_batches_steps_less_often():
    overrides = ["optim.epochs=1", "optim.accumulate=11", "optim.schedule={name='constant'}"]
    config, method, loader = ready("ce", *overrides)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    assert len(loader) == 11
    fit(method, loader, instance, config.optim, 0, CPU)
    # one step of plain SGD by hand: the mean over images of their gradients, and weight decay
    by_hand = ready("ce", *overrides)[1].train()
    order_N = instance(loader.labels, Progress(), generator("cpu", 0, 1, 0))
    total = torch.zeros(())
    for images, target_B in loader.epoch(order_N, generator("cpu", 0, 2, 0)):
        share = len(images) / len(loader.labels)
        total = total + by_hand(images, target_B, Progress())[0] * share
    total.backward()
    lr = 0.05
    for name, p in by_hand.named_parameters():
        expected = before[name] - lr * (p.grad + 5e-4 * before[name])
        torch.testing.assert_close(method.get_parameter(name).detach(), expected)


@pytest.mark.parametrize("accumulate", [4, 11, 20])
def test_of_steps_taken_together_each_weighs_by_its_images(accumulate, monkeypatch):
    """11 batches, the last a small one: by fours the last three, by twenties all, are one step."""
    config, method, loader = ready("ce", "optim.epochs=1", f"optim.accumulate={accumulate}")
    shares = []
    backward = torch.Tensor.backward

    def noted(loss):
        shares.append(float(loss.detach() / of_batch.pop()))
        backward(loss)

    of_batch = []
    forward = method.forward

    def seen(*arguments):
        loss, terms = forward(*arguments)
        of_batch.append(loss.detach())
        return loss, terms

    monkeypatch.setattr(torch.Tensor, "backward", noted)
    monkeypatch.setattr(method, "forward", seen)
    fit(method, loader, instance, config.optim, 0, CPU)
    images = [30] * 10 + [len(loader.labels) - 300]
    assert 0 < images[-1] < 30
    together = [images[first : first + accumulate] for first in range(0, 11, accumulate)]
    assert shares == pytest.approx([size / sum(sizes) for sizes in together for size in sizes])


def test_ema_ends_with_the_running_average_of_the_weights():
    plain, _ = train("optim.epochs=1")
    averaged, _ = train("optim.epochs=1", "optim.ema=0.5")
    # the average by hand, from the weights after every step
    config, method, loader = ready("ce", "optim.epochs=1")
    mean = weights(method)
    step = torch.optim.SGD.step

    def recording(self, *args, **options):
        nonlocal mean
        result = step(self, *args, **options)
        mean = 0.5 * mean + 0.5 * weights(method)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", recording)
        fit(method, loader, instance, config.optim, 0, CPU)
    torch.testing.assert_close(weights(averaged), mean)
    assert not torch.allclose(weights(plain), weights(averaged))


@pytest.mark.parametrize("option", ["mixup", "cutmix"])
def test_mixing_returns_images_and_targets_in_the_same_share(option):
    seed_everything(0)
    mix = Mixer(**{"mixup": 0.0, "cutmix": 0.0, option: 1.0})
    target_B = torch.arange(4)
    # image i is filled with i, so each pixel says where it came from
    images = target_B.float().view(4, 1, 1, 1).expand(4, 1, 8, 8).clone()
    mixed, target = mix(images, target_B)
    assert target.first.tolist() == [0, 1, 2, 3]
    assert target.second.tolist() == [3, 0, 1, 2]
    assert 0 < target.share < 1
    expected = target.share * target.first + (1 - target.share) * target.second
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), expected)


def test_mixing_takes_both_kinds_where_both_are_on():
    seed_everything(0)
    mix = Mixer(mixup=1.0, cutmix=1.0)
    images = torch.arange(2.0).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    whole = [bool((mix(images.clone(), torch.arange(2))[0] % 1 == 0).all()) for _ in range(40)]
    assert 8 < sum(whole) < 32  # cutmix keeps whole values


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_objective_of_mixed_targets_is_both_in_their_shares(reduction):
    weighting = WEIGHTINGS["inverse_frequency"](COUNTS)
    objective = Objective(LOSSES["ce"](COUNTS), weighting, reduction)
    logits, first = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    mixed = objective(logits, Mixed(first, first.roll(1), 0.3))
    expected = 0.3 * objective(logits, first) + 0.7 * objective(logits, first.roll(1))
    torch.testing.assert_close(mixed, expected)


def test_recall_counts_the_first_label_of_a_mixed_batch_once():
    weighting = WEIGHTINGS["recall"](COUNTS, estimate="official_batch")
    objective = Objective(LOSSES["ce"](COUNTS), weighting, "mean").train()
    logits = F.one_hot(torch.tensor([0, 0, 1, 1]), 4).float()
    objective(logits, Mixed(torch.tensor([0, 0, 0, 1]), torch.tensor([2, 2, 2, 2]), 0.5))
    # class 0: three images, one missed; class 1: one image, none missed
    torch.testing.assert_close(weighting.weight_C, torch.tensor([1 / 3, 1.0, 1.0, 1.0]))


def test_label_smoothing_spreads_its_share_over_all_classes():
    logits, target = torch.randn(5, 4), torch.tensor([0, 1, 2, 3, 0])
    soft = 0.9 * F.one_hot(target, 4) + 0.1 / 4
    expected = -(soft * logits.log_softmax(1)).sum(1)
    loss = LOSSES["ce"](COUNTS, label_smoothing=0.1)(logits, target)
    torch.testing.assert_close(loss, expected)


def test_a_record_names_the_commit_that_its_run_began_on(tmp_path, monkeypatch):
    """A commit made while a run trains has not trained it."""
    head = ["a" * 40]

    def git(*words):
        return {"HEAD": head[0], "--show-toplevel": str(ROOT)}.get(words[1], "")

    monkeypatch.setattr(provenance, "_git", git)
    provenance.code_at_start.cache_clear()

    def committed(*arguments):
        head[0] = "b" * 40
        return fit(*arguments)

    monkeypatch.setattr(experiment, "fit", committed)
    config = prepare("digits_lt", "ce", ["optim.epochs=1"])
    try:
        found = experiment.run(config, runtime(tmp_path)).environment
    finally:
        provenance.code_at_start.cache_clear()
    assert (found["commit"], found["dirty"]) == ("a" * 40, False)


@pytest.mark.parametrize("override", ["optim.mixup=0.2", "optim.cutmix=1.0", "optim.ema=0.9"])
def test_training_extras_run_from_the_command_line(override, tmp_path):
    config = prepare("digits_lt", "sdn_recall", ["optim.epochs=2", override])
    record = run(config, runtime(tmp_path))
    again = run(config, runtime(tmp_path), again=True)
    assert again.test == record.test
    assert again.seconds != record.seconds
    path = tmp_path / "runs" / config.run_id / "record.json"
    key, value = override.removeprefix("optim.").split("=")
    assert read(path).config["optim"][key] == float(value)


def test_a_loss_that_is_not_finite_names_epoch_and_step(tmp_path):
    config = prepare("digits_lt", "ce", ["optim.lr=1e30", "optim.epochs=3"])
    with pytest.raises(NotFiniteError, match=r"^loss is (nan|inf) in epoch 1, at step \d+"):
        run(config, runtime(tmp_path))
    assert not (tmp_path / "runs" / config.run_id / "record.json").exists()


def test_weights_that_the_last_step_ruins_are_no_model(tmp_path):
    """One batch an epoch: its loss is that of the first weights, and finite."""
    alone = ["optim.epochs=1", "optim.batch_size=400", "optim.schedule=constant"]
    config = prepare("digits_lt", "ce", [*alone, "optim.lr=1e38"])
    with pytest.raises(RunError, match="^the trained network gives scores that are not finite; lo"):
        run(config, runtime(tmp_path))
    assert not (tmp_path / "runs" / config.run_id / "model.pt").exists()
