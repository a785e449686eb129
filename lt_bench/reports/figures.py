"""Figures of a table, from the same records; here accuracy by class, shot groups, weights."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from lt_bench import metrics
from lt_bench.files import whole_file
from lt_bench.metrics import FloatArray, IntArray
from lt_bench.record import Record
from lt_bench.reports.diagnostics import draw_confusion, draw_curves, draw_reliability
from lt_bench.reports.drawing import (
    BASELINE,
    CLASSES_SHOWN_SINGLY,
    GAIN,
    GROUPS,
    LOSS,
    METHOD,
    SHADE,
    STYLE,
    comparable,
    head_to_tail,
    legend,
    method_bars,
    panels,
    panels_of_four,
    subject,
)
from lt_bench.reports.overviews import draw_cost, draw_factors, draw_ranks
from lt_bench.reports.render import source_of_figure
from lt_bench.reports.report import Results, seconds_with_parents
from lt_bench.reports.tables import NO_VALUE, Filled, Row, Runs

LOWEST_WEIGHT = 0.01  # of the mean weight


def write_all(results: Results) -> list[Path]:
    """Draw every table of shot groups that has a record, and return the files."""
    written = []
    for table, name, figure in _drawn_of(results):
        path = results.folder / "figures" / f"{name}.png"
        with whole_file(path) as file:
            # no version of matplotlib in the file: the same picture is the same bytes
            marks = {"Software": None, "Source": source_of_figure(name, table, results.folder)}
            figure.savefig(file, format="png", metadata=marks)
        written.append(path)
    return written


def write_pdfs(results: Results, folder: Path) -> list[Path]:
    """The same figures as PDF, of a text page's width and with the fonts in them, for print."""
    written = []
    for _, name, figure in _drawn_of(results):
        path = folder / f"{name}.pdf"
        with whole_file(path) as file:
            figure.savefig(file, format="pdf", metadata={"CreationDate": None})
        written.append(path)
    return written


def _drawn_of(results: Results) -> Iterator[tuple[Filled, str, Figure]]:
    by_run = {record.run_id: record for record in results.records}
    for table in results.filled:
        for name, figure in drawn(table, by_run):
            yield table, name, figure


def drawn(table: Filled, runs: Runs) -> Iterator[tuple[str, Figure]]:
    """Every figure of a table of shot groups by name; what has nothing to show is left out."""
    if table.config.report.name != "shots":
        return
    with mpl.rc_context(STYLE):
        found = {"factors": draw_factors(table), "ranks": draw_ranks(table)}
        yield from ((f"{table.name}-{kind}", figure) for kind, figure in found.items() if figure)
        for section, rows in table.rows.items() if not table.config.vary else ():
            alike = comparable(rows)
            found = _of_section(table, alike, runs) if alike else {}
            stem = table.name_of(section)
            yield from ((f"{stem}-{kind}", figure) for kind, figure in found.items() if figure)


def draw_classes(rows: Sequence[Row], thresholds: Mapping[str, int]) -> Figure:
    """Class counts, and accuracy by class of each method against the first, head to tail."""
    order = head_to_tail(rows[0])
    order = order[np.asarray(rows[0].records[0].test.total)[order] > 0]
    counts = np.asarray(rows[0].records[0].data.class_counts)[order]
    others = rows[1:] or rows
    label = "class, most images first"
    figure, axes = panels_of_four(1 + len(others), height=1.3, xlabel=label)
    _draw_counts(axes[0], counts, thresholds)
    for panel, row in zip(axes[1:], others, strict=True):
        _draw_accuracy(panel, row, rows[0], order)
    for index, panel in enumerate(axes):
        for start, _, _ in _spans(counts, thresholds)[1:]:
            top = 0.78 if index == 0 else 1.0  # below the groups' names
            panel.axvline(start - 0.5, ymax=top, color="black", lw=0.5, ls=(0, (2, 3)))
        panel.set_xlim(-0.5, len(counts) - 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        panel.tick_params(labelleft=index % 4 == 0 or index == 1)
    figure.suptitle(f"{subject(rows)}: accuracy in %, classes by falling count")
    window = _window(len(counts))
    curve = f", running mean over {window} classes" if window > 1 else ""
    keys: dict[str, dict[str, Any]] = {
        f"method of the panel{curve}": {"color": METHOD, "linestyle": "-"},
        rows[0].name: {"color": BASELINE, "linestyle": "-"},
        "gain": {"color": GAIN, "alpha": SHADE},
        "loss": {"color": LOSS, "alpha": SHADE},
    }
    legend(figure, keys)
    return figure


def draw_groups(rows: Sequence[Row]) -> Figure:
    """Bars of the shot groups' accuracy, with the standard deviation over seeds."""
    figure, axes = method_bars(rows, 4)
    # one scale for all panels, with room for the figures at the ends of the bars
    limit = max([1.0, *(125 * value for row in rows for g in GROUPS for value in row.values(g))])
    for panel, group in zip(axes, GROUPS, strict=True):
        for place, row in enumerate(rows):
            mean, sd = (100 * (value or 0.0) for value in (row.mean(group), row.sd(group)))
            error = {"elinewidth": 0.8, "capsize": 1.5, "capthick": 0.8}
            panel.barh(place, mean, 0.72, xerr=sd or None, color=GROUPS[group], error_kw=error)
            text = f"{mean:.1f}" if row.values(group) else NO_VALUE
            panel.text(mean + sd + 0.015 * limit, place, text, va="center", fontsize=6.5)
        panel.set(title=group, xlim=(0, limit), xlabel="accuracy, %")
        panel.set_xticks([tick for tick in (0, 25, 50, 75, 100) if tick < limit])
    one_seed = "; no bar: one seed" if min(len(row.records) for row in rows) == 1 else ""
    figure.suptitle(f"{subject(rows)}: mean and standard deviation over seeds{one_seed}")
    return figure


def draw_weights(rows: Sequence[Row]) -> Figure:
    """Class weights that followed the training: by class over time, and by time over class."""
    figure, axes = panels(len(rows), 2, height=2.2)
    for row, by_class, by_epoch in zip(rows, axes[::2], axes[1::2], strict=True):
        epochs, weights = _class_weights(row)
        order = head_to_tail(row)
        counts = np.asarray(row.records[0].data.class_counts)[order].clip(min=1)  # for logarithms
        _draw_weights_by_class(by_class, epochs, weights[:, order], counts, row.name)
        _draw_weights_by_epoch(by_epoch, epochs, weights[:, order], counts)
    figure.suptitle(f"{subject(rows)}: class weights that follow the training")
    return figure


def _of_section(table: Filled, rows: Sequence[Row], runs: Runs) -> dict[str, Figure | None]:
    thresholds = table.config.report.options
    tracked = [row for row in rows if _weight_name(row.records[0])]
    is_timed = "cost" in {spec.name for spec in table.config.also}
    seconds = functools.partial(seconds_with_parents, runs=runs)
    return {
        "classes": draw_classes(rows, thresholds),
        "groups": draw_groups(rows),
        "weights": draw_weights(tracked) if tracked else None,
        "confusion": draw_confusion(rows, thresholds),
        "reliability": draw_reliability(rows),
        "curves": draw_curves(rows),
        "cost": draw_cost(table, rows, seconds) if is_timed else None,
    }


def _draw_counts(panel: Axes, counts: IntArray, thresholds: Mapping[str, int]) -> None:
    panel.bar(np.arange(len(counts)), counts, width=1.0, color=BASELINE, linewidth=0)
    panel.set(title="training images per class", yscale="log", ylim=(None, 3 * counts.max()))
    panel.yaxis.set_major_formatter("{x:g}")
    for index, (start, end, name) in enumerate(_spans(counts, thresholds)):
        middle = max((start + end) / 2 / len(counts), 0.1)  # none left of the axis
        height = 0.9 - 0.1 * (index % 2)  # narrow groups' names side by side would touch
        panel.text(middle, height, name, ha="center", fontsize=6, transform=panel.transAxes)


def _draw_accuracy(panel: Axes, row: Row, first: Row, order: IntArray) -> None:
    """One method's accuracy by class, dots and curve, over the first method's curve."""
    positions = np.arange(len(order))
    accuracy = 100 * _class_accuracy(row)[order]
    curve, baseline = _smooth(accuracy), _smooth(100 * _class_accuracy(first)[order])
    panel.plot(positions, accuracy, ".", color=METHOD, alpha=0.3, markersize=3, markeredgewidth=0)
    panel.plot(positions, baseline, color=BASELINE)
    panel.plot(positions, curve, color=METHOD)
    for is_filled, colour in ((curve >= baseline, GAIN), (curve <= baseline, LOSS)):
        panel.fill_between(
            positions,
            baseline,
            curve,
            where=is_filled.tolist(),
            interpolate=True,
            color=colour,
            alpha=SHADE,
            linewidth=0,
        )
    panel.set(title=row.name, ylim=(0, 102), yticks=(0, 25, 50, 75, 100))


def _spans(counts: IntArray, thresholds: Mapping[str, int]) -> list[tuple[int, int, str]]:
    """Start, end and name of each group that holds a class, on classes sorted by count."""
    spans, start = [], 0
    for name, members in metrics.shot_groups(counts.tolist(), **thresholds).items():
        if members:
            spans.append((start, start + len(members), name))
        start += len(members)
    return spans


def _draw_weights_by_class(
    panel: Axes, epochs: Sequence[int], weights: FloatArray, counts: IntArray, title: str
) -> None:
    """The source paper's figure: classes head to tail, one line per moment of training."""
    shown = np.unique(np.linspace(0, len(epochs) - 1, min(6, len(epochs))).round().astype(int))
    colours = mpl.colormaps["viridis"](np.linspace(0.9, 0.0, len(shown)))
    for index, colour in zip(shown, colours, strict=True):
        panel.plot(_smooth(weights[index]), color=colour, label=f"epoch {epochs[index] + 1}")
    inverse = (1 / counts) / (1 / counts).mean()
    panel.plot(inverse, color="black", linewidth=0.8, linestyle="--", label="1 / count")
    panel.set(title=title, xlabel="class, most images first")
    panel.set_ylabel("class weight / mean")
    panel.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _plain_log(panel)
    panel.legend(edgecolor="none", framealpha=0.8, ncols=2, handlelength=1.2, columnspacing=1.0)


def _draw_weights_by_epoch(
    panel: Axes, epochs: Sequence[int], weights: FloatArray, counts: IntArray
) -> None:
    """One line per class, or per tenth of the classes, coloured by training images."""
    tenths = np.array_split(np.arange(len(counts)), min(10, len(counts)))
    colours = ScalarMappable(LogNorm(counts.min(), counts.max()), "cividis")
    for classes in tenths:
        colour = colours.to_rgba(np.exp(np.log(counts[classes]).mean()))
        panel.plot(np.asarray(epochs) + 1, weights[:, classes].mean(axis=1), color=colour)
    what = "each class" if len(counts) <= 10 else "tenths of the classes"
    panel.set(title=f"{what}, by training images", xlabel="epoch")
    _plain_log(panel)
    bar = panel.figure.colorbar(colours, ax=panel, pad=0.02)
    bar.set_label("training images per class")
    bar.ax.yaxis.set_major_formatter("{x:g}")


def _plain_log(panel: Axes) -> None:
    """A logarithmic axis with numbers people read: 0.2, 0.5, 1, 2."""
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("")


def _class_accuracy(row: Row) -> FloatArray:
    """Mean over seeds of each class's accuracy."""
    by_seed = np.array([metrics.class_accuracy(record.test.tally) for record in row.records])
    mean: FloatArray = by_seed.mean(axis=0)
    return mean


def _window(num_classes: int) -> int:
    """Neighbours averaged in a curve over classes: one where each class can be seen by itself."""
    return 1 if num_classes <= CLASSES_SHOWN_SINGLY else 2 * (num_classes // 20) + 1


def _smooth(values: FloatArray) -> FloatArray:
    """Running mean over neighbours in the given order; at the ends over those there are."""
    half = _window(len(values)) // 2
    smoothed = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return np.array(smoothed)


def _weight_name(record: Record) -> str | None:
    """The logged class weights that are one per class, if the method tracks any."""
    num_classes = len(record.data.class_counts)
    for name, history in record.class_history.items():
        if name.endswith("class_weight") and all(len(v) == num_classes for v in history.values):
            return name
    return None


def _class_weights(row: Row) -> tuple[Sequence[int], FloatArray]:
    """Kept epochs, and the weights (epochs, classes) over their mean, averaged over seeds.

    Weights of (nearly) zero are drawn as LOWEST_WEIGHT, for a logarithmic axis.
    """
    name = _weight_name(row.records[0])
    assert name
    first, *others = [r.class_history[name] for r in row.records if name in r.class_history]
    alike = [first, *(history for history in others if history.epochs == first.epochs)]
    weights = np.mean([np.asarray(history.values) for history in alike], axis=0)
    mean = weights.mean(axis=1, keepdims=True)
    return first.epochs, (weights / np.where(mean > 0, mean, 1.0)).clip(min=LOWEST_WEIGHT)
