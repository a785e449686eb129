"""Timing side by side, and the rows of a benchmark: ours, conventional, limit, ratio, goal."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

Kind = Literal["speedup", "rate", "cost", "share", "value"]
Unit = Literal["s", "images/s", "MiB"]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest over the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One comparison, with what was measured in each round.

    `kind` says what the ratio is and which way the goal lies: "speedup" conventional / ours in
    seconds and "rate" ours / conventional in images per second, at least; "cost" ours /
    conventional, at most; "share" limit / ours, at least; "value" is ours itself, at most.
    """

    what: str
    kind: Kind
    ours: Sequence[float]
    conventional: Sequence[float] | None = None
    limit: Sequence[float] | None = None
    goal: float | None = None
    unit: Unit = "s"

    @property
    def ratio(self) -> list[float] | None:
        """Of the two sides of each round, which shared the machine's mood."""
        above, below = {
            "speedup": (self.conventional, self.ours),
            "rate": (self.ours, self.conventional),
            "cost": (self.ours, self.conventional),
            "share": (self.limit, self.ours),
            "value": (None, None),
        }[self.kind]
        if above is None or below is None:
            return None
        return [a / b for a, b in zip(above, below, strict=True)]

    @property
    def spreads(self) -> dict[str, Spread | None]:
        sides = {"ours": self.ours, "conventional": self.conventional, "limit": self.limit}
        series = {**sides, "ratio": self.ratio}
        return {name: Spread.of(each) if each else None for name, each in series.items()}

    @property
    def is_met(self) -> bool | None:
        """Whether the median reaches the goal; None without one."""
        if self.goal is None:
            return None
        reached = statistics.median(self.ratio or self.ours)
        return reached <= self.goal if self.kind in ("cost", "value") else reached >= self.goal

    def as_dict(self) -> dict[str, Any]:
        spreads = {name: spread and asdict(spread) for name, spread in self.spreads.items()}
        said = {"goal": self.goal, "unit": self.unit, "is_met": self.is_met}
        return {"what": self.what, "kind": self.kind, **spreads, **said}


@dataclass(frozen=True)
class Result:
    """What one benchmark measured; `setting` says in words what the sides are."""

    setting: str
    rows: Sequence[Row]


def side_by_side(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device | None = None,
    least_seconds: float = 0.05,
) -> dict[str, list[float]]:
    """Seconds of one call of each contender, in each round; a round calls all of them in turn.

    Args:
        device: whose pending work belongs to the time.
        least_seconds: short calls are repeated within a round until they take this long.
    """
    calls = {}
    for name, call in contenders.items():
        seconds = _seconds(call, 1, device)  # allocates, chooses kernels, fills caches
        if seconds < 10 * least_seconds:
            seconds = _seconds(call, 1, device)
        calls[name] = max(1, math.ceil(least_seconds / seconds))
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            taken[name].append(_seconds(call, calls[name], device))
    return taken


def _seconds(call: Callable[[], object], calls: int, device: torch.device | None) -> float:
    _finish(device)
    began = time.perf_counter()
    for _ in range(calls):
        call()
    _finish(device)
    return (time.perf_counter() - began) / calls


def pass_through(batches: Iterable[object]) -> None:
    for _ in batches:
        pass


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread, to compare work instead of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _finish(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def table(rows: Sequence[Row]) -> list[str]:
    """The rows in aligned columns: median (smallest..largest)."""
    cells = [["", "ours", "conventional", "limit", "ratio", "goal"]]
    for row in rows:
        *sides, ratio = row.spreads.values()
        shown = [_in_unit(side, row.unit) for side in sides]
        cells.append([row.what, *shown, _ratio(ratio, row.kind), _goal(row)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def _in_unit(spread: Spread | None, unit: Unit) -> str:
    if spread is None:
        return ""
    factor, name = 1.0, str(unit)
    if unit == "s":
        scales = ((1.0, "s"), (1e3, "ms"), (1e6, "us"))
        factor, name = next((s for s in scales if spread.median * s[0] >= 1), scales[-1])
    values = [_digits(factor * value) for value in (spread.median, spread.min, spread.max)]
    return f"{values[0]} {name} ({values[1]}..{values[2]})"


def _ratio(ratio: Spread | None, kind: Kind) -> str:
    if ratio is None:
        return ""
    values = (ratio.median, ratio.min, ratio.max)
    if kind == "share":
        said = [f"{100 * value:.1f}" for value in values]
        return f"{said[0]} % ({said[1]}..{said[2]})"
    said = [f"{value:.2f}" for value in values]
    return f"{said[0]} x ({said[1]}..{said[2]})"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    sign = "<=" if row.kind in ("cost", "value") else ">="
    units = {"share": f"{100 * row.goal:g} %", "value": f"{row.goal:g} {row.unit}"}
    return f"{sign} {units.get(row.kind, f'{row.goal:g} x')}, {'met' if row.is_met else 'missed'}"


def _digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
