"""Faults on the way: one plain line, the exit status, and nothing lost."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lt_bench import cli, experiment
from lt_bench.assembly import prepare
from lt_bench.checkpoint import load_tensors
from lt_bench.config import ROOT
from lt_bench.errors import BusyError, ConfigError, DataError, RunError, WriteError
from lt_bench.experiment import run
from lt_bench.files import owned, whole_file, write_text_whole
from lt_bench.record import read
from lt_bench.runtime import Runtime
from tests.killing import PROCESSES, assert_equal, finish, invariable, record, start
from tests.test_data_folder import TINY, fill

QUICK = ["digits_lt", "ce", "optim.epochs=2"]


def config_of(seed=0, *overrides):
    return prepare("digits_lt", "ce", ["optim.epochs=2", f"seed={seed}", *overrides])


def folder_of(config, results):
    return results / "runs" / config.run_id


def hold(folder, ready, leave):
    """What another process does: own a run's folder until told to leave it."""
    with owned(folder, "held"):
        ready.set()
        leave.wait(60)


@pytest.fixture
def held_elsewhere(tmp_path):
    """Another process holds the run of seed 0; the function ends it by SIGKILL."""
    ready, leave = PROCESSES.Event(), PROCESSES.Event()
    folder = folder_of(config_of(0), tmp_path)
    process = PROCESSES.Process(target=hold, args=(folder, ready, leave))
    process.start()
    assert ready.wait(60)

    yield process

    process.kill()
    process.join()


def test_a_second_train_of_a_run_in_progress_says_so(held_elsewhere, tmp_path, capsys):
    assert cli.main(["train", *QUICK, "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert f"is being trained by process {held_elsewhere.pid} on " in said[0]


def test_a_lock_whose_process_is_gone_is_taken_over_at_once(held_elsewhere, tmp_path):
    config = config_of(0)
    where = Runtime.choose("cpu", results=tmp_path)
    with pytest.raises(BusyError):
        run(config, where)
    (folder_of(config, tmp_path) / ".part-0badcafe.model.pt").write_bytes(b"half")
    held_elsewhere.kill()
    held_elsewhere.join()
    assert (folder_of(config, tmp_path) / "lock").exists()
    assert run(config, where).seed == 0
    assert {path.name for path in folder_of(config, tmp_path).iterdir()} == {
        "events.jsonl",
        "model.pt",
        "record.json",
    }


def test_a_child_waits_for_nobody_but_says_that_its_parent_is_being_trained(
    held_elsewhere, tmp_path
):
    crt = prepare("digits_lt", "crt")
    parent = folder_of(crt.parent, tmp_path)
    shutil.copytree(folder_of(config_of(0), tmp_path), parent)
    ready, leave = PROCESSES.Event(), PROCESSES.Event()
    other = PROCESSES.Process(target=hold, args=(parent, ready, leave))
    other.start()
    assert ready.wait(60)
    with pytest.raises(BusyError, match=f"^parent: {crt.parent.run_id} is being trained"):
        run(crt, Runtime.choose("cpu", results=tmp_path))
    leave.set()
    other.join()


@pytest.fixture
def table(tmp_path):
    """The arguments of a table of six short runs; where they are recorded."""
    path = tmp_path / "short.toml"
    path.write_text(
        'title = "Short"\nrecipes = ["digits_lt"]\nmethods = ["ce", "cb"]\nseeds = [0, 1, 2]\n'
        'overrides = ["optim.epochs=2"]\n',
        encoding="utf-8",
    )
    return ["table", str(path), "--results", str(tmp_path)]


def records(results):
    return sorted(path.parent.name for path in results.glob("runs/*/record.json"))


def leftovers(results):
    return [*results.glob("runs/*/lock"), *results.rglob(".part-*"), *results.rglob("*point.pt")]


def test_two_tables_at_once_share_the_work(table, tmp_path):
    said = [tmp_path / "first.txt", tmp_path / "second.txt"]
    processes = [start(table, path) for path in said]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(records(tmp_path)) == 6
    lines = [line for path in said for line in path.read_text(encoding="utf-8").splitlines()]
    trained = [line.split()[0] for line in lines if "epoch 1/2" in line]
    assert sorted(trained) == records(tmp_path)  # each of them once
    assert not leftovers(tmp_path)
    assert all("\n| CB" in path.read_text(encoding="utf-8") for path in said)


def test_a_table_takes_over_what_another_process_leaves_unfinished(held_elsewhere, table, tmp_path):
    said = tmp_path / "said.txt"
    process = start(table, said)
    while "waiting for it" not in (said.read_text(encoding="utf-8") if said.exists() else ""):
        assert process.is_alive()
        time.sleep(0.01)
    assert len(records(tmp_path)) == 5
    held_elsewhere.kill()
    process.join()
    assert process.exitcode == 0
    assert len(records(tmp_path)) == 6


def test_an_interrupted_table_leaves_nothing_half_done_and_says_how_to_go_on(table, tmp_path):
    said = tmp_path / "said.txt"
    process = start(table, said)
    while not records(tmp_path):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    last = said.read_text(encoding="utf-8").splitlines()[-1]
    assert last == f"interrupted; the same command goes on: python run.py {' '.join(table)}"
    done = records(tmp_path)
    assert 1 <= len(done) < 6
    for run_id in done:
        read(tmp_path / "runs" / run_id / "record.json")
    finish(table)
    assert len(records(tmp_path)) == 6
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (RunError("out of memory"), 1, "-s1-.*: out of memory$"),
        (RuntimeError("a bug"), 1, "-s1-.*: failed$"),
        (ValueError("a bug"), 1, "-s1-.*: failed$"),
        (ConfigError(["a: wrong", "b: too"]), 2, "-s1-.*: a: wrong; b: too$"),
    ],
    ids=["run", "bug", "value", "user"],
)
def test_a_run_that_fails_does_not_stop_the_others(
    fault, status, said, table, tmp_path, monkeypatch, capsys, caplog
):
    real = experiment.fit

    def fit(method, loader, sampler, config, seed, *more):
        if seed == 1:
            raise fault
        return real(method, loader, sampler, config, seed, *more)

    monkeypatch.setattr(experiment, "fit", fit)
    with caplog.at_level(logging.ERROR):
        assert cli.main(table) == status
    assert len(records(tmp_path)) == 4
    lines = (caplog.text + capsys.readouterr().err).splitlines()
    assert any(re.search(said, line) for line in lines)
    assert [line.strip() for line in lines[-2:]] == [
        f"python run.py train digits_lt {overlay} optim.epochs=2 seed=1 --results {tmp_path}"
        for overlay in ("ce", "cb")
    ]
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        ([], "optim.batch_size=15 optim.accumulate=2 needs about half"),
        (["optim.accumulate=3"], "optim.batch_size=15 optim.accumulate=6 needs about half"),
        (["optim.batch_size=1"], "a smaller backbone or smaller images"),
    ],
)
def test_out_of_memory_names_the_batch_size_that_would_fit(
    overrides, remedy, tmp_path, monkeypatch, capsys
):
    def fit(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(experiment, "fit", fit)
    assert cli.main(["train", *QUICK, *overrides, "--results", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert remedy in said[0]
    assert "Traceback" not in "".join(said)


def is_open_to_others(path):
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.parents))


def test_results_that_may_not_be_written_end_the_run_and_keep_what_was_there(tmp_path_factory):
    if not (is_open_to_others(ROOT) and is_open_to_others(Path(sys.prefix))):
        pytest.skip("the user nobody may not read this checkout or environment, so cannot run it")
    with tempfile.TemporaryDirectory() as outside:
        results = Path(outside) / "results"
        finish(["train", *QUICK, "--results", str(results)])
        (folder,) = (results / "runs").iterdir()
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        Path(outside).chmod(0o755)
        for path in (results, results / "runs", folder):
            path.chmod(0o555)
        said = Path(outside) / "said.txt"

        def status(seed):
            command = ["train", *QUICK, f"seed={seed}", "--results", str(results)]
            process = start(command, said, as_nobody=True)
            process.join()
            return process.exitcode

        assert status(seed=1) == 2
        (line,) = said.read_text(encoding="utf-8").splitlines()
        assert re.search(
            r"-s1-\w+/lock: cannot be written: Permission denied; choose another", line
        )
        assert status(seed=0) == 0  # what is finished can still be shown
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        for path in (results, results / "runs", folder):
            path.chmod(0o755)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own; the function changes its size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *options):
        what = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "tmpfs"]
        return subprocess.run([*what, str(folder)], capture_output=True, check=False).returncode

    if os.getuid() != 0 or mount("700k") != 0:
        pytest.skip("a small disk cannot be mounted here; needs root")
    yield folder, lambda size: mount(size, "remount")
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_keeps_the_last_good_state(small_disk, tmp_path):
    disk, resize = small_disk
    said = tmp_path / "said.txt"
    command = ["train", *QUICK, "--checkpoint-seconds", "0", "--results"]
    process = start([*command, str(disk)], said)
    process.join()
    assert process.exitcode == 2
    (line,) = said.read_text(encoding="utf-8").splitlines()[-1:]
    assert re.search(r"checkpoint\.pt: cannot be written: No space left on device; free", line)
    (folder,) = (disk / "runs").iterdir()
    assert load_tensors(folder / "checkpoint.pt")["state"]["meter"]["steps"] >= 1
    assert not list(folder.glob(".part-*"))
    assert resize("8m") == 0
    finish([*command, str(disk)])
    finish([*command, str(tmp_path)])
    other = tmp_path / "runs" / folder.name
    assert invariable(record(folder)) == invariable(record(other))
    assert record(folder)["environment"]["times_resumed"] == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_root_that_vanishes_ends_the_run_and_the_run_goes_on_when_it_is_back(
    workers, tmp_path
):
    root = fill(tmp_path / "photos", {"cat": 12, "dog": 9})
    fill(root, {"cat": 2, "dog": 2}, "test")
    config = prepare("folder", "ce", [*TINY, "optim.epochs=3"])

    def where(name, data_root=root):
        return Runtime.choose(
            "cpu",
            results=tmp_path / name,
            data_root=data_root,
            workers=workers,
            checkpoint_seconds=0,
        )

    def take_away(line):
        root.rename(tmp_path / "away")

    with pytest.raises(DataError) as caught:
        run(config, where("results"), take_away)
    (said,) = caught.value.problems
    assert "photos" in said
    assert "\n" not in said
    (tmp_path / "away").rename(root)
    assert run(config, where("results")).environment["times_resumed"] == 1
    run(config, where("undisturbed"))
    folders = [folder_of(config, tmp_path / name) for name in ("results", "undisturbed")]
    assert_equal(*folders)


def test_a_file_that_cannot_be_completed_leaves_the_one_before(tmp_path):
    path = tmp_path / "file"
    path.write_text("before", encoding="utf-8")

    def write():
        with whole_file(path) as file:
            file.write(b"half")
            raise OSError(28, "No space left on device")

    with pytest.raises(WriteError, match=r"^\.: cannot be written: .*; choose another folder"):
        write_text_whole(Path(), "no name of a file")
    with pytest.raises(WriteError, match="No space left on device; free some space"):
        write()
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_deterministic_runs_are_equal_to_the_bit_and_others_say_what_may_differ(tmp_path):
    for name in ("first", "second"):
        finish(["train", *QUICK, "--deterministic", "--results", str(tmp_path / name)])
    folders = [folder_of(config_of(0), tmp_path / name) for name in ("first", "second")]
    assert_equal(*folders)
    assert record(folders[0])["environment"]["deterministic"] is True
    assert record(folders[0])["environment"]["may_differ"] == []
    gpu = Runtime(torch.device("cuda"), "bf16")
    assert any("cudnn" in line for line in gpu.may_differ())
    assert replace(gpu, deterministic=True).may_differ() == []


@pytest.mark.slow
def test_memory_stays_flat_over_a_hundred_runs(tmp_path):
    def resident_mb():
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    where = Runtime.choose("cpu", results=tmp_path)
    sizes = []
    for seed in range(100):
        run(config_of(seed), where)
        sizes.append(resident_mb())
    print(f"resident: {sizes[0]:.1f} MB after 1 run, {sizes[19]:.1f} after 20, {sizes[-1]:.1f} MB")
    assert sizes[-1] - sizes[19] < 10
