"""Figures of one section that look inside: reliability, where tail images go, learning curves."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lt_bench import metrics
from lt_bench.metrics import Bins, FloatArray
from lt_bench.reports.drawing import (
    BASELINE,
    GROUPS,
    LOSS,
    METHOD,
    SHADE,
    legend,
    method_bars,
    panels_of_four,
    subject,
)
from lt_bench.reports.tables import Row, sorted_labels

RIGHT = "#CFE8DD"  # light also in grey, beside the groups' colours
RELIABILITY: Mapping[str, Mapping[str, Any]] = {
    "share right, up to the confidence": {"color": METHOD},
    "right more often than confident": {"color": METHOD, "alpha": 0.5},
    "right less often than confident": {"color": LOSS, "alpha": SHADE},
    "images in the bin": {"color": BASELINE},
}


def draw_reliability(rows: Sequence[Row]) -> Figure:
    """Share right by confidence, bins of all seeds together; the bar below is how many images."""
    figure, axes = panels_of_four(len(rows), height=1.75, xlabel="confidence", sharey=True)
    for panel, row in zip(axes, rows, strict=True):
        seeds = _top_label(row)
        columns = [[one.count, one.confidence, one.correct] for one in seeds]
        count, sure, right = np.sum(columns, axis=0)
        width = 1 / len(count)
        place = (np.arange(len(count)) + 0.5) * width
        right, sure = right / count.clip(1), sure / count.clip(1)
        both, share = np.minimum(right, sure), 0.18 * count / count.max()
        bars = ((both, 0.0), (right - both, both), (sure - both, both), (-share, 0.0))
        for (height, bottom), colour in zip(bars, RELIABILITY.values(), strict=True):
            panel.bar(place, height, 0.9 * width, bottom, linewidth=0, **colour)
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle="--")
        # as the table has it: the mean over seeds, which is above the error of the summed bins
        errors = [metrics.expected_calibration_error(one) for one in seeds]
        panel.text(
            0.03,
            0.9,
            f"ECE {100 * statistics.fmean(errors):.1f} %",
            fontsize=6.5,
            transform=panel.transAxes,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )
        panel.set(title=row.name, xlim=(0, 1), ylim=(-0.22, 1), yticks=(0, 0.5, 1))
        panel.set_xticks([0, 0.5, 1])
    figure.supylabel("share right", fontsize=8)
    figure.suptitle(f"{subject(rows)}: share right by confidence of the prediction, all seeds")
    legend(figure, RELIABILITY)
    return figure


def draw_confusion(rows: Sequence[Row], thresholds: Mapping[str, int]) -> Figure | None:
    """What the images of each shot group are taken for; None where a test list is not sorted."""
    shares = [_taken_for(row, thresholds) for row in rows]
    known = [(row, share) for row, share in zip(rows, shares, strict=True) if share is not None]
    if not known:
        return None
    figure, axes = method_bars([row for row, _ in known], 3)
    parts = {"right class": RIGHT}
    parts |= {f"wrong, a {name}-shot class": GROUPS[name] for name in metrics.SHOT_GROUPS}
    for line, (panel, group) in enumerate(zip(axes, metrics.SHOT_GROUPS, strict=True)):
        left = np.zeros(len(known))
        for column, colour in enumerate(parts.values()):
            values = np.array([100 * share[line, column] for _, share in known])
            bars = panel.barh(
                range(len(known)), values, 0.75, left, color=colour, edgecolor="white", lw=0.6
            )
            texts = [f"{value:.0f}" if value >= 8 else "" for value in values]
            ink = "black" if colour in (RIGHT, GROUPS["medium"]) else "white"
            panel.bar_label(bars, texts, label_type="center", fontsize=6, color=ink)
            left += values
        panel.set(title=f"{group}-shot images", xlim=(0, 100), xlabel="%")
        panel.set_xticks([0, 25, 50, 75, 100])
    figure.suptitle(f"{subject(rows)}: what test images are taken for")
    legend(figure, {label: {"color": colour} for label, colour in parts.items()})
    return figure


def draw_curves(rows: Sequence[Row]) -> Figure | None:
    """Training loss by epoch; None without epochs."""
    rows = [row for row in rows if all(len(record.history) > 1 for record in row.records)]
    if not rows:
        return None
    figure, axes = panels_of_four(len(rows), height=1.35, xlabel="epoch")
    are_alike = len({row.config.optim.epochs for row in rows}) == 1
    for panel, row in zip(axes, rows, strict=True):
        losses = [[epoch.loss for epoch in record.history] for record in row.records]
        for line in losses:
            panel.plot(np.arange(len(line)) + 1, line, color=METHOD, linewidth=0.9, alpha=0.8)
        for place in _steps_down(row):
            panel.axvline(place, color=BASELINE, linewidth=0.6, linestyle=":")
        panel.set_title(row.name)
        if min(map(min, losses)) >= 0:
            panel.set_ylim(bottom=0)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if not are_alike:
            panel.tick_params(labelbottom=True)
    figure.suptitle(f"{subject(rows)}: training loss by epoch, each method's own scale")
    steps = {"color": BASELINE, "linestyle": ":"}
    legend(
        figure,
        {"one seed": {"color": METHOD, "linestyle": "-"}, "learning rate steps down": steps},
    )
    return figure


def _top_label(row: Row) -> list[Bins]:
    """The bins of each seed, as many as the first has."""
    each = [record.test.calibration.top_label.bins for record in row.records]
    return [bins for bins in each if len(bins.count) == len(each[0].count)]


def _taken_for(row: Row, thresholds: Mapping[str, int]) -> FloatArray | None:
    """Per true group: share right, and shares wrong by the predicted class's group."""
    tables = []
    for record in row.records:
        labels = sorted_labels(record)
        if labels is None:
            return None
        groups = metrics.shot_groups(record.data.class_counts, **thresholds)
        place = np.zeros(len(record.data.class_counts), dtype=int)
        for index, members in enumerate(groups.values()):
            place[members] = index
        predicted = record.test.predictions()
        column = np.where(predicted == labels, 0, 1 + place[predicted])
        counts = np.bincount(4 * place[labels] + column, minlength=12).reshape(3, 4)
        tables.append(counts / counts.sum(axis=1, keepdims=True).clip(1))
    mean: FloatArray = np.mean(tables, axis=0)
    return mean


def _steps_down(row: Row) -> list[float]:
    """Where a schedule of steps has the learning rate fall from one epoch to the next."""
    if row.config.optim.schedule.name != "step":
        return []
    history = row.records[0].history
    pairs = zip(history, history[1:], strict=False)
    return [after.epoch + 0.5 for before, after in pairs if after.lr < before.lr]
