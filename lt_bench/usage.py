"""What a run takes of its machine besides time: peak memory, energy of a GPU (extra `energy`)."""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

PROCESS = Path("/proc/self")
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
        self.joules = _board(device) if is_alone and device.type == "cuda" else _not_counted
        self.joules_before = self.joules()
        self.earlier: Mapping[str, Any] | None = None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self.has_resident = False
        with suppress(OSError):  # not Linux, or a kernel without it
            (PROCESS / "clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
            self.has_resident = True

    def go_on_from(self, earlier: Mapping[str, Any]) -> None:
        """Count what `as_dict` gave of the parts of the run before this one as well."""
        self.earlier = earlier

    def as_dict(self) -> dict[str, Any]:
        """So far, by the names of the record's fields; None for what is not counted here.

        Joules of the GPU's board, whatever else it does as well; peak bytes of the device's
        allocator on a GPU; peak resident bytes of this process.
        """
        joules = self.joules() - self.joules_before
        now = {
            "energy_joules": joules if math.isfinite(joules) else None,
            "peak_memory_bytes": self._allocated(),
            "peak_resident_bytes": self._resident(),
        }
        if self.earlier is None:
            return now
        parts = {name: (self.earlier[name], value) for name, value in now.items()}
        return {n: None if None in both else JOIN[n](both) for n, both in parts.items()}

    def _allocated(self) -> int | None:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None

    def _resident(self) -> int | None:
        if not self.has_resident:
            return None
        # not getrusage, whose peak holds that of the process which started this one
        lines = (PROCESS / "status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _not_counted() -> float:
    return math.nan


def _board(device: torch.device) -> Callable[[], float]:
    """What reads the joules of a GPU's board since any moment; nan where it fails."""
    try:
        import pynvml
    except ImportError:
        return _not_counted
    try:
        pynvml.nvmlInit()
        uuid = torch.cuda.get_device_properties(device).uuid
        board = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:
        return _not_counted

    def joules() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(board)) / 1e3
        except pynvml.NVMLError:
            return math.nan

    return joules
