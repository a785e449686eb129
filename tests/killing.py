"""Runs on the digits that are killed at random moments, started again, and compared.

Each is a process forked from one that has everything imported, so that a kill costs tenths of a
second. The state is kept after every step, so that many kills meet a file half-written.
"""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from lt_bench.assembly import prepare
from lt_bench.checkpoint import load_model
from lt_bench.cli import main
from lt_bench.usage import JOIN

OVERLAYS = ("ce", "sdn_recall", "ldam_drw", "crt")  # crt starts from ce's run
OVERRIDES = ("optim.epochs=5",)
VARYING = ("seconds", "images_per_second", "environment", *JOIN)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.killing", "tests.warm"])


def command(argv: list[str], said: Path, as_nobody: bool) -> None:
    """What a run's process does; what it says goes to a file."""
    torch.set_num_threads(1)
    with said.open("w") as sys.stdout:
        sys.stderr = sys.stdout
        if as_nobody and os.getuid() == 0:
            os.setuid(65534)  # whom permissions do bind
        status = main(argv)
    sys.exit(status)


def start(
    argv: list[str], said: Path = Path(os.devnull), *, as_nobody: bool = False
) -> multiprocessing.process.BaseProcess:
    process = PROCESSES.Process(target=command, args=(argv, said, as_nobody))
    process.start()
    return process


def train_arguments(overlay: str, results: Path, *flags: str) -> list[str]:
    flags = flags or ("--checkpoint-seconds", "0")
    return ["train", "digits_lt", overlay, *OVERRIDES, "--results", str(results), *flags]


def finish(argv: list[str]) -> None:
    process = start(argv)
    process.join()
    assert process.exitcode == 0, (argv, process.exitcode)


def run_folder(overlay: str, results: Path) -> Path:
    return results / "runs" / prepare("digits_lt", overlay, OVERRIDES).run_id


def invariable(tree):
    """A record without what two equal runs may differ in."""
    if isinstance(tree, dict):
        return {key: invariable(value) for key, value in tree.items() if key not in VARYING}
    return [invariable(item) for item in tree] if isinstance(tree, list) else tree


def record(folder: Path):
    return json.loads((folder / "record.json").read_text(encoding="utf-8"))


def assert_equal(folder: Path, undisturbed: Path) -> None:
    """The same record and the same model, to the bit."""
    assert invariable(record(folder)) == invariable(record(undisturbed)), folder
    model, expected = load_model(folder / "model.pt"), load_model(undisturbed / "model.pt")
    assert model.keys() == expected.keys()
    for name, value in model.items():
        assert torch.equal(value, expected[name]), (folder, name)


class Rehearsal:
    """Undisturbed runs to compare with, and a place for the disturbed ones."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.undisturbed = scratch / "undisturbed"
        finish(["train", "digits_lt", "ce", "--results", str(self.undisturbed)])  # crt's parent
        self.parent = run_folder_of_parent(self.undisturbed)
        self.longest = 0.0
        for overlay in OVERLAYS:
            began = time.monotonic()
            finish(train_arguments(overlay, self.undisturbed))
            self.longest = max(self.longest, time.monotonic() - began)

    def kill(self, overlay: str, kills: int, seed: int) -> None:
        """Kill runs of one overlay that many times; each ends as if nobody had."""
        draw = random.Random(seed)
        expected = run_folder(overlay, self.undisturbed)
        results, killed = self.scratch / overlay, 0
        while killed < kills:
            shutil.copytree(self.parent, results / "runs" / self.parent.name)
            folder = run_folder(overlay, results)
            while killed < kills or not (folder / "record.json").exists():
                process = start(train_arguments(overlay, results))
                process.join(draw.uniform(0, self.longest) if killed < kills else None)
                process.kill()
                process.join()
                killed += process.exitcode == -signal.SIGKILL
                if process.exitcode == 0:
                    break
            assert_equal(folder, expected)
            # a kill after the record was written leaves what only an owner removes
            left = {path.name for path in folder.iterdir()} - {"checkpoint.pt", "lock"}
            assert left == {"events.jsonl", "model.pt", "record.json"}
            shutil.rmtree(results)


def run_folder_of_parent(results: Path) -> Path:
    parent = prepare("digits_lt", "crt", OVERRIDES).parent
    assert parent is not None
    return results / "runs" / parent.run_id


def fast_folder() -> str | None:
    """In memory where there is such a place: waiting for the disk is not what is tested."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
