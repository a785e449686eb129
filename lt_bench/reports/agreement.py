"""How far a repeated run agrees with its record: what `verify` says."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lt_bench import metrics
from lt_bench.record import Record

# Tolerances to name, in points of top-1 or of a shot group's accuracy.
STEPS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROUNDING = 1e-9  # so that one image of 500 is 0.2
# What the same configuration may still differ by: the machine and its software.
MACHINE = (
    "commit",
    "dirty",
    "device",
    "cpu",
    "ranks",
    "precision",
    "compiled",
    "deterministic",
    "packages",
)


@dataclass(frozen=True)
class Agreement:
    """`points` is the difference in top-1; `lines` tell all of it."""

    is_same_data: bool
    points: float
    lines: tuple[str, ...]

    def within(self, tolerance: float) -> bool:
        return self.is_same_data and self.points <= tolerance + ROUNDING


def agreement(record: Record, again: Record) -> Agreement:
    """Compare a run with its repetition."""
    is_same_data = (record.data.identity, record.data.class_counts) == (
        again.data.identity,
        again.data.class_counts,
    )
    told = tuple(_told(record, again, is_same_data))
    points = 100 * abs(metrics.top1(record.test.tally) - metrics.top1(again.test.tally))
    return Agreement(is_same_data, points, told)


def _outcome(record: Record) -> tuple[object, ...]:
    """All that follows from the configuration on one machine, to the last bit."""
    losses = [(epoch.loss, epoch.terms, epoch.lr) for epoch in record.history]
    return record.test, record.val, losses, record.class_history, record.settled


def _told(record: Record, again: Record, is_same_data: bool) -> Iterator[str]:
    ran = [{"ranks": 1, **run.environment} for run in (record, again)]
    for name in MACHINE:
        before, now = (environment.get(name) for environment in ran)
        if before != now and (before or now):  # off is as good as not in an older record
            yield f"{name}: {before} then, {now} now"
    if not is_same_data:
        yield "other images: the identity of the data differs, so the scores do not compare"
        return
    if _outcome(record) == _outcome(again):
        yield "identical: the losses of every epoch and the prediction for every image"
        return
    gaps = []
    then, now = _scores(record), _scores(again)
    for name, before in then.items():
        after = now[name]
        if before is not None and after is not None:
            gaps.append(abs(after - before))
            yield f"{name}: {before:.2f} then, {after:.2f} now ({after - before:+.2f})"
    if record.test.total == again.test.total:
        same = np.mean(record.test.predictions() == again.test.predictions())
        yield f"the same prediction for {100 * same:.1f} % of the test images"
    step = next((step for step in STEPS if max(gaps) <= step + ROUNDING), None)
    yield f"every score agrees within {step:g} points" if step else "no agreement within 10 points"


def _scores(record: Record) -> dict[str, float | None]:
    tally = record.test.tally
    groups = metrics.shot_accuracy(tally, record.data.class_counts)
    scores = {"all": metrics.top1(tally), **groups}
    return {name: None if value is None else 100 * value for name, value in scores.items()}
