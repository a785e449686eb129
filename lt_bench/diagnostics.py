"""Figures of one section that look inside: reliability, where tail images go, learning curves."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lt_bench import metrics
from lt_bench.drawing import BASELINE, GROUPS, LOSS, METHOD, SHADE, panels
from lt_bench.metrics import Bins, FloatArray
from lt_bench.record import Record
from lt_bench.tables import Row, dataset_name, sorted_labels

RIGHT = "#009E73"


def draw_reliability(rows: Sequence[Row]) -> Figure:
    """Share right by confidence, bins of all seeds together; the bar below is how many images."""
    num_columns = min(4, len(rows))
    num_lines = -(-len(rows) // num_columns)
    figure, axes = panels(num_lines, num_columns, height=1.75, sharey=True)
    for index, (panel, row) in enumerate(zip(axes, rows, strict=False)):
        bins = _all_seeds(row)
        width = 1 / len(bins.count)
        filled = bins.count > 0
        place = (np.arange(len(bins.count)) + 0.5) * width
        right, confidence = bins.correct / bins.count.clip(1), bins.confidence / bins.count.clip(1)
        panel.bar(place[filled], right[filled], 0.9 * width, color=METHOD, linewidth=0)
        gap = (confidence - right)[filled]
        panel.bar(
            place[filled], gap, 0.9 * width, bottom=right[filled], color=LOSS, alpha=SHADE, lw=0
        )
        panel.bar(
            place, -0.18 * bins.count / bins.count.max(), 0.9 * width, color=BASELINE, linewidth=0
        )
        panel.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle="--")
        # as the table has it: the mean over seeds, which is above the error of the summed bins
        errors = [metrics.expected_calibration_error(one) for one in _top_label(row)]
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
        panel.tick_params(labelbottom=index + num_columns >= len(rows))
    for panel in axes[len(rows) :]:
        panel.remove()
    figure.suptitle(
        f"{dataset_name(rows[0].config)}: share right by confidence of the prediction, all seeds"
    )
    figure.legend(
        handles=[
            Patch(color=METHOD, linewidth=0, label="share right"),
            Patch(color=LOSS, alpha=SHADE, linewidth=0, label="gap to the mean confidence"),
            Patch(color=BASELINE, linewidth=0, label="images in the bin"),
        ],
        loc="outside lower center",
        ncols=3,
        frameon=False,
    )
    return figure


def draw_confusion(rows: Sequence[Row], thresholds: Mapping[str, int]) -> Figure | None:
    """What the images of each shot group are taken for; None where a test list is not sorted."""
    shares = [_taken_for(row, thresholds) for row in rows]
    known = [(row, share) for row, share in zip(rows, shares, strict=True) if share is not None]
    if not known:
        return None
    figure, axes = panels(1, 3, height=0.75 + 0.17 * len(known), sharey=True)
    parts = {"right": RIGHT, **{name: GROUPS[name] for name in metrics.SHOT_GROUPS}}
    for line, (panel, group) in enumerate(zip(axes, metrics.SHOT_GROUPS, strict=True)):
        left = np.zeros(len(known))
        for column, colour in enumerate(parts.values()):
            values = np.array([100 * share[line, column] for _, share in known])
            panel.barh(range(len(known)), values, 0.75, left, color=colour, linewidth=0)
            for place, value in enumerate(values):
                if value >= 8:
                    middle = left[place] + value / 2
                    panel.text(
                        middle, place, f"{value:.0f}", ha="center", va="center", fontsize=6,
                        color="white",
                    )  # fmt: skip
            left += values
        panel.set(title=f"{group}-shot images", xlim=(0, 100), xlabel="%")
        panel.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(known)), [row.name for row, _ in known])
    axes[0].invert_yaxis()
    figure.suptitle(f"{dataset_name(rows[0].config)}: what test images are taken for")
    labels = ["right class", *(f"wrong, a {name}-shot class" for name in metrics.SHOT_GROUPS)]
    figure.legend(
        handles=[
            Patch(color=colour, linewidth=0, label=label)
            for colour, label in zip(parts.values(), labels, strict=True)
        ],
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure


def draw_curves(rows: Sequence[Row]) -> Figure | None:
    """Training loss by epoch, and its terms where there are several; None without epochs."""
    rows = [row for row in rows if all(len(record.history) > 1 for record in row.records)]
    if not rows:
        return None
    num_columns = min(4, len(rows))
    num_lines = -(-len(rows) // num_columns)
    figure, axes = panels(num_lines, num_columns, height=1.35)
    for index, (panel, row) in enumerate(zip(axes, rows, strict=False)):
        for record in row.records:
            panel.plot(*_losses(record), color=METHOD, linewidth=0.9, alpha=0.8)
        for place in _steps_down(row.records[0]):
            panel.axvline(place, color=BASELINE, linewidth=0.6, linestyle=":")
        panel.set(title=row.name, ylim=(0, None))
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.tick_params(labelbottom=index + num_columns >= len(rows))
    for panel in axes[len(rows) :]:
        panel.remove()
    figure.suptitle(
        f"{dataset_name(rows[0].config)}: training loss by epoch, each method's own scale"
    )
    figure.legend(
        handles=[
            Line2D([], [], color=METHOD, label="one seed"),
            Line2D([], [], color=BASELINE, linestyle=":", label="learning rate steps down"),
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    return figure


def _top_label(row: Row) -> list[Bins]:
    """The bins of each seed, as many as the first has."""
    each = [record.test.calibration.top_label.bins for record in row.records]
    return [bins for bins in each if len(bins.count) == len(each[0].count)]


def _all_seeds(row: Row) -> Bins:
    each = _top_label(row)
    count = np.sum([bins.count for bins in each], axis=0)
    right = np.sum([bins.correct for bins in each], axis=0)
    confidence = np.sum([bins.confidence for bins in each], axis=0)
    return Bins(count, confidence, right)


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
        counts = np.zeros((3, 4))
        np.add.at(counts, (place[labels], column), 1)
        tables.append(counts / counts.sum(axis=1, keepdims=True).clip(1))
    mean: FloatArray = np.mean(tables, axis=0)
    return mean


def _losses(record: Record) -> tuple[list[int], list[float]]:
    return [epoch.epoch + 1 for epoch in record.history], [epoch.loss for epoch in record.history]


def _steps_down(record: Record) -> list[float]:
    """Where the learning rate falls by more than a third from one epoch to the next."""
    pairs = zip(record.history, record.history[1:], strict=False)
    steps = [after.epoch + 0.5 for before, after in pairs if after.lr < before.lr / 1.5]
    return steps if len(steps) <= 4 else []
