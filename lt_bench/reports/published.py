"""Ours beside published: the rows of results/published.csv that compare with a run of ours."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lt_bench.config import RunConfig
from lt_bench.errors import DataError
from lt_bench.reports.prose import METHODS_IN_PROSE, backbone_name, dataset_name, method_name
from lt_bench.reports.render import Grid, markdown_grid, markdown_text, score, told_marks
from lt_bench.reports.tables import (
    HEADLINE,
    NO_VALUE,
    Column,
    Filled,
    Row,
    shortened,
)

# How far published runs of one recipe lie apart beyond what seeds explain, in points.
TOLERANCE = {
    "cifar10_lt": 1.5,
    "cifar100_lt": 1.0,
    "imagenet_lt": 1.5,
    "places_lt": 0.7,
    "inat2018": 1.0,
}
# Variants that say what the recipe is without them.
AS_WITHOUT = ("if100", "resnext50")
# Their sources print no absolute classification value.
NEVER_PUBLISHED = ("sdn", "recall")
# Published values disagree by up to ten points, or had their settings chosen on the test split.
NO_TARGET = ("cb", "cb_weighted_mean", "cb_focal", "cb_sigmoid", "weighted_ce")

ABOUT = (
    "Top-1 in %. Published: lowest to highest of the values printed for this recipe, by the "
    "sources below, which say in what they depart from it. Ours: mean ± standard deviation over n "
    "seeds, the last epoch of full runs, on our own subset where nothing else is said; short runs "
    "are not compared. Published values often are the best epoch on the test split, which is above "
    "the last. The band reaches beyond that spread on either side, as far as its column says; "
    "class-weighted losses have none, since what is published of them disagrees by up to ten "
    "points or was tuned on the test split. One source may count for several of our rows."
)


@dataclass(frozen=True)
class Published:
    """A top-1 in %, last epoch or as `convention` says, of a run that compares with `method`."""

    recipe: str
    method: str
    top1_percent: float
    published_as: str
    source: str
    url: str
    convention: str


def read_published(results: Path) -> list[Published]:
    """The rows of results/published.csv; none if there is no such file.

    Raises:
        DataError: a line is damaged.
    """
    path = results / "published.csv"
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {error}; restore the file") from error
    found = []
    for number, line in enumerate(csv.DictReader(io.StringIO(text)), start=2):
        try:
            found.append(Published(top1_percent=float(line.pop("top1_percent")), **line))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}, line {number}: {error}; restore the file") from error
    return found


def recipe_of(config: RunConfig) -> str | None:
    """The recipe a run's number is of; None for short runs, changed ones and recipes of one's own.

    Which images are kept changes nothing, as long as they are as many.
    """
    recipe, *variants = config.recipe.split(":")
    is_changed = any(not override.startswith("data.subset") for override in config.overrides)
    if recipe not in TOLERANCE or is_changed or shortened(config):
        return None
    return ":".join([recipe, *(variant for variant in variants if variant not in AS_WITHOUT)])


@dataclass(frozen=True)
class Beside:
    """One group of published rows with our runs of it: their marks, and the sources by method."""

    heading: str
    grid: Grid
    marks: Sequence[str]
    sources: Sequence[str]

    @property
    def subject(self) -> str:
        """Dataset, network and recipe."""
        return self.heading.partition(":")[0]


def beside(tables: Sequence[Filled], published: Sequence[Published]) -> list[Beside]:
    """Every recipe with published rows that a table also trains, at full length, ours first.

    A method is there if it has a published value; with a run of ours, all methods of the tables.
    """
    trained: dict[str, list[RunConfig]] = {}
    ours: dict[str, dict[str, Row]] = {}
    for table in tables:
        if table.config.report.name != "shots":
            continue
        rows = [row for rows in table.rows.values() for row in rows]
        for config in (*(row.config for row in rows), *table.missing):
            if recipe := recipe_of(config):
                trained.setdefault(recipe, []).append(config)
        for row in rows:
            if recipe := recipe_of(row.config):
                ours.setdefault(recipe, {}).setdefault(row.config.overlay, row)
    return [
        _beside(recipe, configs, ours.get(recipe, {}), theirs)
        for recipe, configs in sorted(trained.items(), key=lambda item: item[0] not in ours)
        if (theirs := [line for line in published if line.recipe == recipe])
    ]


def render_published(groups: Sequence[Beside]) -> str:
    parts = ["# Ours beside published", ABOUT]
    for group in groups:
        parts += [f"## {group.heading}", markdown_grid(group.grid), *group.marks]
        parts.append("\n".join(f"- {markdown_text(source)}" for source in group.sources))
    return "\n\n".join(parts) + "\n"


def csv_published(groups: Sequence[Beside]) -> str:
    """The grids one below the other, each line with what it is of."""
    grids = [
        pd.DataFrame(
            group.grid.lines, columns=[head.partition(" ±")[0] for head in group.grid.head]
        )
        for group in groups
    ]
    whole = pd.concat(grids, keys=[group.subject for group in groups], names=["of"])
    text: str = whole.reset_index(level="of").to_csv(index=False, lineterminator="\n")
    return text


def verdict(ours_percent: float, low: float, high: float, tolerance: float) -> str:
    """Where a mean lies: in the spread, in the band around it, or how far outside the band."""
    gap = round(max(low - ours_percent, ours_percent - high), 6)  # a share times 100 is not exact
    if gap <= 0:
        return "in the spread"
    side = "below" if ours_percent < low else "above"
    return f"{gap:.2f} {side}" + ("" if gap <= tolerance else ": OUTSIDE the band")


def _beside(
    recipe: str, configs: Sequence[RunConfig], ours: Mapping[str, Row], theirs: Sequence[Published]
) -> Beside:
    config = configs[0].stages[0]
    places = {method: place for place, method in enumerate(METHODS_IN_PROSE)}
    names = {config.overlay: method_name(config) for config in configs}
    methods = dict.fromkeys([*(names if ours else ()), *(line.method for line in theirs)])
    lines, sources = [], []
    for method in sorted(methods, key=lambda m: places.get(m, len(places))):
        matching = [line for line in theirs if line.method == method]
        row = ours.get(method)
        name = row.name if row else names.get(method) or METHODS_IN_PROSE.get(method, method)
        lines.append([name, *_published(method, matching), *_ours(row, matching)])
        if matching:
            sources.append(f"{name}: {'; '.join(_sources(matching))}.")
    head = ["method", "published", "values", "ours", "n", f"band ± {TOLERANCE[config.data.name]:g}"]
    if not ours:
        head, lines = head[:3], [line[:3] for line in lines]
    augment = ", ".join(spec.name for spec in config.augment)
    heading = (
        f"{dataset_name(config)}, {backbone_name(config.backbone)}, recipe {recipe}: "
        f"{config.optim.epochs} epochs, {augment}" + ("" if ours else "; no run of ours yet")
    )
    marks = [
        f"{row.name}: with {', '.join(row.config.overrides)}."
        for row in ours.values()
        if row.config.overrides
    ]
    marks += told_marks(list(ours.values()))
    return Beside(heading, Grid(ABOUT, head, lines), marks, sources)


def _published(method: str, matching: Sequence[Published]) -> list[str]:
    if not matching:
        is_new = any(name in method for name in NEVER_PUBLISHED)
        return ["no published classification value" if is_new else "none of this recipe", "0"]
    low, high = _range(matching)
    return [f"{low:.1f}" if low == high else f"{low:.1f} .. {high:.1f}", str(len(matching))]


def _ours(row: Row | None, matching: Sequence[Published]) -> list[str]:
    if row is None or (mean := row.mean(HEADLINE)) is None:
        return ["not run", "0", NO_VALUE]
    told = NO_VALUE
    if matching and row.config.overlay not in NO_TARGET:
        told = verdict(100 * mean, *_range(matching), TOLERANCE[row.config.data.name])
    column = Column(HEADLINE, factor=100)
    return [score(row, HEADLINE, column), str(len(row.records)), told]


def _range(matching: Sequence[Published]) -> tuple[float, float]:
    values = [line.top1_percent for line in matching]
    return min(values), max(values)


def _sources(matching: Sequence[Published]) -> Iterator[str]:
    for line in matching:
        said = ", ".join(text for text in (line.source, line.url, line.convention) if text)
        yield f"{line.top1_percent:g} ({said})"
