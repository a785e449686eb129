"""What a configuration says reaches the run: an ignored part would give another one's numbers."""

from pathlib import Path

import pytest
import torch

from lt_bench.assembly import load_data, make_method, prepare
from lt_bench.checkpoint import load_model
from lt_bench.errors import ConfigError
from lt_bench.experiment import run
from lt_bench.methods import TauNorm
from lt_bench.runtime import Runtime
from lt_bench.train import _State

CPU = torch.device("cpu")
TWO = "optim.epochs=2"


def trained(results: Path, overlay: str, *overrides: str, precision: str = "fp32"):
    """The record of an overlay on the digits, after the runs that it starts from."""
    where = Runtime(CPU, precision, results=results)
    for stage in prepare("digits_lt", overlay, overrides).stages:
        record = run(stage, where)
    return record


def losses(*arguments, **options):
    return [epoch.loss for epoch in trained(*arguments, **options).history]


def fresh(overlay: str, *overrides: str):
    config = prepare("digits_lt", overlay, overrides)
    return make_method(config, load_data(config.data, None)), config


@pytest.mark.parametrize("overlay", ["class_balanced", "square_root", "progressive"])
def test_a_run_draws_its_images_by_its_sampler(overlay, tmp_path):
    ours = losses(tmp_path, f"{overlay}_sampling", TWO)
    assert all(a != b for a, b in zip(ours, losses(tmp_path, "ce", TWO), strict=True))


def test_deferred_resampling_is_cross_entropy_until_its_start(tmp_path):
    (before, after), plain = (
        losses(tmp_path, "ce_drs", TWO, "sampler.start=0.5"),
        losses(tmp_path, "ce", TWO),
    )
    assert before == plain[0]
    assert after != plain[1]


def test_tau_is_chosen_on_the_images_held_back_and_never_on_the_test_split(tmp_path, monkeypatch):
    held_back = "data.val_per_class=10"
    seen = []
    settle = TauNorm.settle

    def watched(method, train, val):
        seen.append(val.labels.tolist())
        return settle(method, train, val)

    monkeypatch.setattr(TauNorm, "settle", watched)
    record = trained(tmp_path, "tau_norm", held_back)
    data = load_data(prepare("digits_lt", "ce", [held_back]).data, None)
    assert seen == [data.val.labels.tolist()]
    assert record.val.total == (10,) * 10
    assert sum(record.test.total) == 500


def test_a_run_computes_in_the_precision_that_its_record_says(tmp_path):
    found = {name: trained(tmp_path / name, "ce", TWO, precision=name) for name in ("bf16", "fp32")}
    assert [record.environment["precision"] for record in found.values()] == ["bf16", "fp32"]
    ours, theirs = ([epoch.loss for epoch in record.history] for record in found.values())
    assert ours != theirs
    assert ours == pytest.approx(theirs, rel=0.05)


@pytest.mark.parametrize(
    ("overlay", "overrides", "part"),
    [
        ("cb_sigmoid", [], ""),
        ("eql", [], ""),
        ("sdn_ce", ["representation.objective.loss=sigmoid_ce"], "representation_"),
    ],
)
def test_a_head_starts_with_the_bias_of_its_loss_free_of_decay(overlay, overrides, part):
    method, config = fresh(overlay, *overrides)
    head, objective = (getattr(method, part + name) for name in ("head", "objective"))
    assert head.bias.tolist() == pytest.approx([objective.loss.initial_bias()] * 10)
    groups = _State(method, config.optim, 1, CPU).optimizer.param_groups
    (decay,) = (g["weight_decay"] for g in groups if any(p is head.bias for p in g["params"]))
    assert decay == 0
    assert any(group["weight_decay"] > 0 for group in groups)


def test_a_bias_that_a_head_has_not_is_refused():
    with pytest.raises(ConfigError, match='head: has no bias, .*; write head = "linear"'):
        fresh("eql", "head=cosine")


def test_the_backbone_learns_at_its_own_rate(tmp_path):
    options = ["optim.epochs=1", "optim.backbone_lr_factor=0"]
    record = trained(tmp_path, "ce", *options)
    method, _ = fresh("ce", *options)
    after = load_model(tmp_path / "runs" / record.run_id / "model.pt")
    for name, before in method.named_parameters():
        assert torch.equal(before, after[name]) is name.startswith("backbone."), name
