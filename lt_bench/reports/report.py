"""Records -> data frames -> tables, rebuilt from records alone, without torch."""

import functools
import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lt_bench import metrics
from lt_bench.config import RunConfig, in_folder, load, names, read_toml, stem_of, with_seed
from lt_bench.errors import ConfigError
from lt_bench.files import write_text_whole
from lt_bench.metrics import FloatArray
from lt_bench.provenance import is_stale
from lt_bench.record import Number, Record, read, read_all, record_path
from lt_bench.reports.latex import latex_published, render_latex
from lt_bench.reports.prose import method_name
from lt_bench.reports.published import (
    Beside,
    beside,
    csv_published,
    read_published,
    render_published,
)
from lt_bench.reports.render import render_csv, render_markdown
from lt_bench.reports.tables import (
    HEADLINE,
    Column,
    Filled,
    Row,
    Runs,
    Scores,
    TableConfig,
    compared,
    marked,
    with_parents,
)
from lt_bench.schema import ImbalanceFactor, Reader, Spec, Table, bind

SUFFIXES = (".md", ".csv", ".tex")


def table_config(name: str) -> TableConfig:
    """Read configs/tables/NAME.toml.

    Raises:
        ConfigError: every problem found, a line each.
    """
    _, tree = read_toml("table", name, "configs/tables")
    reader = Reader({"report": REPORTS})
    settings = reader.settings(TableConfig, tree, place="")
    if not reader.problems:
        config = TableConfig(**settings)
        reader.problems += _overlapping(config)
    if reader.problems:
        raise ConfigError(f"table {stem_of(name)}: {problem}" for problem in reader.problems)
    return config


def _overlapping(config: TableConfig) -> Iterator[str]:
    """What reports have shot groups that share classes."""
    for spec in (config.report, *config.also):
        many, few = (
            spec.options.get(name, default)
            for name, default in (("many", metrics.MANY), ("few", metrics.FEW))
        )
        if few > many + 1:
            yield (
                f"report {spec.name}: few: fewer than {few} images overlaps many, more than "
                f"{many}; give few at most {many + 1}"
            )


def cells(name: str) -> list[RunConfig]:
    """Every run a table needs, in the order to run them: a parent stands before its child.

    Raises:
        ConfigError: the table, or a recipe or method it lists, cannot be read.
    """
    config = table_config(name)
    return _in_order(_configs(name, config), config.seeds)


def missing(name: str, results: Path) -> list[RunConfig]:
    """The runs of a table that have no record yet, in the order to run them."""
    return [run for run in cells(name) if not record_path(results, run.run_id).exists()]


def stale(name: str, results: Path) -> list[RunConfig]:
    """The runs of a table whose record is of uncommitted code that is not the code here.

    Raises:
        DataError: a record is damaged.
    """
    made = [run for run in cells(name) if record_path(results, run.run_id).exists()]
    return [run for run in made if is_stale(read(record_path(results, run.run_id)).environment)]


def fill(name: str, records: Sequence[Record], also: Spec | None = None) -> Filled:
    """Put the records in their cells, mark rows that do not compare, and compare the others.

    Args:
        also: another report of the same runs than the table's first.
    """
    config = table_config(name)
    config = replace(config, report=also or config.report)
    configs = _configs(name, config)
    wanted = _in_order(configs, config.seeds)
    by_run = {record.run_id: record for record in records}
    report = config.report.name
    scores = functools.partial(bind("report", config.report, REPORTS), runs=by_run)
    sections = {key: _rows(listed, config.seeds, by_run, scores) for key, listed in configs.items()}
    first = next((row for rows in sections.values() for row in rows), None)
    columns = {
        name: COLUMNS.get(name, Column(name.replace("_", " "), factor=100))
        for name in (first.scores[0] if first else ())
    }
    weights = None  # but for scores that are means over classes, which can be resampled
    if report == "shots":
        weights = functools.partial(shot_weights, **config.report.options)
    return Filled(
        name=f"{name}-{also.name}" if also else name,
        table=name,
        config=config,
        caption=(inspect.getdoc(REPORTS[report]) or "").partition("\n")[0],
        columns=columns,
        rows={
            key: compared(marked(rows, by_run), columns, weights)
            for key, rows in sections.items()
            if rows
        },
        missing=tuple(run for run in wanted if run.run_id not in by_run),
        num_runs=len(wanted),
    )


def write_table(name: str, results: Path) -> str:
    """Write results/tables/NAME.md, .csv and .tex and return the Markdown.

    What is at a path of its own has no place among them: the Markdown of its reports is all.
    """
    tables = all_reports(name, read_all(results))
    if name.endswith(".toml"):
        return "\n".join(render_markdown(table, results) for table in tables)
    for table in tables:
        if table.rows:
            for path, text in _texts(table, results).items():
                write_text_whole(path, text)
    return render_markdown(tables[0], results)


def all_reports(name: str, records: Sequence[Record]) -> list[Filled]:
    """A table, and the further reports of its runs."""
    return [fill(name, records, also) for also in (None, *table_config(name).also)]


@dataclass(frozen=True)
class Results:
    """A results folder with its records and every table of them, read and computed once."""

    folder: Path
    records: Sequence[Record]
    tables: Sequence[Filled]

    @property
    def remedy(self) -> str:
        return f"run {in_folder('python run.py report', self.folder)}"

    @property
    def filled(self) -> list[Filled]:
        """The tables that have at least one record."""
        return [table for table in self.tables if table.rows]


def read_results(folder: Path) -> Results:
    """Every record and table of a folder.

    Raises:
        ConfigError: it is not there.
    """
    if not folder.is_dir():
        raise ConfigError(f"--results: {folder} is no folder; run train or table first")
    records = read_all(folder)
    listed = names("configs/tables")
    return Results(folder, records, [t for name in listed for t in all_reports(name, records)])


def report(results: Results) -> list[Path]:
    """Rebuild every table that has a record, and return the files."""
    texts = texts_of_tables(results)
    for path, text in texts.items():
        write_text_whole(path, text)
    return list(texts)


def check(results: Results) -> list[str]:
    """What differs, a line each, between results/tables and tables rebuilt from the records."""
    wanted = texts_of_tables(results)
    folder = results.folder / "tables"
    there = {path for path in folder.glob("*") if path.suffix in SUFFIXES}
    differ = (path for path in wanted.keys() & there if path.read_bytes() != wanted[path].encode())
    drifted = [f"{path}: no table with records makes it; delete it" for path in there - {*wanted}]
    drifted += [f"{path}: missing; {results.remedy}" for path in wanted.keys() - there]
    drifted += [f"{path}: differs from its records; {results.remedy}" for path in differ]
    return sorted(drifted)


def texts_of_tables(results: Results) -> dict[Path, str]:
    """Every file of results/tables: each table, and ours beside published, in three formats."""
    texts: dict[Path, str] = {}
    for table in results.filled:
        texts |= _texts(table, results.folder)
    if texts and (groups := beside_published(results)):
        rendered = render_published(groups), csv_published(groups), latex_published(groups)
        for suffix, text in zip(SUFFIXES, rendered, strict=True):
            texts[results.folder / "tables" / f"published{suffix}"] = text
    return texts


def beside_published(results: Results) -> list[Beside]:
    """Ours beside published, of all tables, those without records too."""
    return beside(results.tables, read_published(results.folder))


def shots(
    record: Record, runs: Runs, *, many: Number = metrics.MANY, few: Number = metrics.FEW
) -> Scores:
    """Mean class accuracy of the shot groups, and top-1 over all images."""
    tally, counts = record.test.tally, record.data.class_counts
    groups = metrics.shot_accuracy(tally, counts, many=many, few=few)
    return {**groups, HEADLINE: metrics.top1(tally)}


def shot_weights(
    record: Record, *, many: Number = metrics.MANY, few: Number = metrics.FEW
) -> dict[str, FloatArray]:
    """The scores of `shots` as weighted means of class accuracies."""
    total = np.array(record.test.total, dtype=float)
    weights = {HEADLINE: total / total.sum()}
    groups = metrics.shot_groups(record.data.class_counts, many=many, few=few)
    for name, labels in groups.items():
        is_member = np.isin(np.arange(len(total)), labels) & (total > 0)
        if is_member.any():
            weights[name] = is_member / is_member.sum()
    return weights


def validation(
    record: Record, runs: Runs, *, many: Number = metrics.MANY, few: Number = metrics.FEW
) -> Scores:
    """Shot groups and top-1 of the validation split: to choose settings by, no results."""
    if record.val is None:
        return dict.fromkeys((*metrics.SHOT_GROUPS, HEADLINE))
    return shots(replace(record, test=record.val), runs, many=many, few=few)


def spread(record: Record, runs: Runs) -> Scores:
    """How evenly the classes share in the accuracy."""
    return {
        "worst_class": metrics.worst_class(record.test.tally),
        "geometric_mean": metrics.geometric_mean_recall(record.test.tally),
        "macro_f1": metrics.macro_f1(record.test.tally),
        "balanced": metrics.balanced_accuracy(record.test.tally),
    }


def shifted(
    record: Record,
    runs: Runs,
    *,
    factors: tuple[ImbalanceFactor, ...] = (50.0, 10.0, 2.0),
) -> Scores:
    """Accuracy on test classes long-tailed by a factor: forward as in training, or backward."""
    shifts = {f"forward_{factor:g}": (factor, False) for factor in factors}
    shifts["uniform"] = (1.0, False)
    shifts |= {f"backward_{factor:g}": (factor, True) for factor in reversed(factors)}
    tally, counts = record.test.tally, record.data.class_counts
    return {
        name: metrics.shifted_accuracy(tally, counts, imbalance_factor=factor, backward=backward)
        for name, (factor, backward) in shifts.items()
    }


def calibration(record: Record, runs: Runs) -> Scores:
    """Whether the predicted probabilities mean what they say."""
    tally, bins = record.test.tally, record.test.calibration
    cal = metrics.calibration_score(bins.score.bins)
    return {
        "ece": metrics.expected_calibration_error(bins.top_label.bins),
        "cal": cal,
        "s_acc": metrics.harmonic_score(cal, metrics.top1(tally)),
        "s_rec": metrics.harmonic_score(cal, metrics.balanced_accuracy(tally)),
        "nll": record.test.nll,
    }


def cost(record: Record, runs: Runs) -> Scores:
    """Seconds of a run, and with its parents'; parameters, peak memory and energy."""
    return {
        "seconds": record.seconds,
        "seconds_with_parents": seconds_with_parents(record, runs),
        "parameters": record.num_parameters,
        "gpu_memory": record.peak_memory_bytes,
        "resident_memory": record.peak_resident_bytes,
        "energy": record.energy_joules,
    }


def seconds_with_parents(record: Record, runs: Runs) -> float | None:
    """What a run took with all that it starts from; None if one of those is not known."""
    stages = with_parents(record, runs)
    return None if stages[-1].parent else math.fsum(stage.seconds for stage in stages)


def _configs(name: str, config: TableConfig) -> dict[str, list[RunConfig]]:
    """The rows of each section, at the first seed."""
    problems: dict[str, None] = {}
    rows: dict[str, list[RunConfig]] = {}
    for recipe, varied in itertools.product(config.recipes, config.vary or ("",)):
        overrides = (*config.overrides, *([varied] if varied else []))
        listed = rows.setdefault(f"{recipe} {varied}".strip(), [])
        for method in config.methods:
            try:
                listed.append(load(recipe, method, overrides))
            except ConfigError as error:
                problems |= dict.fromkeys(error.problems)
    if problems:
        raise ConfigError(f"table {stem_of(name)}: {problem}" for problem in problems)
    return rows


def _in_order(configs: Mapping[str, Sequence[RunConfig]], seeds: Sequence[int]) -> list[RunConfig]:
    found: dict[str, RunConfig] = {}
    for config, seed in itertools.product(itertools.chain(*configs.values()), seeds):
        for run in with_seed(config, seed).stages:
            found.setdefault(run.run_id, run)
    return list(found.values())


def _rows(
    configs: Sequence[RunConfig],
    seeds: Sequence[int],
    runs: Runs,
    scores: Callable[[Record], Scores],
) -> list[Row]:
    """The rows that have a record."""
    used = Counter(map(method_name, configs))
    rows = []
    for config in configs:
        run_ids = [with_seed(config, seed).run_id for seed in seeds]
        if found := tuple(runs[run_id] for run_id in run_ids if run_id in runs):
            name = method_name(config)
            name = name if used[name] == 1 else f"{name} ({config.names[1]})"
            rows.append(Row(config, name, found, tuple(map(scores, found)), len(seeds)))
    return rows


def _texts(table: Filled, results: Path) -> dict[Path, str]:
    stem = str(results / "tables" / table.name)
    return {
        Path(f"{stem}.md"): render_markdown(table, results),
        Path(f"{stem}.csv"): render_csv(table),
        Path(f"{stem}.tex"): render_latex(table, results),
    }


COLUMNS: Mapping[str, Column] = {
    "macro_f1": Column("macro-F1", factor=100),
    "ece": Column(
        "ECE",
        best="lowest",
        factor=100,
        about="expected calibration error of the predicted class, 15 bins, in %",
    ),
    "cal": Column(
        "cal",
        decimals=3,
        about="1 - (4/N) sum |share right - mean score|, N = 10 bins over every image and class",
    ),
    "s_acc": Column(
        "S_acc", decimals=3, about="harmonic mean of cal and top-1; none where a run's cal is < 0"
    ),
    "s_rec": Column("S_rec", decimals=3, about="that of cal and mean class accuracy"),
    "nll": Column("NLL", decimals=3, best="lowest", about="mean negative log-likelihood"),
    "seconds": Column("seconds", best=None),
    "seconds_with_parents": Column("seconds with parents", best=None),
    "parameters": Column("parameters (M)", factor=1e-6, decimals=2, best=None),
    "gpu_memory": Column("GPU memory (MiB)", factor=2**-20, decimals=0, best=None),
    "resident_memory": Column("resident memory (MiB)", factor=2**-20, decimals=0, best=None),
    "energy": Column(
        "energy (kJ)",
        factor=1e-3,
        best=None,
        about="of the GPU's board, where the driver counts it",
    ),
}

REPORTS: Table = {
    "shots": shots,
    "validation": validation,
    "spread": spread,
    "shifted": shifted,
    "calibration": calibration,
    "cost": cost,
}
