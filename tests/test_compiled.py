"""--compile: one graph for a whole run, the learning of the plain loop, exact resume."""

from dataclasses import replace

import pytest
import torch
from torch._dynamo import config as dynamo
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from lt_bench import cli, compiled
from lt_bench.assembly import prepare
from lt_bench.checkpoint import load_tensors
from lt_bench.config import names
from lt_bench.errors import DataError, RunError
from lt_bench.experiment import run
from lt_bench.methods import METHODS, OneStage
from lt_bench.record import read
from lt_bench.runtime import Runtime
from lt_bench.samplers import SAMPLERS
from lt_bench.schema import bind
from lt_bench.train import fit
from tests.digits import CPU, ready

COMPILED = replace(CPU, compiled=True)
TRAINED = [name for name in names("configs/methods") if prepare("digits_lt", name).optim.epochs]
# one of each kind of graph: draws, clock, counters, two heads, a frozen backbone, two targets
FEW = ("seql", "ldam_drw", "loss_scheduling", "recall", "sdn_recall", "crt", "lws", "mixup")
EXTRAS = ["optim.accumulate=2", "optim.ema=0.9"]


@pytest.fixture
def traced(monkeypatch):
    """Compilation without the code generation that takes its time."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


def losses(where, overlay, *overrides):
    """The loss of each epoch, the last batch of which is smaller."""
    config, method, loader = ready(overlay, "optim.epochs=3", *overrides, where=where)
    assert len(loader.labels) % loader.batch_size
    sampler = bind("sampler", config.sampler, SAMPLERS)
    history = fit(where.place(method), loader, sampler, config.optim, 0, where)
    return [line["loss"] for line in history.epochs]


@pytest.mark.parametrize(
    ("overlay", "overrides"),
    [
        *(pytest.param(name, [], id=name) for name in FEW),
        pytest.param("ce", EXTRAS, id="accumulate, ema"),
        *(
            pytest.param(name, [], id=name, marks=pytest.mark.slow)
            for name in TRAINED
            if name not in FEW
        ),
    ],
)
def test_a_run_is_one_graph_that_learns_the_same(overlay, overrides, traced):
    plain = losses(CPU, overlay, *overrides)
    counters.clear()
    assert losses(COMPILED, overlay, *overrides) == pytest.approx(plain, rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_clock_of_plain_numbers_would_be_seen(traced, monkeypatch):
    monkeypatch.setattr(compiled, "replace", lambda value, **changed: value)
    with dynamo.patch(error_on_recompile=True), pytest.raises(RunError, match="^--compile: Recomp"):
        losses(COMPILED, "ldam_drw")


def test_a_method_that_cannot_be_compiled_says_so_in_a_line(traced, monkeypatch):
    class Reading(OneStage):
        def forward(self, images, target, progress):
            loss, terms = super().forward(images, target, progress)
            print(loss.item())
            return loss, terms

    monkeypatch.setitem(METHODS, "one_stage", Reading)
    with pytest.raises(RunError) as caught:
        losses(COMPILED, "ce")
    assert str(caught.value).startswith("--compile: ")
    assert str(caught.value).endswith("; leave the flag out for this method")
    assert "\n" not in str(caught.value)


def test_generated_code_learns_the_same_and_a_stopped_run_goes_on_to_the_bit(tmp_path):
    config = prepare("digits_lt", "sdn_recall", ["optim.epochs=3", *EXTRAS])

    def where(folder, **machine):
        return Runtime.choose("cpu", "fp32", results=tmp_path / folder, **machine)

    plain = run(config, where("plain"))
    undisturbed = run(config, where("undisturbed", compiled=True))
    assert undisturbed.environment["compiled"]
    assert not plain.environment["compiled"]
    for before, now in zip(plain.history, undisturbed.history, strict=True):
        assert now.loss == pytest.approx(before.loss, rel=1e-3)

    def stop(line):
        raise KeyboardInterrupt

    stopped = where("stopped", compiled=True, checkpoint_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        run(config, stopped, stop)
    with pytest.raises(DataError, match="made with another compiled"):
        run(config, where("stopped"))
    resumed = run(config, stopped)
    assert resumed.environment["times_resumed"] == 1
    assert [line.loss for line in resumed.history] == [line.loss for line in undisturbed.history]
    assert resumed.test == undisturbed.test
    models = [
        load_tensors(tmp_path / folder / "runs" / config.run_id / "model.pt")
        for folder in ("undisturbed", "stopped", "plain")
    ]
    assert all(torch.equal(models[0][name], value) for name, value in models[1].items())
    assert models[0].keys() == models[2].keys()


@pytest.mark.slow
@pytest.mark.parametrize("overlay", FEW)
def test_generated_code_of_each_kind_learns_the_same(overlay):
    assert losses(COMPILED, overlay) == pytest.approx(losses(CPU, overlay), rel=1e-3)


def test_without_a_compiler_one_line_says_what_to_do(tmp_path, capsys):
    argv = ["train", "digits_lt", "ce", "--device", "cpu", "--compile", "--results", str(tmp_path)]
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert said == "--compile: no C++ compiler here; install g++ or leave the flag out\n"


def test_verify_computes_as_the_run_did(tmp_path, traced, capsys):
    argv = ["digits_lt", "ce", "optim.epochs=1", "--device", "cpu", "--results", str(tmp_path)]
    assert cli.main(["train", *argv, "--compile", "--deterministic"]) == 0
    (path,) = tmp_path.glob("runs/*/record.json")
    assert read(path).environment["compiled"]
    torch.use_deterministic_algorithms(False)
    try:
        assert cli.main(["verify", path.parent.name, "--results", str(tmp_path)]) == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert capsys.readouterr().out.splitlines()[-1].startswith("identical")
