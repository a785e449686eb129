"""Tables of results: rows and their marks, printed as Markdown and CSV."""

import json
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import pandas as pd

from lt_bench import metrics
from lt_bench.config import Part, Range, RunConfig, Spec, gather
from lt_bench.record import Record

NO_VALUE = "–"

DATASETS_IN_PROSE = {
    "digits_lt": "Digits-LT",
    "cifar10_lt": "CIFAR-10-LT",
    "cifar100_lt": "CIFAR-100-LT",
    "imagenet_lt": "ImageNet-LT",
    "places_lt": "Places-LT",
    "inat2018": "iNaturalist 2018",
}
METHODS_IN_PROSE = {
    "ce": "CE",
    "focal": "Focal",
    "cb": "CB",
    "cb_weighted_mean": "CB (weighted mean)",
    "ldam": "LDAM",
    "ldam_drw": "LDAM-DRW",
    "seql": "SEQL",
    "recall": "Recall",
    "balanced_softmax": "Balanced softmax",
    "crt": "cRT",
    "lws": "LWS",
    "ncm": "NCM",
    "tau_norm": "τ-norm",
    "logit_adjusted_post_hoc": "Logit adjustment (post-hoc)",
}
PARTS_IN_PROSE = {
    "ce": "CE",
    "ldam": "LDAM",
    "seql": "SEQL",
    "balanced_softmax": "balanced softmax",
    "effective_number": "CB",
    "inverse_frequency": "inverse frequency",
}


@dataclass(frozen=True)
class _Listed:
    """A list of names or numbers that holds something, and nothing twice."""

    def problem(self, value: tuple[Any, ...]) -> str | None:
        if not value:
            return "is empty; list at least one"
        if paths := [item for item in value if str(item).endswith(".toml")]:
            return f"{paths[0]!r} is a path; a table lists files of configs/ by name"
        twice = [item for item, times in Counter(value).items() if times > 1]
        return f"{twice[0]!r} is listed twice; list it once" if twice else None


@dataclass(frozen=True)
class TableConfig:
    """configs/tables/NAME.toml: recipes x methods x seeds, and which report to make of them."""

    title: str
    recipes: Annotated[tuple[str, ...], _Listed()]
    methods: Annotated[tuple[str, ...], _Listed()]
    seeds: Annotated[tuple[Annotated[int, Range(low=0, high=2**31 - 1)], ...], _Listed()]
    overrides: tuple[str, ...] = ()
    report: Annotated[Spec, Part("report")] = Spec("shots")
    note: str = ""


@dataclass(frozen=True)
class Column:
    """How a score is printed: header, factor, decimals, which end is best, and what it is."""

    header: str
    factor: float = 1.0
    decimals: int = 1
    best: Callable[[Sequence[float]], float] | None = max
    about: str = ""

    def printed(self, value: float) -> str:
        return f"{self.factor * value:,.{self.decimals}f}"


@dataclass(frozen=True)
class Row:
    """A method on a recipe: its records by seed, one line of scores for each, and its marks."""

    config: RunConfig
    name: str
    records: tuple[Record, ...]
    scores: pd.DataFrame
    num_seeds: int
    marks: tuple[str, ...] = ()

    def values(self, column: str) -> list[float]:
        """A column's scores over the seeds that have one."""
        return [float(value) for value in self.scores[column] if not np.isnan(value)]


@dataclass(frozen=True)
class Filled:
    """A table with what the records say: rows by recipe, in the order of its file."""

    name: str
    config: TableConfig
    caption: str
    columns: Mapping[str, Column]
    rows: Mapping[str, Sequence[Row]]
    missing: tuple[RunConfig, ...]


def method_name(config: RunConfig) -> str:
    """A method as tables and figures call it; an overlay of one's own keeps its name."""
    if config.method.name == "sdn" and config.representation:
        heads = (config.representation.objective, config.objective)
        rep, cls = (_objective_name(o.loss, o.weighting) for o in heads)
        return f"SDN (rep: {rep}, cls: {cls})"
    return METHODS_IN_PROSE.get(config.overlay, config.overlay)


def dataset_name(config: RunConfig) -> str:
    """A dataset in prose, with its imbalance factor where the recipe sets one."""
    name = DATASETS_IN_PROSE.get(config.data.name, config.data.name)
    factor = config.data.options.get("imbalance_factor")
    return f"{name} (imbalance factor {factor:g})" if isinstance(factor, int | float) else name


def backbone_name(spec: Spec) -> str:
    """A backbone in prose; a library's goes by its model's name."""
    if spec.name == "cifar_resnet" and "depth" in spec.options:
        return f"ResNet-{spec.options['depth']}"
    if spec.name == "small_conv":
        return "Small convolutional network"
    return str(spec.options.get("model", spec.name))


def _objective_name(loss: Spec, weighting: Spec) -> str:
    """What an objective is called: its weighting over plain cross-entropy, or both."""
    loss_name = PARTS_IN_PROSE.get(loss.name, loss.name)
    if weighting.name == "uniform":
        return loss_name
    weighting_name = PARTS_IN_PROSE.get(weighting.name, weighting.name)
    deferred = "deferred " if weighting.options.get("start") else ""
    return f"{deferred}{weighting_name}" + ("" if loss.name == "ce" else f" {loss_name}")


def marked(rows: Sequence[Row], recipe: str) -> list[Row]:
    """The rows, each with what keeps it from being compared with the others."""
    records = [record for row in rows for record in row.records]
    data = Counter(map(_data_identity, records))
    precision = Counter(map(_precision, records))
    return [
        replace(row, marks=tuple(_marks(row, recipe, data, precision)) if row.records else ())
        for row in rows
    ]


def _marks(row: Row, recipe: str, data: Counter[str], precision: Counter[str]) -> Iterator[str]:
    dirty = [record.environment.get("dirty") for record in row.records]
    if True in dirty:
        yield "made with uncommitted changes to the code"
    if None in dirty:
        yield "made outside a git checkout: the code's version is not known"
    if {_data_identity(record) for record in row.records} != {data.most_common(1)[0][0]}:
        yield "other images than the rows around it: the identity of its data differs"
    used = {_precision(record) for record in row.records}
    usual = precision.most_common(1)[0][0]
    if used != {usual}:
        yield f"precision {' and '.join(sorted(used))}; most runs here have {usual}"
    if len(row.records) < row.num_seeds:
        yield f"{len(row.records)} of {row.num_seeds} seeds"
    full = gather(recipe.split(":")[0], row.config.overlay).tree.get("optim", {}).get("epochs", 0)
    if row.config.optim.epochs < full:
        yield f"short recipe: {row.config.optim.epochs} epochs, the full one has {full}"


def _data_identity(record: Record) -> str:
    return json.dumps([record.data.identity, record.data.class_counts], sort_keys=True)


def _precision(record: Record) -> str:
    return str(record.environment.get("precision"))


def frame(table: Filled) -> pd.DataFrame:
    """A row per method: mean, sd (n - 1) and n of each column, and the row's marks."""
    lines = []
    for recipe, rows in table.rows.items():
        for row in rows:
            line: dict[str, Any] = {"recipe": recipe, "method": row.config.overlay}
            line |= {"name": row.name, "n": len(row.records)}
            for column in table.columns:
                values = row.values(column)
                line[f"{column}_mean"] = statistics.fmean(values) if values else None
                line[f"{column}_sd"] = statistics.stdev(values) if len(values) > 1 else None
                line[f"{column}_n"] = len(values)
            lines.append(line | {"marks": "; ".join(row.marks)})
    return pd.DataFrame(lines)


def render_csv(table: Filled) -> str:
    # 12 digits: more than was measured, and the same on every machine
    text: str = frame(table).to_csv(index=False, float_format="%.12g", lineterminator="\n")
    return text


def render_markdown(table: Filled) -> str:
    """What was run, a grid per recipe, its marks explained, and what makes the missing cells."""
    config = table.config
    parts = [f"# {config.title}"]
    if config.note:
        parts.append(config.note)
    if config.overrides:
        parts.append("Every run with " + ", ".join(f"`{o}`" for o in config.overrides) + ".")
    for recipe, rows in table.rows.items():
        parts += _section(table, recipe, rows)
    commands = _commands(table.missing)
    if commands:
        made_by = f"Missing, made by `python run.py table {table.name}` or by:"
        parts += [made_by, "\n".join(["```", *commands, "```"])]
    return "\n\n".join(parts) + "\n"


def _section(table: Filled, recipe: str, rows: Sequence[Row]) -> list[str]:
    """Heading, facts, grid and footnotes of one recipe."""
    # what all rows share does not tell them apart: it stands above them, once
    first, *others = [row.marks for row in rows if row.records] or [()]
    shared = [mark for mark in first if others and all(mark in marks for marks in others)]
    letters: dict[str, str] = {}
    for mark in (mark for row in rows for mark in row.marks if mark not in shared):
        letters.setdefault(mark, f"[{chr(ord('a') + len(letters))}]")
    parts = [
        f"## {dataset_name(rows[0].config)}, recipe `{recipe}`",
        _facts(table, rows),
        *([f"All rows: {'; '.join(shared)}."] if shared else []),
        _grid(table.columns, rows, letters),
    ]
    if letters:
        parts.append("\n".join(f"- {letter} {mark}." for mark, letter in letters.items()))
    return parts


def _facts(table: Filled, rows: Sequence[Row]) -> str:
    """What was trained, tested and counted, and on what machine."""
    config = rows[0].config
    records = [record for row in rows for record in row.records]
    lines = [
        f"{backbone_name(config.backbone)}, {config.optim.epochs} epochs, the last one reported; "
        f"batch {config.optim.batch_size}, learning rate {config.optim.lr:g}."
    ]
    if records:
        data = records[0].data
        lines[0] += f" {data.totals['train']:,} training images, {data.totals['test']:,} in the "
        lines[0] += "test split."
        if set(metrics.SHOT_GROUPS) <= set(table.columns):
            lines.append(_shot_groups(data.class_counts, **table.config.report.options))
        machines = sorted({f"{_machine(record)}, {_precision(record)}" for record in records})
        lines.append(f"Ran on {'; '.join(machines)}.")
    columns = table.columns.values()
    unit = "In %, mean" if all(column.factor == 100 for column in columns) else "Mean"
    lines.append(
        f"{table.caption} {unit} ± standard deviation (n - 1) over n seeds; the best mean is bold."
    )
    lines += [f"{column.header}: {column.about}." for column in columns if column.about]
    return "\n".join(lines)


def _shot_groups(
    class_counts: Sequence[int], *, many: int = metrics.MANY, few: int = metrics.FEW
) -> str:
    sizes = {
        name: f"{len(labels)} class{'' if len(labels) == 1 else 'es'}"
        for name, labels in metrics.shot_groups(class_counts, many=many, few=few).items()
    }
    return (
        f"Groups by training images per class: many: more than {many} ({sizes['many']}); "
        f"medium: {few} to {many} ({sizes['medium']}); few: fewer than {few} ({sizes['few']})."
    )


def _machine(record: Record) -> str:
    device = str(record.environment.get("device"))
    cpu = record.environment.get("cpu")
    return _cell(f"{cpu} ({device})" if device.startswith("cpu") and cpu else device)


def _grid(columns: Mapping[str, Column], rows: Sequence[Row], letters: Mapping[str, str]) -> str:
    """A Markdown table, padded so that it reads as plain text too."""
    best = {name: _best(name, column, rows) for name, column in columns.items()}
    grid = [["method", *(column.header for column in columns.values()), "n"]]
    for row in rows:
        marks = "".join(f" {letters[mark]}" for mark in row.marks if mark in letters)
        cells = [_score(row, name, column, best[name]) for name, column in columns.items()]
        grid.append([_cell(row.name) + marks, *cells, str(len(row.records))])
    widths = [max(3, *map(len, texts)) for texts in zip(*grid, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (grid[0], rule, *grid[1:]):
        padded = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        lines.append(" | ".join(["| " + first.ljust(widths[0]), *padded]) + " |")
    return "\n".join(lines)


def _score(row: Row, name: str, column: Column, best: str | None) -> str:
    values = row.values(name)
    if not row.records:
        return "missing"
    if not values:
        return NO_VALUE
    mean = column.printed(statistics.fmean(values))
    sd = column.printed(statistics.stdev(values)) if len(values) > 1 else NO_VALUE
    return f"**{mean}** ± {sd}" if mean == best else f"{mean} ± {sd}"


def _best(name: str, column: Column, rows: Sequence[Row]) -> str | None:
    """The best mean of a column as printed, so that equals are marked alike."""
    means = [statistics.fmean(row.values(name)) for row in rows if row.values(name)]
    return column.printed(column.best(means)) if column.best and len(means) > 1 else None


def _commands(runs: Sequence[RunConfig]) -> list[str]:
    """A command per row of missing runs, in the order to run them."""
    seeds: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        seeds.setdefault((run.recipe, run.overlay, *run.overrides), []).append(str(run.seed))
    return [
        shlex.join(["python", "run.py", "train", *words, "--seeds", *listed])
        for words, listed in seeds.items()
    ]


def _cell(text: str) -> str:
    """A name as Markdown text: what it holds cannot end a cell or open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
