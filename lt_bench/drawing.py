"""What all figures share: one style, colour-blind-safe colours, panels of a text page's width."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lt_bench.metrics import IntArray
from lt_bench.tables import Row

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


def head_to_tail(row: Row) -> IntArray:
    return np.argsort(-np.asarray(row.records[0].data.class_counts), kind="stable")


def comparable(rows: Sequence[Row]) -> list[Row]:
    """The rows with records, on the class counts of the first."""
    filled = [row for row in rows if row.records]
    return [
        row
        for row in filled
        if all(r.data.class_counts == filled[0].records[0].data.class_counts for r in row.records)
    ]
