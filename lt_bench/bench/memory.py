"""Peak memory of whole runs, each in a process of its own, on images made up here.

Nothing is imported from the conventional loops beside this, whose libraries would be measured too.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lt_bench.assembly import prepare
from lt_bench.bench.measure import Result, Row
from lt_bench.config import ROOT
from lt_bench.data.datasets import DATASETS
from lt_bench.data.profiles import class_counts
from lt_bench.data.types import LongTailData, Split
from lt_bench.experiment import run
from lt_bench.progress import Progress
from lt_bench.record import read_all
from lt_bench.runtime import Runtime, usable_cores
from lt_bench.samplers import SAMPLERS, instance

STEPS = 4
# recipes and what is changed of them; the networks and shapes are those of real runs
CIFAR = ("cifar100_lt", "data={name='made_up'}", "sampler={name='first_steps'}", "optim.epochs=1")
JPEG = ("folder", "backbone.model=resnet50", "optim.batch_size=64", "optim.epochs=1")
JPEG_CLASSES, JPEG_PER_CLASS = 64, 2
JPEG_SHAPE = (375, 500, 3)
SECONDS_BETWEEN_LOOKS = 0.05
MIB = 2**20


def memory(where: Runtime, *, cifar: Sequence[str] = (), jpeg: Sequence[str] = ()) -> Result:
    """The peak resident memory of a CIFAR run and of one from JPEG files.

    Args:
        cifar, jpeg: further settings of the two runs.
    """
    if sys.platform != "linux":
        return Result("left out: the peak of a process is read from Linux's /proc", [])
    workers = usable_cores()
    limit, _ = _peaks("-c", f"import time, torch; time.sleep({2 * SECONDS_BETWEEN_LOOKS})")
    found: dict[str, float] = {}
    with TemporaryDirectory() as name:
        root = Path(name) / "data"
        _write_photos(root)
        for kind, recipe in {"CIFAR": (*CIFAR, *cifar), "JPEG": (*JPEG, *jpeg)}.items():
            results = Path(name) / kind
            machine = (str(where.device), where.precision, str(workers))
            alone, together = _peaks("-m", __name__, str(root), str(results), *machine, *recipe)
            found[f"{kind} run"] = alone
            if kind == "JPEG":
                found[f"{kind} run and its {workers} workers"] = together
            (record,) = read_all(results)
            if record.peak_memory_bytes is not None:
                found[f"{kind} run, on the GPU"] = record.peak_memory_bytes / MIB
    rows = [
        Row(what, "value", [peak], limit=[limit] if "GPU" not in what else None, unit="MiB")
        for what, peak in found.items()
    ]
    return Result(
        "peak resident memory; CIFAR-100-LT in shape, ResNet-32, batch 128; 500x375 JPEG files at "
        "224, ResNet-50, batch 64, what processes share counted once; limit: import torch",
        rows,
    )


def _peaks(*arguments: str) -> tuple[float, float]:
    """MiB of a Python process at its most, and with what those that it started hold alone.

    Raises:
        RuntimeError: the process failed; the message is what it said.
    """
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=said,
            stderr=said,
            start_new_session=True,  # by which its own processes are known
        )
        largest = total = 0
        try:
            while process.poll() is None:
                with suppress(OSError, UnicodeDecodeError):  # it ended in the meantime
                    largest = max(largest, _bytes(process.pid, "status", "VmHWM"))
                total = max(total, largest + _private_in_session(process.pid))
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:  # where a look is interrupted, it is not left at work
            process.kill()
            process.wait()
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read())
    return largest / MIB, total / MIB


def _private_in_session(session: int) -> int:
    """The bytes that the processes of a session, its first one apart, share with no other."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, UnicodeDecodeError):
            # what follows the name, which may hold anything: state, parent, group, session
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            process = int(folder.name)
            if int(fields[3]) == session != process:
                total += _bytes(process, "smaps_rollup", "Private_Clean", "Private_Dirty")
    return total


def _bytes(process: int, file: str, *names: str) -> int:
    lines = Path(f"/proc/{process}/{file}").read_text(encoding="utf-8").splitlines()
    found = (line.split() for line in lines)
    return sum(1024 * int(words[1]) for words in found if words[0].rstrip(":") in names)


def _write_photos(root: Path) -> None:
    """One photo under the names of many: what it shows takes no memory."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    height, width, _ = JPEG_SHAPE
    photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    for split, images in (("train", JPEG_PER_CLASS), ("test", 1)):
        for label in range(JPEG_CLASSES):
            folder = root / split / f"{label:02}"
            folder.mkdir(parents=True)
            for i in range(images):
                photo.save(folder / f"{i}.jpg", quality=95)


def _cifar(root: Path | None) -> LongTailData:
    """CIFAR-100-LT at imbalance factor 100, in shape."""
    counts = class_counts(100, 500, imbalance_factor=100)

    def split(per_class: Sequence[int]) -> Split:
        labels = torch.repeat_interleave(torch.tensor(per_class))
        return Split(torch.randint(256, (len(labels), 3, 32, 32), dtype=torch.uint8), labels)

    return LongTailData(
        name="made_up",
        train=split(counts),
        val=None,
        test=split([100] * 100),
        class_names=[str(label) for label in range(100)],
        class_counts=counts,
        identity={},
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        source="made up",
    )


def _first_steps(labels_N: Tensor, progress: Progress, generator: torch.Generator) -> Tensor:
    return instance(labels_N, progress, generator)[: STEPS * 128]


def _main(root: str, results: str, device: str, precision: str, workers: str, *said: str) -> None:
    """The process that is measured: one run, as `train` does it."""
    cast(dict[str, Any], DATASETS)["made_up"] = _cifar
    cast(dict[str, Any], SAMPLERS)["first_steps"] = _first_steps
    recipe, *overrides = said
    where = Runtime.choose(device, precision, Path(root), Path(results), workers=int(workers))
    run(prepare(recipe, "ce", overrides), where)


if __name__ == "__main__":
    _main(*sys.argv[1:])
