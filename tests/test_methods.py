"""Methods: gradient flow, what second stages move, end to end."""

import copy
import shutil
from pathlib import Path

import pytest
import torch

from lt_bench.assembly import load_data, make_loader, make_method, prepare
from lt_bench.config import ROOT, names, with_seed
from lt_bench.errors import ConfigError
from lt_bench.experiment import parent_state, run
from lt_bench.models.heads import tau_normalised
from lt_bench.progress import Progress
from lt_bench.record import read
from lt_bench.runtime import Runtime

OVERLAYS = names("configs/methods")
SHORT = ("optim.epochs=2",)


def runtime(results: Path) -> Runtime:
    return Runtime.choose(device="cpu", precision="fp32", results=results)


def quick(overlay: str):
    """The overlay on the digits, two epochs where it trains at all."""
    config = prepare("digits_lt", overlay)
    return prepare("digits_lt", overlay, SHORT) if config.optim.epochs else config


def fresh(overlay: str):
    config = prepare("digits_lt", overlay)
    data = load_data(config.data, None)
    return make_method(config, data), data


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder that holds the usual parent."""
    folder = tmp_path_factory.mktemp("results")
    run(prepare("digits_lt", "ce"), runtime(folder))
    return folder


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_trains_and_its_model_predicts_alike(overlay, results):
    config = quick(overlay)
    for stage in config.stages:
        record = run(stage, runtime(results))
    assert read(results / "runs" / config.run_id / "record.json") == record
    assert sum(record.test.total) == 500
    assert record.parent is None or record.parent.run_id == config.parent.run_id

    data = load_data(config.data, None)
    method = make_method(config, data).eval()
    state = torch.load(results / "runs" / config.run_id / "model.pt", weights_only=True)
    missing = method.load_state_dict(state, strict=False).missing_keys
    assert not [name for name in missing if name.startswith(("backbone.", "head."))]
    images = (data.test.images / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    predicted = method.predict(images).argmax(dim=1).numpy()
    assert (predicted == record.test.predictions()).mean() > 0.99  # other batches, other rounding


def test_the_same_seed_gives_the_same_run_whatever_ran_before(tmp_path):
    first = run(quick("seql"), runtime(tmp_path / "a"))
    run(quick("focal"), runtime(tmp_path / "b"))
    again = run(quick("seql"), runtime(tmp_path / "b"))
    assert [e.loss for e in again.history] == [e.loss for e in first.history]
    assert again.test == first.test
    other = run(with_seed(quick("seql"), 1), runtime(tmp_path / "b"))
    assert [e.loss for e in other.history] != [e.loss for e in first.history]


def test_methods_of_a_seed_start_from_the_same_backbone():
    states = [fresh(overlay)[0].backbone.state_dict() for overlay in ("ce", "ldam", "sdn_recall")]
    for name, value in states[0].items():
        assert all(torch.equal(value, other[name]) for other in states[1:])


@pytest.mark.parametrize("overlay", ["sdn_ce", "sdn_recall"])
def test_sdn_classifier_leaves_the_backbones_gradient_unchanged_exactly(overlay):
    method, data = fresh(overlay)
    images, target_B = data.train.images[:32] / 255, data.train.labels[:32]
    alone = copy.deepcopy(method)
    loss, terms = method(images, target_B, Progress())
    loss.backward()
    features = alone.backbone(images)
    logits = alone.representation_head(features)
    alone.representation_objective(logits, target_B, Progress()).backward()
    for module in ("backbone", "representation_head"):
        pairs = zip(
            getattr(method, module).parameters(), getattr(alone, module).parameters(), strict=True
        )
        assert all(torch.equal(a.grad, b.grad) for a, b in pairs)
    assert all(p.grad is None for p in alone.head.parameters())
    assert all(p.grad.abs().sum() > 0 for p in method.head.parameters())
    assert float(loss.detach()) == pytest.approx(
        float(sum(value for value in terms.values() if value.ndim == 0))
    )


def test_sdn_recall_counts_the_head_whose_loss_it_weighs():
    method, data = fresh("sdn_recall")
    images, target_B = data.train.images[:32] / 255, data.train.labels[:32]
    with torch.no_grad():
        features = copy.deepcopy(method).backbone(images)
        wrong = method.representation_head(features).argmax(dim=1) != target_B
    method(images, target_B, Progress())
    counted = method.representation_objective.weighting.false_negatives_C
    expected = torch.bincount(target_B[wrong], minlength=10)
    assert torch.equal(counted, expected.to(counted.dtype))


def test_sdn_predicts_and_is_exported_with_the_classifier_head_alone():
    method, data = fresh("sdn_ce")
    method.eval()
    images = data.test.images[:8] / 255
    assert torch.equal(method.predict(images), method.head(method.backbone(images)))
    assert {name.split(".")[0] for name in method.model_state()} == {"backbone", "head"}


@pytest.mark.parametrize("overlay", ["crt", "lws"])
def test_second_stages_move_the_head_only(overlay, results):
    config = quick(overlay)
    run(config, runtime(results))
    parent = parent_state(config.parent, results)
    child = torch.load(results / "runs" / config.run_id / "model.pt", weights_only=True)
    backbone = [name for name in parent if name.startswith("backbone.")]
    assert len(backbone) > 10
    assert all(torch.equal(parent[name], child[name]) for name in backbone)
    if overlay == "crt":
        assert not torch.equal(parent["head.weight"], child["head.weight"])
    else:
        assert torch.equal(parent["head.weight"], child["head.head.weight"])
        assert not torch.equal(child["head.scale_C"], torch.ones(10))


def test_retrain_head_updates_statistics_only_when_told(results):
    config = prepare("digits_lt", "crt", ["optim.epochs=1", "method.update_statistics=true"])
    run(config, runtime(results))
    parent = parent_state(config.parent, results)
    child = torch.load(results / "runs" / config.run_id / "model.pt", weights_only=True)
    moved = {
        name for name in parent if name in child and not torch.equal(parent[name], child[name])
    }
    assert {name.rpartition(".")[2] for name in moved if name.startswith("backbone.")} == {
        "running_mean",
        "running_var",
    }


@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_tau_normalised_norms(tau):
    weight = torch.randn(5, 8)
    norms = tau_normalised(weight, tau).norm(dim=1)
    torch.testing.assert_close(norms, weight.norm(dim=1) ** (1 - tau))


def test_tau_is_chosen_on_the_validation_split_and_is_one_without(results):
    config = prepare("digits_lt", "tau_norm")
    data = load_data(config.data, None)
    method = make_method(config, data)
    method.load_parent(parent_state(config.parent, results))
    method.eval()
    train = make_loader(data, data.train, config, runtime(results))
    test = make_loader(data, data.test, config, runtime(results))
    with torch.no_grad():
        assert method.settle(train, None) == {"tau": 1.0}
        chosen = method.settle(train, test)["tau"]
        images = (data.test.images / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
        features = method.backbone(images)
        scores = {}
        for step in range(21):
            logits = features @ tau_normalised(method.head.head.weight, step / 10).T
            scores[step / 10] = float((logits.argmax(1) == data.test.labels).float().mean())
    assert chosen == pytest.approx(min(t for t, s in scores.items() if s == max(scores.values())))


def test_nearest_mean_is_the_slow_way_by_hand(results):
    config = prepare("digits_lt", "ncm")
    record = run(config, runtime(results))
    data = load_data(config.data, None)
    method = make_method(config, data)
    method.load_parent(parent_state(config.parent, results))
    method.eval()

    def features(split):
        images = (split.images / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
        with torch.no_grad():
            return method.backbone(images).double()

    train, test = features(data.train), features(data.test)
    center = train.mean(0)
    unit = [(f - center) / (f - center).norm() for f in train]
    means = []
    for label in range(10):
        own = [u for u, y in zip(unit, data.train.labels, strict=True) if y == label]
        means.append(sum(own) / len(own))
    expected = []
    for f in test:
        u = (f - center) / (f - center).norm()
        expected.append(min(range(10), key=lambda c, u=u: float((u - means[c]).norm())))
    assert (record.test.predictions() == expected).mean() > 0.995


def test_adjust_logits_with_tau_zero_is_its_parent(results):
    config = prepare("digits_lt", "logit_adjusted_post_hoc", ["method.tau=0"])
    parent = read(results / "runs" / config.parent.run_id / "record.json")
    assert run(config, runtime(results)).test.predictions().tolist() == (
        parent.test.predictions().tolist()
    )


def test_adjust_logits_refuses_cosines():
    overrides = ["parent=ldam", "head=cosine"]
    with pytest.raises(ConfigError) as caught:
        prepare("digits_lt", "logit_adjusted_post_hoc", overrides)
    assert str(caught.value) == (
        "parent: 'adjust_logits' works on a 'linear' head, 'ldam' has 'cosine'; write another "
        "parent"
    )


@pytest.mark.parametrize("parent", ["balanced_softmax", "logit_adjusted", "vs", "lade"])
def test_the_prior_is_not_taken_off_twice(parent):
    with pytest.raises(ConfigError, match=f"parent: '{parent}' took the prior off already"):
        prepare("digits_lt", "logit_adjusted_post_hoc", [f"parent={parent}"])


@pytest.mark.parametrize(
    ("loss", "is_refused"),
    [
        ('{name = "sum", parts = ["ce", "balanced_softmax"]}', True),
        ('{name = "sum", parts = ["ce", "focal"]}', False),
        ('{name = "ramp", first = "ce", second = "vs"}', True),
        ('{name = "ramp", first = "vs", second = "ce"}', False),
    ],
)
def test_a_combined_loss_says_whether_it_took_the_prior_off(loss, is_refused, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text(f"[objective]\nloss = {loss}")
    arguments = ("digits_lt", "logit_adjusted_post_hoc", [f"parent={own}"])
    if is_refused:
        with pytest.raises(ConfigError, match="took the prior off already"):
            prepare(*arguments)
    else:
        assert prepare(*arguments).parent is not None


def test_a_missing_parent_is_told_apart_from_one_without_weights(tmp_path):
    config = prepare("digits_lt", "crt", ["seed=4"])
    with pytest.raises(ConfigError) as caught:
        run(config, runtime(tmp_path))
    name = config.parent.run_id
    assert caught.value.problems == (
        f"parent: {name} has no record; run python run.py train digits_lt ce seed=4 "
        f"--results {tmp_path}",
    )
    folder = tmp_path / "runs" / name
    folder.mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    with pytest.raises(ConfigError) as caught:
        run(config, runtime(tmp_path))
    assert caught.value.problems == (
        f"parent: {name} has a record but no model.pt; "
        f"run python run.py train digits_lt ce seed=4 --again --results {tmp_path}",
    )


@pytest.mark.parametrize(
    ("overlay", "override", "message"),
    [
        ("crt", "parent=ldam", None),
        (
            "lws",
            "parent=ldam",
            "head: 'rescale_head' keeps its parent's head; write head = 'cosine'",
        ),
        (
            "tau_norm",
            "parent=lws",
            "parent: 'tau_norm' keeps a head as it was trained, 'lws' has a changed one; write "
            "another parent",
        ),
        ("tau_norm", "optim.epochs=3", "optim.epochs: 'tau_norm' takes no gradient steps; write 0"),
    ],
)
def test_what_goes_together(overlay, override, message):
    if message is None:
        assert prepare("digits_lt", overlay, [override]).parent.overlay == "ldam"
        return
    with pytest.raises(ConfigError) as caught:
        prepare("digits_lt", overlay, [override])
    assert caught.value.problems == (message,)


def test_a_parent_of_other_data_is_refused_before_it_is_trained(tmp_path):
    own = tmp_path / "deep.toml"
    own.write_text("[data]\nimbalance_factor = 10\n[objective]\nloss = 'ce'\n")
    with pytest.raises(ConfigError, match="data: is another one than that of parent .*variant"):
        prepare("digits_lt", "crt", [f"parent={own}"])
    assert prepare("digits_lt", "crt", ["data.imbalance_factor=10"]).parent.overlay == "ce"


@pytest.mark.parametrize("name", [".mine.toml", "my\u00a0own.toml"])
def test_a_file_whose_name_cannot_name_a_run_is_refused(name, tmp_path):
    shutil.copy(ROOT / "configs" / "digits_lt.toml", tmp_path / name)
    with pytest.raises(ConfigError, match="cannot name a run; rename them"):
        prepare(str(tmp_path / name), "ce")
