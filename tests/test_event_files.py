"""Curves of runs as TensorBoard itself reads them."""

import json

import pytest
import torch

from lt_bench import cli
from lt_bench.assembly import prepare
from lt_bench.experiment import run
from lt_bench.record import record_path
from lt_bench.runtime import Runtime
from tests.test_cli import process

TAGS = {"loss", "lr", "seconds", "images_per_second", "terms/representation", "terms/classifier"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The record of a run of three epochs, and its results folder."""
    results = tmp_path_factory.mktemp("results")
    config = prepare("digits_lt", "sdn_ce", ["optim.epochs=3"])
    return run(config, Runtime(torch.device("cpu"), "fp32", results=results)), results


@pytest.fixture
def results(finished, tmp_path):
    """A results folder of its own, with the finished run's lines."""
    record, theirs = finished
    own = tmp_path / "results"
    folder = record_path(own, record.run_id).parent
    folder.mkdir(parents=True)
    for name in ("record.json", "events.jsonl"):
        (folder / name).write_bytes((theirs / "runs" / record.run_id / name).read_bytes())
    return own


@pytest.fixture
def curves():
    """What TensorBoard reads: the value at each epoch, by tag."""
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        found = reading.EventAccumulator(str(folder)).Reload()
        return {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}

    return read


def write(results, tmp_path):
    argv = ["report", "--results", str(results), "--tensorboard", str(tmp_path / "board")]
    assert cli.main(argv) == 0


@pytest.mark.parametrize("gone", [None, "events.jsonl", "record.json"])
def test_the_curves_are_the_records(finished, results, tmp_path, curves, gone, capsys):
    record, _ = finished
    if gone:
        record_path(results, record.run_id).with_name(gone).unlink()
    for _ in range(2):  # the second time in place of the first
        write(results, tmp_path)
        assert capsys.readouterr().out.strip() == str(tmp_path / "board" / record.run_id)
    found = curves(tmp_path / "board" / record.run_id)
    assert found.keys() == TAGS
    for tag, points in found.items():
        assert [point.step for point in points] == [0, 1, 2]
        group, _, name = tag.rpartition("/")
        for point, epoch in zip(points, record.history, strict=True):
            expected = epoch.terms[name] if group else getattr(epoch, tag)
            assert point.value == pytest.approx(expected, rel=1e-6)
    times = [point.wall_time for point in found["loss"]]
    assert times[2] - times[0] == pytest.approx(
        sum(e.seconds for e in record.history[1:]), abs=0.01
    )


def test_a_run_in_progress_is_read_up_to_its_last_whole_line(finished, results, tmp_path, curves):
    record, _ = finished
    events = record_path(results, record.run_id).with_name("events.jsonl")
    lines = events.read_text(encoding="utf-8").splitlines()
    events.write_text("\n".join([*lines[:2], lines[2][:20]]), encoding="utf-8")
    write(results, tmp_path)
    found = curves(tmp_path / "board" / record.run_id)
    assert [point.step for point in found["loss"]] == [0, 1]


LINE = {"epoch": 0, "loss": 1.5, "terms": {}, "lr": 0.1, "seconds": None, "images_per_second": 9}


@pytest.mark.parametrize("text", ["{", "[]", '{"epoch": 0}', '{"epoch": "a"}', json.dumps(LINE)])
def test_a_damaged_line_is_named(finished, results, tmp_path, curves, text, capsys):
    record, _ = finished
    events = record_path(results, record.run_id).with_name("events.jsonl")
    events.write_text(f"{text}\n", encoding="utf-8")
    argv = ["report", "--results", str(results), "--tensorboard", str(tmp_path / "board")]
    assert cli.main(argv) == 2
    said = f"{events}: damaged; delete it, or run its experiment again\n"
    assert capsys.readouterr().err == said


def test_no_run_is_said(tmp_path, curves, capsys):
    argv = ["report", "--results", str(tmp_path), "--tensorboard", str(tmp_path / "board")]
    assert cli.main(argv) == 2
    said = f"report --tensorboard: no run in {tmp_path / 'runs'}; train one first\n"
    assert capsys.readouterr().err == said


def test_without_tensorboard_the_extra_is_named(tmp_path):
    done = process("report", "--tensorboard", str(tmp_path), block=("tensorboard", "torch"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        'report --tensorboard: needs tensorboard; run python -m pip install -e ".[tensorboard]"\n'
    )


def test_it_needs_no_torch(results, tmp_path, curves):
    board = str(tmp_path / "board")
    argv = ["report", "--results", str(results), "--tensorboard", board]
    done = process(*argv, block=("torch",))
    assert (done.returncode, done.stderr) == (0, "")


def test_one_thing_at_a_time(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["report", "--check", "--tensorboard", str(tmp_path)])
    assert "not allowed with argument --check" in capsys.readouterr().err
