"""Many runs side by side: the same records, and nothing lost or left behind."""

import gc
import io
import json
import os
import pickle
import re
import signal
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from lt_bench import experiment
from lt_bench.arguments import Parser
from lt_bench.assembly import prepare
from lt_bench.config import in_folder
from lt_bench.display import Display, is_first_rank
from lt_bench.errors import BusyError, ConfigError
from lt_bench.running import outcomes
from lt_bench.runtime import Runtime
from tests import killing
from tests.killing import PROCESSES, assert_equal, finish, start
from tests.test_data_folder import TINY, fill
from tests.test_faults import hold

TRAIN = ["train", "digits_lt", "ce"]
SHORT = ["optim.epochs=2"]
LONG = ["optim.epochs=1000"]  # longer than a test waits


def command(*argv, results):
    seeds = ["--seeds", "0", "1", "2"] if argv[0] == "train" else []
    return [*argv, *seeds, "--results", str(results), "--jobs", "2"]


def write_table(folder, **settings):
    given = {
        "title": "Short",
        "recipes": ["digits_lt"],
        "methods": ["crt", "ce", "cb"],
        "seeds": [0],
        "overrides": SHORT,
        **settings,
    }
    path = folder / "short.toml"
    path.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()))
    return ["table", str(path)]


def folders(results):
    return {path.parent.name: path.parent for path in results.glob("runs/*/record.json")}


def said_by(argv, tmp_path, status):
    """The lines of a command, which must end with this status."""
    said = tmp_path / "said.txt"
    process = start(argv, said)
    process.join()
    lines = said.read_text(encoding="utf-8").splitlines()
    assert process.exitcode == status, lines
    return lines


def owners(results):
    """The processes at work, by run."""
    found = {}
    for lock in results.glob("runs/*/lock"):
        with suppress(FileNotFoundError):
            words = lock.read_text(encoding="utf-8").split()
            found |= {lock.parent.name: int(words[1])} if len(words) > 1 else {}
    return found


def wait_until(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < 120
        time.sleep(0.01)


def epochs_done(results):
    return [path.read_text(encoding="utf-8").count("\n") for path in results.glob("runs/*/ev*")]


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # one that has ended may wait for somebody to ask how
    return "Z" not in Path(f"/proc/{process}/stat").read_text(encoding="utf-8").split()[2]


def test_side_by_side_gives_the_records_of_one_after_another(tmp_path):
    table = write_table(tmp_path)
    one, two = tmp_path / "one", tmp_path / "two"
    finish([*table, "--results", str(one)])
    lines = said_by(command(*table, results=two), tmp_path, 0)
    assert len(folders(two)) == 4  # with that of all epochs that crt starts from
    assert folders(one).keys() == folders(two).keys()
    for run_id, folder in folders(two).items():
        assert_equal(folder, folders(one)[run_id])
        environment = json.loads((folder / "record.json").read_text())["environment"]
        assert (environment["jobs"], environment["device"]) == (2, "cpu, 1 threads")
    rows = [line.split(":")[0] for line in lines if line.startswith("digits_lt ")]
    assert sorted(rows) == [f"digits_lt {name} seed 0" for name in ("cb", "ce", "ce", "crt")]
    assert not [*two.rglob("lock"), *two.rglob(".part-*"), *two.rglob("checkpoint.pt")]


def test_a_run_that_fails_or_is_killed_is_named_and_the_others_go_on(tmp_path):
    vary = ["optim.lr=1e30", *LONG, "optim.epochs=1", "optim.epochs=2"]
    table = write_table(tmp_path, methods=["ce"], seeds=[0], overrides=[], vary=vary)
    diverges, killed, *others = (prepare("digits_lt", "ce", [varied]) for varied in vary)
    said = tmp_path / "said.txt"
    process = start(command(*table, results=tmp_path), said)
    wait_until(lambda: len(folders(tmp_path)) == 2)
    os.kill(owners(tmp_path)[killed.run_id], signal.SIGKILL)
    process.join()
    assert process.exitcode == 1
    lines = said.read_text(encoding="utf-8").splitlines()
    assert folders(tmp_path).keys() == {config.run_id for config in others}
    assert not [line for line in lines if "Traceback" in line]
    (line,) = [line for line in lines if line.startswith(f"{killed.run_id}: ")]
    assert "its process ended with SIGKILL" in line
    assert any(line.startswith(f"{diverges.run_id}: loss is ") for line in lines)
    first = lines.index("failed; to repeat:")
    assert [line.strip() for line in lines[first + 1 : first + 3]] == [
        in_folder(diverges.command, tmp_path),
        in_folder(killed.command, tmp_path),
    ]


def lead(argv, said):
    """What the first process of a terminal or a queue does, with a group of processes to itself."""
    os.setsid()
    killing.command(argv, said, as_nobody=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["terminal", "queue"])
def test_an_interrupt_of_all_processes_has_each_keep_its_state(number, tmp_path):
    stopped, undisturbed, said = (tmp_path / name for name in ("stopped", "undisturbed", "said"))
    train = [*TRAIN, *(LONG if number == signal.SIGINT else ["optim.epochs=60"])]
    argv = command(*train, results=stopped)
    process = PROCESSES.Process(target=lead, args=(argv, said))
    process.start()
    wait_until(lambda: sum(done > 0 for done in epochs_done(stopped)) == 2)
    workers = owners(stopped)
    os.killpg(process.pid, number)
    process.join()
    assert process.exitcode == 130
    lines = said.read_text(encoding="utf-8").splitlines()
    assert lines[-1] == f"interrupted; the same command goes on: python run.py {' '.join(argv)}"
    assert [line for line in lines[:-1] if "  epoch " not in line] == []
    assert len(workers) == 2
    assert not any(map(is_alive, workers.values()))
    left = sorted(path.name for path in stopped.glob("runs/*/*") if path.name != "lock")
    assert left == [*["checkpoint.pt"] * 2, *["events.jsonl"] * 2]

    if number == signal.SIGINT:
        return
    for results in (stopped, undisturbed):
        finish([*train, "--seeds", "0", "1", "2", "--results", str(results)])
    for run_id, folder in folders(undisturbed).items():
        assert_equal(stopped / "runs" / run_id, folder)
    resumed = [json.loads((f / "record.json").read_text()) for f in folders(stopped).values()]
    assert sum(record["environment"]["times_resumed"] for record in resumed) == 2


def test_one_run_is_alone_whatever_jobs_says(tmp_path):
    finish([*TRAIN, *SHORT, "--results", str(tmp_path), "--jobs", "3"])
    ((_, folder),) = folders(tmp_path).items()
    assert json.loads((folder / "record.json").read_text())["environment"]["jobs"] == 1


def test_a_signal_that_reaches_reader_processes_too_has_the_run_keep_its_state(tmp_path):
    fill(fill(tmp_path / "photos", {"x": 20, "z": 20}), {"x": 2, "z": 2}, "test")
    overrides = [*TINY, "optim.epochs=3000"]
    argv = ["train", "folder", "ce", *overrides, "--data-root", str(tmp_path / "photos")]
    argv += ["--results", str(tmp_path), "--workers", "2"]
    said = tmp_path / "said"
    process = PROCESSES.Process(target=lead, args=(argv, said))
    process.start()
    wait_until(lambda: sum(epochs_done(tmp_path)) > 1)
    os.killpg(process.pid, signal.SIGTERM)
    process.join()
    lines = said.read_text(encoding="utf-8").splitlines()
    assert process.exitcode == 130, lines
    assert lines[-1].startswith("interrupted; the same command goes on: ")
    assert list(tmp_path.glob("runs/*/checkpoint.pt"))


def test_runs_whose_first_process_is_killed_keep_their_state_and_end(tmp_path):
    process = start(command(*TRAIN, *LONG, results=tmp_path))
    wait_until(lambda: sum(done > 0 for done in epochs_done(tmp_path)) == 2)
    workers = owners(tmp_path)
    process.kill()
    process.join()
    wait_until(lambda: not any(map(is_alive, workers.values())))
    assert len(list(tmp_path.glob("runs/*/checkpoint.pt"))) == 2


def test_a_run_that_another_process_trains_is_put_off_and_taken_over(tmp_path):
    ready, leave = PROCESSES.Event(), PROCESSES.Event()
    parent = prepare("digits_lt", "crt", SHORT).parent
    other = PROCESSES.Process(target=hold, args=(tmp_path / "runs" / parent.run_id, ready, leave))
    other.start()
    assert ready.wait(60)
    said = tmp_path / "said.txt"
    table = start(command(*write_table(tmp_path, methods=["crt", "ce"]), results=tmp_path), said)
    wait_until(lambda: said.exists() and "; waiting for it" in said.read_text(encoding="utf-8"))
    assert len(folders(tmp_path)) == 1  # ce, which needs nobody
    leave.set()
    other.join()
    table.join()
    assert table.exitcode == 0
    assert len(folders(tmp_path)) == 3


def test_what_cannot_be_written_ends_all_runs_with_one_line(tmp_path):
    (tmp_path / "runs").write_text("no folder")
    (line,) = said_by(command(*TRAIN, *SHORT, results=tmp_path), tmp_path, 2)
    assert "lock: cannot be written: Not a directory; choose another folder" in line


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_one_bar_with_all_runs_at_work(monkeypatch):
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setattr(sys, "stdout", rows := io.StringIO())
    one, two = (prepare("digits_lt", "ce", ["optim.epochs=20", f"seed={n}"]) for n in range(2))
    with Display([one, two]) as display:
        for config in (one, two):
            display.begin(config)
        display.epoch(one, {"epoch": 0, "loss": 0.25})
        display.epoch(two, {"epoch": 0, "loss": 0.5})
        display.end(one)
        display.print("the row of one", sys.stdout)
        display.end(two, is_put_off=True)
        assert display.bar.n == 21  # and not all 40: those of two are still to come
    text = shown.getvalue()
    assert "| 2/40 [" in text
    assert "digits_lt ce seed 0 1/20 loss 0.250, digits_lt ce seed 1 1/20 loss 0.500]" in text
    assert re.search(r"\| 21/40 \[[^]]*, digits_lt ce seed 1 1/20 loss 0.500]", text)
    assert rows.getvalue() == "the row of one\n"


@pytest.mark.parametrize("verb", ["train", "table"])
@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_runs_that_is_none_is_refused(verb, jobs, capsys):
    parser = Parser(prog=f"run.py {verb}")
    parser.take(verb)
    with pytest.raises(SystemExit) as end:
        parser.parse_args(
            [*({"train": ["digits_lt", "ce"]}.get(verb, ["quick"])), f"--jobs={jobs}"]
        )
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--jobs: {jobs!r} is no number of runs; write 1 or more" in line


def test_a_run_that_failed_keeps_nothing_of_its_network(tmp_path, monkeypatch):
    """On a GPU the next run of a table would have that much less memory."""
    kept = []

    def fit(method, *more):
        kept.append(weakref.ref(method))
        raise torch.OutOfMemoryError

    monkeypatch.setattr(experiment, "fit", fit)
    config, where = (
        prepare("digits_lt", "ce"),
        Runtime(torch.device("cpu"), "fp32", results=tmp_path),
    )
    with Display([config]) as display:
        ((_, outcome),) = outcomes([config], where, display)
    assert str(outcome).startswith("out of memory at optim.batch_size 30 on cpu")
    gc.collect()
    assert kept[0]() is None


def test_errors_are_the_same_in_another_process():
    busy = BusyError("a: is being trained", Path("lock"))
    for error in (ConfigError(["a: wrong", "b: too"]), busy):
        other = pickle.loads(pickle.dumps(error))
        assert type(other) is type(error)
        assert (str(other), vars(other)) == (str(error), vars(error))


@pytest.mark.parametrize(
    ("exported", "is_first"),
    [({"RANK": "1"}, True), ({"RANK": "1", "WORLD_SIZE": "2"}, False), ({}, True)],
)
def test_only_processes_of_a_torchrun_keep_silent(exported, is_first, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank() is is_first
