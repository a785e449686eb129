"""Ours beside published: the rows of results/published.csv that compare with a run of ours."""

import csv
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lt_bench.config import RunConfig
from lt_bench.errors import DataError
from lt_bench.render import Grid, markdown_grid, markdown_text
from lt_bench.tables import (
    HEADLINE,
    NO_VALUE,
    Filled,
    Row,
    backbone_name,
    dataset_name,
    shortened,
)

# How far published runs of one recipe lie apart beyond what seeds explain, in points.
TOLERANCE = {"cifar100_lt": 1.0, "cifar10_lt": 1.5}
FAMILIES = {
    "plain": "the plain recipe: 200 epochs, crop and flip",
    "strong": "AutoAugment and Cutout",
}
# Their sources print no absolute classification value.
NEVER_PUBLISHED = ("sdn", "recall")

ABOUT = (
    "Top-1 in %. Published: lowest to highest of the independent runs of the same recipe, of the "
    "sources below. Ours: mean ± standard deviation over n seeds, the last epoch of full runs on "
    "our own subset; short runs are not compared. Published values often are the best epoch on the "
    "test split, which is above the last."
)

Group = tuple[str, float, str, str]  # data, imbalance factor, backbone, recipe family


@dataclass(frozen=True)
class Published:
    """A top-1 in %, last epoch or as `convention` says, of a run that compares with `method`."""

    data: str
    imbalance_factor: float
    backbone: str
    family: str
    method: str
    top1_percent: float
    published_as: str
    source: str
    url: str
    convention: str

    @property
    def group(self) -> Group:
        return self.data, self.imbalance_factor, self.backbone, self.family


def read_published(results: Path) -> list[Published]:
    """The rows of results/published.csv; none if there is no such file.

    Raises:
        DataError: a line is damaged.
    """
    path = results / "published.csv"
    if not path.exists():
        return []
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                factor, top1 = float(line.pop("imbalance_factor")), float(line.pop("top1_percent"))
                found.append(Published(imbalance_factor=factor, top1_percent=top1, **line))
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}, line {number}: {error}; restore the file") from error
    return found


def group_of(config: RunConfig) -> Group | None:
    """What a run's number may be compared with; None for short runs and recipes of one's own."""
    factor = config.data.options.get("imbalance_factor")
    family = _family(config)
    if family is None or not isinstance(factor, int | float) or shortened(config):
        return None
    if any(not override.startswith("data.subset") for override in config.overrides):
        return None
    return config.data.name, float(factor), backbone_name(config.backbone), family


@dataclass(frozen=True)
class Beside:
    """One group of published rows with our runs of it: heading, grid, and sources by method."""

    heading: str
    grid: Grid
    sources: Sequence[str]


def beside(tables: Sequence[Filled], published: Sequence[Published]) -> list[Beside]:
    """Every group of published rows that a table also trains, at full length."""
    groups: dict[Group, dict[str, Row]] = {}
    for table in tables:
        for row in (row for rows in table.rows.values() for row in rows):
            group = group_of(row.config)
            if group and HEADLINE in table.columns:
                groups.setdefault(group, {}).setdefault(row.config.overlay, row)
    found = []
    for group, rows in groups.items():
        theirs = [line for line in published if line.group == group]
        if theirs:
            found.append(_beside(group, list(rows.values()), theirs))
    return found


def render_published(groups: Sequence[Beside]) -> str:
    parts = ["# Ours beside published", ABOUT]
    for group in groups:
        sources = "\n".join(f"- {markdown_text(source)}" for source in group.sources)
        parts += [f"## {group.heading}", markdown_grid(group.grid), sources]
    return "\n\n".join(parts) + "\n"


def verdict(ours_percent: float, low: float, high: float, tolerance: float) -> str:
    """Where a mean lies: in the spread, in the band around it, or how far outside the band."""
    gap = max(low - ours_percent, ours_percent - high)
    if gap <= 0:
        return "in the spread"
    side = "below" if ours_percent < low else "above"
    return f"{gap:.1f} {side}" + ("" if gap <= tolerance else ": OUTSIDE the band")


def _family(config: RunConfig) -> str | None:
    if config.data.name not in TOLERANCE:
        return None
    names = [spec.name for spec in config.augment]
    if sorted(names) == ["crop", "flip"] and (config.parent or config).optim.epochs == 200:
        return "plain"
    is_strong = any("auto" in name for name in names) and any("cutout" in name for name in names)
    return "strong" if is_strong else None


def _beside(group: Group, rows: Sequence[Row], theirs: Sequence[Published]) -> Beside:
    data, _, backbone, family = group
    lines, sources = [], []
    for row in rows:
        matching = [line for line in theirs if line.method == row.config.overlay]
        lines.append([row.name, *_cells(row, matching, TOLERANCE[data])])
        if matching:
            sources.append(f"{row.name}: {'; '.join(_sources(matching))}.")
    head = ["method", "published", "values", "ours", "n", f"band ± {TOLERANCE[data]:g}"]
    heading = f"{dataset_name(rows[0].config)}, {backbone}, {FAMILIES[family]}"
    return Beside(heading, Grid(ABOUT, head, lines), sources)


def _cells(row: Row, matching: Sequence[Published], tolerance: float) -> list[str]:
    values = [100 * value for value in row.values(HEADLINE)]
    mean = f"{statistics.fmean(values):.1f}" if values else ""
    sd = f"{statistics.stdev(values):.1f}" if len(values) > 1 else NO_VALUE
    ours = [f"{mean} ± {sd}" if values else "not run", str(len(values))]
    if not matching:
        is_new = any(name in row.config.overlay for name in NEVER_PUBLISHED)
        reason = "no published classification value" if is_new else "none of this recipe"
        return [reason, "0", *ours, NO_VALUE]
    low, high = min(m.top1_percent for m in matching), max(m.top1_percent for m in matching)
    spread = f"{low:.1f}" if low == high else f"{low:.1f} .. {high:.1f}"
    told = verdict(statistics.fmean(values), low, high, tolerance) if values else NO_VALUE
    return [spread, str(len(matching)), *ours, told]


def _sources(matching: Sequence[Published]) -> Iterator[str]:
    for line in matching:
        said = ", ".join(text for text in (line.source, line.url, line.convention) if text)
        yield f"{line.top1_percent:g} ({said})"
