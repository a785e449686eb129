"""What a run takes of its machine besides time: peak memory, and energy where it is counted.

Energy is read from counters of the hardware, which count whatever else it does as well: NVML's of
an NVIDIA GPU (extra `energy`), RAPL's of the CPU packages on Linux where they may be read.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

RAPL = Path("/sys/class/powercap")
PROCESS = Path("/proc/self")
# A CPU package takes less, so a counter of it goes round in more than its range divided by this.
MOST_WATTS = 1000.0
POLL_SECONDS = 30.0
JOIN: Mapping[str, Callable[[Any], Any]] = {
    "energy_joules": sum,
    "peak_memory_bytes": max,
    "peak_resident_bytes": max,
}


class Usage:
    """Measures a run from the moment it is made.

    Args:
        is_alone: whether no other run of ours is at work on the device; energy that several of
            them share is not counted.
    """

    def __init__(self, device: torch.device, *, is_alone: bool = True) -> None:
        self.device = device
        self.counters = list(_nvml(device) if device.type == "cuda" else _rapl()) * is_alone
        self.polled = time.monotonic()
        self.earlier: Mapping[str, Any] | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.has_resident = False
        with suppress(OSError):  # not Linux, or a kernel without it
            (PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
            self.has_resident = True

    def poll(self) -> None:
        """Read the counters now and then, so that none goes round unseen; for every step."""
        if time.monotonic() - self.polled > POLL_SECONDS:
            self._joules()

    def go_on_from(self, earlier: Mapping[str, Any]) -> None:
        """Count what `as_dict` gave of the parts of the run before this one as well."""
        self.earlier = earlier

    def as_dict(self) -> dict[str, Any]:
        """So far, by the names of the record's fields; None for what is not counted here.

        Joules; peak bytes of the device's allocator on a GPU; peak resident bytes of this process.
        """
        now = {
            "energy_joules": self._joules(),
            "peak_memory_bytes": self._allocated(),
            "peak_resident_bytes": self._resident(),
        }
        if self.earlier is None:
            return now
        parts = {name: (self.earlier[name], value) for name, value in now.items()}
        return {n: None if None in both else JOIN[n](both) for n, both in parts.items()}

    def _joules(self) -> float | None:
        self.polled = time.monotonic()
        total = sum(counter.joules() for counter in self.counters)
        return total if self.counters and math.isfinite(total) else None

    def _allocated(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def _resident(self) -> int | None:
        if not self.has_resident:
            return None
        # not getrusage, whose peak holds that of the process which started this one
        lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


class Counter:
    """Joules from the moment it is made; nan once the count is lost.

    Args:
        read: joules since any moment; nan where it fails.
        full: the joules at which `read` starts over.
    """

    def __init__(self, read: Callable[[], float], full: float = math.inf) -> None:
        self.read, self.full = read, full
        self.total = 0.0
        self.last, self.at = read(), time.monotonic()

    def joules(self) -> float:
        now, at = self.read(), time.monotonic()
        may_be_round = (at - self.at) * MOST_WATTS >= self.full
        self.total += math.nan if may_be_round else (now - self.last) % self.full
        self.last, self.at = now, at
        return self.total


def _rapl() -> Iterator[Counter]:
    """The CPU packages."""
    # packages alone: the zones within are part of them, and `psys` holds them all
    for folder in RAPL.glob("intel-rapl:[0-9]*"):
        with suppress(OSError):
            if (folder / "name").read_text(encoding="ascii").startswith("package"):
                full = float((folder / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
                yield Counter(functools.partial(_joules_in, folder / "energy_uj"), full)


def _joules_in(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii")) / 1e6
    except OSError:
        return math.nan


def _nvml(device: torch.device) -> Iterator[Counter]:
    """The GPU's board, if it counts and the extra `energy` is installed."""
    try:
        import pynvml
    except ImportError:
        return

    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(board)) / 1e3
        except pynvml.NVMLError:
            return math.nan

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        board = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        yield Counter(read)
