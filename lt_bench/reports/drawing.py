"""What all figures share: one style, colour-blind-safe colours, panels of a text page's width."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lt_bench.metrics import IntArray
from lt_bench.reports.prose import dataset_name
from lt_bench.reports.tables import Row, shortened

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "figure.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,  # letters stay letters
    "text.parse_math": False,  # a name may hold a $
}
# Okabe and Ito's colours, told apart by colour-blind readers; these three also by their greys
GROUPS = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00", "all": "#4D4D4D"}
BASELINE, METHOD = "#8C8C8C", "#0072B2"
GAIN, LOSS, SHADE = "#0072B2", "#D55E00", 0.25
WIDTH = 7.0  # inches: a text page
CLASSES_SHOWN_SINGLY = 20
# Okabe and Ito again, and a marker and a line each, for curves of many methods in one panel
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#B8A800")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", ":")


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line of the method in this place; all three together never repeat soon."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[(index // len(COLOURS)) % len(LINES)],
    }


def panels(
    num_lines: int, num_columns: int, *, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height * num_lines + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(num_lines, num_columns, sharey=sharey, squeeze=False)
    return figure, list(grid.flat)


def panels_of_four(
    number: int, *, height: float, xlabel: str, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """As many panels as asked for, four a line; the lowest of each column has the axis' numbers
    and its label.
    """
    num_columns = min(4, number)
    figure, axes = panels(-(-number // num_columns), num_columns, height=height, sharey=sharey)
    for panel in axes[number:]:
        panel.remove()
    for index, panel in enumerate(axes[:number]):
        is_lowest = index + num_columns >= number
        panel.tick_params(labelbottom=is_lowest)
        panel.set_xlabel(xlabel if is_lowest else "")
    return figure, axes[:number]


def method_bars(rows: Sequence[Row], num_columns: int) -> tuple[Figure, list[Axes]]:
    """Panels side by side for a horizontal bar per method, the first on top."""
    figure, axes = panels(1, num_columns, height=0.95 + 0.17 * len(rows), sharey=True)
    for panel in axes:
        panel.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(rows)), [row.name for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure, axes


def subject(rows: Sequence[Row]) -> str:
    """What a figure's title begins with: the dataset, and that its runs are short."""
    config = rows[0].config
    is_short = shortened(config)
    return dataset_name(config) + (f", {config.optim.epochs} epochs (short)" if is_short else "")


def legend(figure: Figure, keys: Mapping[str, Mapping[str, Any]]) -> None:
    """What colours and lines mean, below the panels: a patch, or a line where a style is given."""
    handles = [
        (Line2D([], [], **look) if {"linestyle", "marker"} & set(look) else Patch(lw=0, **look))
        for look in keys.values()
    ]
    ncols = 2 if len(keys) <= 4 and sum(map(len, keys)) > 100 else 4  # what a page's width holds
    figure.legend(handles, keys, loc="outside lower center", ncols=ncols, frameon=False)


def head_to_tail(row: Row) -> IntArray:
    return np.argsort(-np.asarray(row.records[0].data.class_counts), kind="stable")


def comparable(rows: Sequence[Row]) -> list[Row]:
    """The rows on the class counts of the first."""
    counts = rows[0].records[0].data.class_counts
    return [row for row in rows if all(r.data.class_counts == counts for r in row.records)]
