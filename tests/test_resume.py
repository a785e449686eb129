"""A run that was stopped, however, ends as if nobody had stopped it."""

import copy
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from lt_bench.assembly import prepare
from lt_bench.checkpoint import Checkpoint, load_tensors, save_tensors
from lt_bench.errors import DataError
from lt_bench.experiment import run
from lt_bench.runtime import Runtime
from lt_bench.samplers import instance
from lt_bench.train import NotFiniteError, fit
from lt_bench.usage import Usage
from tests.digits import CPU, ready
from tests.killing import (
    OVERLAYS,
    Rehearsal,
    assert_equal,
    fast_folder,
    finish,
    invariable,
    record,
    run_folder,
    start,
    train_arguments,
)

STEPS_PER_EPOCH = 11
KILLS = 5  # of each of four overlays


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    folder = fast_folder()
    scratch = tmp_path_factory.mktemp("killed")
    if folder:
        import tempfile

        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            yield Rehearsal(Path(scratch))
    else:
        yield Rehearsal(scratch)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_killed_run_ends_with_the_same_record_and_model(rehearsal, overlay):
    rehearsal.kill(overlay, KILLS, seed=os.getpid())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_keeps_the_state_and_the_same_command_goes_on(rehearsal, number, tmp_path):
    argv = train_arguments("sdn_recall", tmp_path, "--checkpoint-seconds", "1000")
    folder = run_folder("sdn_recall", tmp_path)
    process = start(argv)
    events = folder / "events.jsonl"
    while not events.exists() or events.read_text(encoding="utf-8").count("\n") < 2:
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 130
    kept = load_tensors(folder / "checkpoint.pt")["state"]
    assert kept["epoch"] >= 2
    assert not (folder / "lock").exists()
    finish(argv)
    assert_equal(folder, run_folder("sdn_recall", rehearsal.undisturbed))
    assert record(folder)["environment"]["times_resumed"] == 1
    lines = events.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5  # the first part's lines are there too


class StopAfter(Checkpoint):
    """Stops the run after so many of its steps, as a signal would."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path, {}, 1e9, Usage(torch.device("cpu")))
        self.steps_left = steps

    def is_due(self, *, is_last: bool) -> bool:
        self.steps_left -= 1
        self.is_stopping = self.steps_left == 0
        return super().is_due(is_last=is_last)


def trained(overlay, overrides, checkpoint=None):
    config, method, loader = ready(overlay, "optim.epochs=3", *overrides)
    history = fit(method, loader, instance, config.optim, 0, CPU, checkpoint=checkpoint)
    return method.state_dict(), invariable(vars(history))


@pytest.mark.parametrize(
    ("overlay", "overrides"),
    [
        ("seql", []),  # draws in its loss
        ("ce", ["optim.mixup=0.2", "optim.cutmix=1.0"]),  # draws per batch
        ("recall", ["optim.ema=0.9"]),
        ("sdn_recall", ["optim.accumulate=3"]),
        ("ldam_drw", ["optim.nesterov=true", "optim.schedule={name='cosine'}"]),
    ],
)
@pytest.mark.parametrize("steps", [1, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH + 4])
def test_state_at_any_step_is_all_there_is(overlay, overrides, steps, tmp_path):
    if "optim.accumulate=3" in overrides:
        steps = -(-steps // 3)  # 4 of them an epoch, the last of two batches
    expected, history = trained(overlay, overrides)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(overlay, overrides, StopAfter(path, steps))
    torch.manual_seed(12345)  # what a new process begins with
    resumed, resumed_history = trained(
        overlay, overrides, Checkpoint(path, {}, 1e9, Usage(torch.device("cpu")))
    )
    assert resumed_history == history
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name


def test_a_checkpoint_lacks_nothing_that_training_changes(tmp_path):
    """Everything that a step leaves in the method is a parameter or a buffer of its state."""
    config, method, loader = ready("sdn_recall", "optim.epochs=1")
    before = copy.deepcopy(
        {name: plain_attributes(module) for name, module in method.named_modules()}
    )
    fit(method, loader, instance, config.optim, 0, CPU)
    for name, module in method.eval().named_modules():
        assert plain_attributes(module) == before[name], name


def plain_attributes(module):
    """Numbers and flags kept outside of the state, but for the switch of batch-norm's mode."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str) and name != "training"
    }


def stopped_run(results, overrides=(), **machine):
    """A run of the digits that stopped before its end, and its configuration."""
    config = prepare("digits_lt", "ce", ["optim.epochs=2", *overrides])
    where = Runtime.choose("cpu", results=results, checkpoint_seconds=0, **machine)

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, where, stop)
    return config, where, results / "runs" / config.run_id / "checkpoint.pt"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"digest": "0" * 64}, "digest (000"),
        ({"seed": 7}, "seed (7, here 0)"),
        ({"precision": "bf16"}, "precision (bf16, here fp32)"),
        ({"compiled": True}, "compiled (True, here False)"),
        ({"torch": "1.0"}, "torch (1.0, here "),
        ({"data": {"train": "other", "test": "another"}}, "test, train"),
        ({"code": {"lt_bench/losses.py": "0"}}, "lt_bench/"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_checkpoint_of_anything_else_is_refused_by_what_differs(change, said, tmp_path):
    config, where, path = stopped_run(tmp_path, precision="fp32")
    held = load_tensors(path)
    save_tensors(path, {**held, "made_by": {**held["made_by"], **change}})
    with pytest.raises(DataError) as caught:
        run(config, where)
    assert said in str(caught.value)
    assert str(caught.value).endswith("delete it to start over")
    assert "\n" not in str(caught.value)
    assert run(config, where, again=True).environment["times_resumed"] == 0


def test_only_what_the_code_does_counts_as_another_version(tmp_path, monkeypatch):
    from lt_bench import provenance

    def version_of(source):
        (tmp_path / "lt_bench" / "reports").mkdir(parents=True, exist_ok=True)
        (tmp_path / "lt_bench" / "losses.py").write_text(source, encoding="utf-8")
        (tmp_path / "lt_bench" / "reports" / "report.py").write_text(source * 2, encoding="utf-8")
        return provenance.code_version.__wrapped__()

    monkeypatch.setattr(provenance, "PACKAGE", tmp_path / "lt_bench")
    plain = version_of("def f(x):\n    return x + 1\n")
    assert list(plain) == ["lt_bench/losses.py"]
    assert (
        version_of('"""Doc."""\n\ndef f(x):  # why\n    """Doc."""\n    return (x + 1)\n') == plain
    )
    assert version_of("def f(x):\n    return x + 2\n") != plain


def test_again_starts_a_stopped_run_over_but_not_a_stopped_repetition(tmp_path):
    config, where, path = stopped_run(tmp_path)
    assert run(config, where, again=True).environment["times_resumed"] == 0
    assert not path.exists()

    def stop(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, where, stop, again=True)
    finished = run(config, where)  # the record of the first is still what there is
    assert finished.environment["times_resumed"] == 0
    assert path.exists()
    assert run(config, where, again=True).environment["times_resumed"] == 1


def test_a_loss_that_is_not_finite_leaves_the_last_good_state(tmp_path):
    config = prepare("digits_lt", "ce", ["optim.lr=1e30", "optim.epochs=3"])
    where = Runtime.choose("cpu", results=tmp_path, checkpoint_seconds=0)
    with pytest.raises(NotFiniteError, match=r"in epoch 1, at step \d+") as first:
        run(config, where)
    kept = load_tensors(tmp_path / "runs" / config.run_id / "checkpoint.pt")["state"]["meter"]
    assert kept["losses"].isfinite().all()
    assert kept["steps"] >= 1
    with pytest.raises(NotFiniteError) as second:
        run(config, where)
    assert str(second.value) == str(first.value)  # it goes on from there, to the same end
