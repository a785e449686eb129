"""Figures of a whole table: accuracy against imbalance factor, ranks, cost against accuracy."""

import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lt_bench.drawing import GROUPS, look, panels
from lt_bench.record import Record
from lt_bench.render import ranks, section_names
from lt_bench.tables import HEADLINE, Filled, Row, dataset_name


def draw_factors(table: Filled) -> Figure | None:
    """Accuracy of the groups against the imbalance factor; None where it does not vary."""
    factors = [rows[0].config.data.options.get("imbalance_factor") for rows in table.rows.values()]
    known = [float(factor) for factor in factors if isinstance(factor, int | float)]
    names = {rows[0].config.data.name for rows in table.rows.values()}
    if len(set(known)) < 2 or len(known) < len(factors) or len(names) > 1:
        return None
    order = np.argsort(known)
    groups = [name for name in GROUPS if name in table.columns]
    figure, axes = panels(1, len(groups), height=2.3)
    for panel, group in zip(axes, groups, strict=True):
        for index, rows in enumerate(zip(*table.rows.values(), strict=True)):
            points = [(known[i], _mean(rows[i], group)) for i in order if rows[i].values(group)]
            if points:
                panel.plot(*zip(*points, strict=True), markersize=3, linewidth=1, **look(index))
        panel.set(title=group, xscale="log", xticks=sorted(set(known)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("accuracy, %")
    figure.supxlabel("imbalance factor", fontsize=8)
    _name_methods(figure, next(iter(table.rows.values())))
    figure.suptitle(f"{table.config.title}: accuracy against imbalance factor")
    return figure


def draw_ranks(table: Filled) -> Figure | None:
    """Each method's rank by the headline score in every section; None with one section."""
    places = ranks(table) if HEADLINE in table.columns else []
    if len(table.rows) < 2 or not any(places):
        return None
    rows = next(iter(table.rows.values()))
    complete = [i for i, place in enumerate(places) if len(place) == len(table.rows)]
    figure, (panel,) = panels(1, 1, height=0.8 + 0.2 * len(rows))
    positions = np.arange(len(table.rows))
    ends = {rows[index].name: (0.0, places[index][-1]) for index in complete}
    heights = _apart(ends, 0.6)
    for index in complete:
        panel.plot(positions, places[index], markersize=4, **look(index))
        name, mean = rows[index].name, statistics.fmean(places[index])
        place = (positions[-1] + 0.08, heights[name])
        panel.annotate(f"{name}  (mean {mean:.1f})", place, va="center", fontsize=7)
    panel.set_xticks(positions, section_names(table))
    panel.set(ylabel=f"rank by {HEADLINE}", xlim=(-0.15, len(positions) - 0.3))
    panel.set_yticks(range(1, len(rows) + 1))
    panel.invert_yaxis()
    figure.suptitle(f"{table.config.title}: rank of each method, 1 is best")
    return figure


def draw_cost(rows: Sequence[Row], seconds: Callable[[Record], float | None]) -> Figure | None:
    """Accuracy against the seconds of a run and its parents; None if the times are not known."""
    points: dict[str, tuple[float, float]] = {}
    for row in rows:
        times = [time for record in row.records if (time := seconds(record))]
        if times and row.values(HEADLINE):
            points[row.name] = statistics.fmean(times), _mean(row, HEADLINE)
    if len(points) < 2:
        return None
    figure, (panel,) = panels(1, 1, height=3.2)
    for index, (time, accuracy) in enumerate(points.values()):
        panel.plot(time, accuracy, markersize=6, **{**look(index), "linestyle": "none"})
    low, high = panel.get_ylim()
    for name, height in _apart(points, 0.045 * (high - low)).items():
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
    panel.set_xlim(left=0)
    panel.grid(alpha=0.25, linewidth=0.5)
    machines = {str(record.environment.get("device")) for row in rows for record in row.records}
    figure.suptitle(
        f"{dataset_name(rows[0].config)}: cost against accuracy, on {', '.join(sorted(machines))}"
    )
    return figure


def _mean(row: Row, name: str) -> float:
    return 100 * statistics.fmean(row.values(name))


def _name_methods(figure: Figure, rows: Sequence[Row]) -> None:
    axes = figure.axes[0]
    handles = [
        axes.plot([], [], markersize=3, linewidth=1, label=row.name, **look(index))[0]
        for index, row in enumerate(rows)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _apart(points: Mapping[str, tuple[float, float]], distance: float) -> dict[str, float]:
    """Heights for labels, near their points and at least `distance` apart."""
    names = sorted(points, key=lambda name: points[name][1])
    heights = [points[name][1] for name in names]
    for _ in range(100):
        for i in range(len(heights) - 1):
            overlap = distance - (heights[i + 1] - heights[i])
            if overlap > 1e-6:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    return dict(zip(names, heights, strict=True))
