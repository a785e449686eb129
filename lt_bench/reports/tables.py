"""Tables of results: rows, their marks, and their paired differences to the first."""

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd

from lt_bench.config import SEEDS, RunConfig, gather, key_of
from lt_bench.metrics import FloatArray, IntArray
from lt_bench.record import Record, version
from lt_bench.reports.intervals import (
    Difference,
    percentile_interval,
    resampled_class_gains,
    t_interval,
)
from lt_bench.reports.prose import method_name
from lt_bench.schema import Part, Spec

NO_VALUE = "–"
HEADLINE = "all"  # the score that whole tables are summed up by

Scores = Mapping[str, float | None]  # of one run
Runs = Mapping[str, Record]  # by run_id
# For scores that are weighted means of class accuracies: the weight of each class, by score.
ClassWeights = Callable[[Record], Mapping[str, FloatArray]]

# Begins the mark that a reader of the records needs, and one of a paper does not.
VERSIONS = "runs of different versions of the code"


@dataclass(frozen=True)
class _Listed:
    """A list that holds something, and nothing twice by the name it goes by."""

    name_of: Callable[[Any], object] = lambda item: item

    def problem(self, value: tuple[Any, ...]) -> str | None:
        if not value:
            return "is empty; list at least one"
        if paths := [item for item in value if str(item).endswith(".toml")]:
            return f"{paths[0]!r} is a path; a table lists files of configs/ by name"
        twice = [item for item, times in Counter(map(self.name_of, value)).items() if times > 1]
        return f"{twice[0]!r} is listed twice; list it once" if twice else None


class _Overrides:
    """Settings of all runs of a table, which has its seeds elsewhere."""

    def problem(self, value: tuple[str, ...]) -> str | None:
        seeds = [override for override in value if key_of(override) == "seed"]
        return f"{seeds[0]!r} has no effect; write it in seeds" if seeds else None


@dataclass(frozen=True)
class TableConfig:
    """configs/tables/NAME.toml: recipes x methods x seeds, and which report to make of them.

    `vary` lists overrides: each recipe then has a section with each of them. `also` lists further
    reports of the same runs, each a table of its own.
    """

    title: str
    recipes: Annotated[tuple[str, ...], _Listed()]
    methods: Annotated[tuple[str, ...], _Listed()]
    seeds: Annotated[tuple[Annotated[int, SEEDS], ...], _Listed()]
    overrides: Annotated[tuple[str, ...], _Overrides()] = ()
    vary: Annotated[tuple[str, ...], _Listed(), _Overrides()] = ()
    report: Annotated[Spec, Part("report")] = Spec("shots")
    also: Annotated[
        tuple[Annotated[Spec, Part("report")], ...], _Listed(lambda report: report.name)
    ] = ()
    note: str = ""


@dataclass(frozen=True)
class Column:
    """How a score is printed: header, factor, decimals, which end is best, and what it is."""

    header: str
    factor: float = 1.0
    decimals: int = 1
    best: Literal["highest", "lowest"] | None = "highest"
    about: str = ""

    def printed(self, value: float | None) -> str:
        return NO_VALUE if value is None else f"{self.factor * value:,.{self.decimals}f}"


@dataclass(frozen=True)
class Row:
    """A method on a recipe that has records: one for each seed, their scores, and its marks."""

    config: RunConfig
    name: str
    records: tuple[Record, ...]
    scores: tuple[Scores, ...]
    num_seeds: int
    marks: tuple[str, ...] = ()
    # by column: to the first row; where this one has the best mean, to the next best
    differences: Mapping[str, Difference] = field(default_factory=dict)
    leads: Mapping[str, Difference] = field(default_factory=dict)

    def values(self, column: str) -> list[float]:
        """A column's scores over the seeds; none unless each has one."""
        found = [value for scores in self.scores if (value := scores[column]) is not None]
        return found if len(found) == len(self.scores) else []

    def mean(self, column: str) -> float | None:
        return statistics.fmean(values) if (values := self.values(column)) else None

    def sd(self, column: str) -> float | None:
        """Standard deviation over seeds, with n - 1; None below two."""
        return statistics.stdev(values) if len(values := self.values(column)) > 1 else None


@dataclass(frozen=True)
class Filled:
    """A table with what the records say.

    `rows` by section (a recipe, and the override it varies), in the order of the table's file;
    rows and sections without a record are in `missing` alone. `name` is `table`, the name of that
    file, or of a further report of its runs.
    """

    name: str
    table: str
    config: TableConfig
    caption: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Sequence[Row]]
    missing: tuple[RunConfig, ...]
    num_runs: int

    def name_of(self, section: str) -> str:
        """The table's name, and the section's where its file has several: a name for a file."""
        if len(self.config.recipes) * max(1, len(self.config.vary)) == 1:
            return self.name
        plain = "".join(letter if letter.isalnum() or letter in "_." else "." for letter in section)
        return f"{self.name}-{plain}"


def marked(rows: Sequence[Row], runs: Runs) -> list[Row]:
    """The rows, each with what keeps it from being compared with the others."""
    records = [record for row in rows for record in row.records]
    data = Counter(map(_data_identity, records))
    computed = Counter(map(how_computed, records))
    by_images = {record.run_id for record in records if sorted_labels(record) is not None}
    return [replace(row, marks=tuple(_marks(row, runs, data, computed, by_images))) for row in rows]


def with_parents(record: Record, runs: Runs) -> list[Record]:
    """A record and those of the runs it starts from, as far as they are known."""
    found = [record]
    while (parent := found[-1].parent) and parent.run_id in runs and len(found) <= len(runs):
        found.append(runs[parent.run_id])
    return found


def _marks(
    row: Row, runs: Runs, data: Counter[str], computed: Counter[str], by_images: set[str]
) -> Iterator[str]:
    stages = [stage for record in row.records for stage in with_parents(record, runs)]
    dirty = [record.environment.get("dirty") for record in stages]
    if True in dirty:
        yield "made with uncommitted changes to the code"
    if None in dirty:
        yield "made outside a git checkout: the code's version is not known"
    if {_data_identity(record) for record in stages} != {data.most_common(1)[0][0]}:
        yield "other images than the rows around it: the identity of its data differs"
    if by_images and not all(record.run_id in by_images for record in row.records):
        yield "no interval over test images: predicted labels and counts of right ones disagree"
    used = set(map(how_computed, stages))
    usual = computed.most_common(1)[0][0]
    if used != {usual}:
        yield f"computed in {' and in '.join(sorted(used))}; most runs here in {usual}"
    versions = set(map(version, stages))
    if len(versions) > 1:
        yield f"{VERSIONS}: {', '.join(sorted(versions))}"
    if parent := row.config.parent:
        epochs = f"{row.config.optim.epochs} epochs after the {parent.optim.epochs}"
        idle = [override for override in row.config.overrides if override not in parent.overrides]
        without = [f"which is without {', '.join(idle)}"] if idle else []
        settled = {f"{k} = {v:g}" for record in row.records for k, v in record.settled.items()}
        yield ", ".join(
            [f"second stage, {epochs} of {method_name(parent)}", *without, *sorted(settled)]
        )
    if len(row.records) < row.num_seeds:
        yield f"{len(row.records)} of {row.num_seeds} seeds"
    if short := shortened(row.config):
        yield f"short recipe: {short.optim.epochs} epochs, the full one has {_full_epochs(short)}"


def shortened(config: RunConfig) -> RunConfig | None:
    """The run with fewer epochs than its recipe in full: this one, or one it starts from."""
    short = (run for run in reversed(config.stages) if run.optim.epochs < _full_epochs(run))
    return next(short, None)


def _full_epochs(config: RunConfig) -> int:
    """The most that the recipe asks for, with all its variants or the first of them alone."""
    names = config.recipe.split(":")
    stages = (gather(":".join(names[: i + 1]), config.overlay).tree for i in range(len(names)))
    return max(int(tree.get("optim", {}).get("epochs", 0)) for tree in stages)


def _data_identity(record: Record) -> str:
    return json.dumps([record.data.identity, record.data.class_counts], sort_keys=True)


def how_computed(record: Record) -> str:
    """The precision of a run, whether its step was compiled, and on how many ranks."""
    ran = record.environment
    compiled = "compiled " if ran.get("compiled") else ""
    ranks = f" on {count} ranks" if (count := ran.get("ranks") or 1) > 1 else ""
    return f"{compiled}{ran.get('precision')}{ranks}"


def compared(
    rows: Sequence[Row], columns: Mapping[str, Column], class_weights: ClassWeights | None
) -> list[Row]:
    """The rows with their paired differences to the first, and of the best to the next best."""
    first = rows[0]
    ranked = {name: column for name, column in columns.items() if column.best}
    leads: dict[str, dict[str, Difference]] = {row.name: {} for row in rows}
    for name, column in ranked.items():
        known = [row for row in rows if row.mean(name) is not None]
        known.sort(key=lambda row: row.mean(name) or 0.0, reverse=column.best == "highest")
        if len(known) > 1 and len({column.printed(row.mean(name)) for row in known[:2]}) > 1:
            best, second = known[:2]
            leads[best.name] |= _differences(best, second, [name], class_weights)
    return [
        replace(
            row,
            differences={} if row is first else _differences(row, first, ranked, class_weights),
            leads=leads[row.name],
        )
        for row in rows
    ]


def _differences(
    row: Row, other: Row, names: Iterable[str], class_weights: ClassWeights | None
) -> dict[str, Difference]:
    """Of each score, paired by seed, over the seeds that both rows have."""
    ours, theirs = (
        {record.seed: (record, scores) for record, scores in zip(r.records, r.scores, strict=True)}
        for r in (row, other)
    )
    pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
    gains_RC = _resampled([(a, b) for (a, _), (b, _) in pairs]) if class_weights else None
    weights = class_weights(row.records[0]) if class_weights else {}
    found = {}
    for name in names:
        both = [(mine[name], its[name]) for (_, mine), (_, its) in pairs]
        gaps = [a - b for a, b in both if a is not None and b is not None]
        over = {"seeds": t_interval(gaps)}
        if gains_RC is not None and name in weights:
            over["images"] = percentile_interval(gains_RC, weights[name])
        if gaps and len(gaps) == len(pairs):
            known = {kind: interval for kind, interval in over.items() if interval}
            found[name] = Difference(statistics.fmean(gaps), len(gaps), known)
    return found


def _resampled(pairs: Sequence[tuple[Record, Record]]) -> FloatArray | None:
    """Class gains over resampled test images; None where the images cannot be told apart."""
    tests = {(r.data.identity.get("test"), r.test.total) for pair in pairs for r in pair}
    if len(tests) != 1:
        return None
    labels, *others = [sorted_labels(record) for pair in pairs for record in pair]
    if labels is None or any(other is None for other in others):
        return None
    gains = []
    for ours, theirs in pairs:
        mine, other = (record.test.predictions() == labels for record in (ours, theirs))
        gains.append(mine.astype(float) - other)
    return resampled_class_gains(np.mean(gains, axis=0), labels, len(pairs[0][0].test.total))


def sorted_labels(record: Record) -> IntArray | None:
    """The class of each test image in list order; None where the list is not sorted by class."""
    total = record.test.total
    labels = np.repeat(np.arange(len(total)), total)
    hits = np.bincount(labels[labels == record.test.predictions()], minlength=len(total))
    return labels if np.array_equal(hits, record.test.correct) else None


def is_bold(rows: Sequence[Row], name: str) -> list[bool]:
    """Which mean to set in bold: the best, if its differences to the first row and to the next
    best are clear: over seeds, and over test images where the column has such intervals.
    """
    kinds = {"seeds", *(kind for row in rows for gap in _gaps(row, name) for kind in gap.over)}
    return [
        name in row.leads
        and (row is rows[0] or name in row.differences)
        and all(gap.is_clear(kinds) for gap in _gaps(row, name))
        for row in rows
    ]


def _gaps(row: Row, name: str) -> list[Difference]:
    return [found[name] for found in (row.differences, row.leads) if name in found]


def frame(table: Filled) -> pd.DataFrame:
    """A row per method: mean, sd (n - 1) and n of each column, its differences, and its marks."""
    lines = []
    for section, row in ((section, row) for section, rows in table.rows.items() for row in rows):
        line: dict[str, Any] = {"section": section, "method": row.config.overlay}
        line |= {"name": row.name, "n": len(row.records)}
        for name in table.columns:
            line[f"{name}_mean"], line[f"{name}_sd"] = row.mean(name), row.sd(name)
            line[f"{name}_n"] = len(row.values(name))
        for name in table.columns:
            line |= _difference_cells(name, row.differences.get(name))
        lines.append(line | {"marks": "; ".join(row.marks)})
    whole = pd.DataFrame(lines)
    empty = [name for name in map(str, whole) if "_difference" in name and whole[name].isna().all()]
    return whole.drop(columns=empty)


def _difference_cells(name: str, difference: Difference | None) -> dict[str, float | None]:
    mean = round(difference.mean, 12) + 0.0 if difference else None
    cells: dict[str, float | None] = {f"{name}_difference": mean}
    cells[f"{name}_difference_pairs"] = difference.pairs if difference else None
    for kind, end in itertools.product(("seeds", "images"), ("low", "high")):
        interval = difference.over.get(kind) if difference else None
        # 6 decimals: what a resampled interval means, and the same on every machine
        value = round(getattr(interval, end), 6) + 0.0 if interval else None  # no -0
        cells[f"{name}_difference_{kind}_{end}"] = value
    return cells
