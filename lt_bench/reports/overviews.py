"""Figures of a whole table: accuracy against imbalance factor, ranks, cost against accuracy."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lt_bench.record import Record
from lt_bench.reports.drawing import GROUPS, legend, look, panels, subject
from lt_bench.reports.render import ranks, rows_by_name, section_names
from lt_bench.reports.tables import HEADLINE, Filled, Row


def draw_factors(table: Filled) -> Figure | None:
    """Accuracy of the groups against the imbalance factor; None where it does not vary."""
    configs = [rows[0].config for rows in table.rows.values()]
    factors = [config.data.options.get("imbalance_factor") for config in configs]
    known = [float(factor) for factor in factors if isinstance(factor, int | float)]
    if len(set(known)) < max(2, len(factors)) or len({c.data.name for c in configs}) > 1:
        return None
    methods, looks = rows_by_name(table), _looks(table)
    groups = [name for name in GROUPS if name in table.columns]
    figure, axes = panels(1, len(groups), height=2.3 + 0.15 * -(-len(methods) // 4))
    for panel, group in zip(axes, groups, strict=True):
        for name, rows in methods.items():
            line = [
                (factor, 100 * mean)
                for factor, section in sorted(zip(known, table.rows, strict=True))
                if section in rows and (mean := rows[section].mean(group)) is not None
            ]
            if line:
                panel.plot(*zip(*line, strict=True), markersize=3, linewidth=1, **looks[name])
        panel.set(title=group, xscale="log", xlabel="imbalance factor")
        panel.set_xlim(min(known) / 1.25, max(known) * 1.25)
        panel.set_ylim(top=min(panel.get_ylim()[1], 101))
        panel.set_xticks(sorted(set(known)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("accuracy, %")
    figure.suptitle(f"{table.config.title}: accuracy against imbalance factor")
    legend(figure, {name: {"markersize": 3, **looks[name]} for name in methods})
    return figure


def draw_ranks(table: Filled) -> Figure | None:
    """Ranks in every section of the methods that all have; None with one section or method."""
    places = ranks(table) if HEADLINE in table.columns else pd.DataFrame()
    if min(places.shape) < 2:
        return None
    figure, (panel,) = panels(1, 1, height=0.8 + 0.2 * len(places))
    positions = np.arange(places.shape[1])
    heights = _apart({str(name): line.iloc[-1] for name, line in places.iterrows()}, 0.6)
    for name, line in places.iterrows():
        look = _looks(table)[str(name)]
        panel.plot(positions, line, markersize=4, **look)
        height = heights[str(name)]
        # its own mark, since of two lines that end together only one is seen
        panel.plot(positions[-1] + 0.08, height, markersize=4, clip_on=False, **look)
        place = (positions[-1] + 0.14, height)
        panel.annotate(f"{name}  (mean {line.mean():.1f})", place, va="center", fontsize=7)
    panel.set_xticks(positions, section_names(table))
    panel.set(ylabel=f"rank by {HEADLINE}", xlim=(-0.15, len(positions) - 0.3))
    panel.set_yticks(range(1, len(places) + 1))
    panel.set_ylim(len(places) + 0.4, 0.6)
    figure.suptitle(f"{table.config.title}: rank of each method, 1 is best")
    return figure


def draw_cost(
    table: Filled, rows: Sequence[Row], seconds: Callable[[Record], float | None]
) -> Figure | None:
    """Accuracy against the seconds of a run and its parents; None if the times are not known."""
    points: dict[str, tuple[float, float]] = {}
    for row in rows:
        times = [time for record in row.records if (time := seconds(record))]
        if times and (mean := row.mean(HEADLINE)) is not None:
            points[row.name] = statistics.fmean(times), 100 * mean
    if len(points) < 2:
        return None
    figure, (panel,) = panels(1, 1, height=max(2.2, 0.5 + 0.14 * len(points)))
    for name, (time, accuracy) in points.items():
        panel.plot(time, accuracy, markersize=6, **_looks(table)[name] | {"linestyle": "none"})
    low, high = panel.get_ylim()
    accuracies = {name: accuracy for name, (_, accuracy) in points.items()}
    room = 0.115 / (figure.get_figheight() - 0.9)  # of a line of text, as a share of the axis
    for name, height in _apart(accuracies, room * (high - low)).items():
        time, accuracy = points[name]
        panel.annotate(
            name,
            (time, accuracy),
            xytext=(1.03, height),
            textcoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "#B0B0B0", "linewidth": 0.5, "shrinkB": 4},
        )
    panel.set(ylabel=f"{HEADLINE}, %", xlabel="seconds of a run, its parents' included")
    panel.set_xlim(0, 1.05 * max(time for time, _ in points.values()))
    panel.grid(alpha=0.25, linewidth=0.5)
    machines = {str(record.environment.get("device")) for row in rows for record in row.records}
    figure.suptitle(f"{subject(rows)}: cost against accuracy, on {', '.join(sorted(machines))}")
    return figure


def _looks(table: Filled) -> dict[str, dict[str, Any]]:
    """A method's look in every figure of a table, by its name in the rows."""
    rows = [row for rows in table.rows.values() for row in rows]
    return {row.name: look(table.config.methods.index(row.config.overlay)) for row in rows}


def _apart(heights: Mapping[str, float], distance: float) -> dict[str, float]:
    """The heights for labels: near those given, and at least `distance` apart."""
    from sklearn.isotonic import isotonic_regression  # a second that few figures need

    names = sorted(heights, key=lambda name: heights[name])
    least = distance * np.arange(len(names))
    moved = least + isotonic_regression([heights[name] for name in names] - least)
    return dict(zip(names, moved.tolist(), strict=True))
