"""What a table says as grids of texts; Markdown for reading, CSV for computing."""

import hashlib
import itertools
import math
import shlex
import statistics
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from lt_bench import metrics
from lt_bench.config import RunConfig, in_folder, key_of
from lt_bench.record import Record, version
from lt_bench.reports.intervals import Difference
from lt_bench.reports.prose import backbone_name, dataset_name
from lt_bench.reports.tables import (
    HEADLINE,
    NO_VALUE,
    Column,
    Filled,
    Row,
    frame,
    how_computed,
    is_bold,
)

OVER = {
    "seeds": "seeds (Student's t, where they differ)",
    "images": "test images (bootstrap within classes)",
}


@dataclass(frozen=True)
class Grid:
    """A table of plain texts: what it shows, its head, its lines; `bold` by line and column."""

    about: str
    head: Sequence[str]
    lines: Sequence[list[str]]
    bold: frozenset[tuple[int, int]] = frozenset()


def render_csv(table: Filled) -> str:
    # 12 digits: more than was measured, and the same on every machine
    text: str = frame(table).to_csv(index=False, float_format="%.12g", lineterminator="\n")
    return text


def render_markdown(table: Filled, results: Path) -> str:
    """What was run, a grid per section, its marks explained, and what makes the missing runs."""
    config = table.config
    parts = [f"# {title(table)}", *filter(None, [config.note, overridden(table, "`")])]
    for section, rows in table.rows.items():
        parts += _section(table, section, rows)
    if across := across_grid(table):
        parts += ["## Across the sections", across.about, markdown_grid(across)]
    if table.missing:
        parts += ["## Missing", missing_runs(table, results, "`")]
        if table.name == table.table:
            parts.append("\n".join(["```", *missing_commands(table.missing, results), "```"]))
    return "\n\n".join(parts) + "\n"


def source_of_figure(name: str, table: Filled, results: Path) -> str:
    """What marks a figure as this one of this table: a digest of its name and the table's text."""
    return hashlib.sha256(f"{name}\n{render_markdown(table, results)}".encode()).hexdigest()


def title(table: Filled) -> str:
    """The table's title, and which report of its runs this is."""
    named, kind = table.config.title, table.config.report.name
    return named if kind == "shots" else f"{named}: {kind}"


def overridden(table: Filled, quote: str = "") -> str:
    """What every run of the table has that its recipe has not, in a sentence, or nothing."""
    said = ", ".join(f"{quote}{override}{quote}" for override in table.config.overrides)
    return f"Every run with {said}." if said else ""


def facts_of_runs(rows: Sequence[Row]) -> str:
    """Network, length and optimisation, in a sentence; second stages are marked."""
    config = rows[0].config.stages[0]
    augment = ", ".join(spec.name for spec in config.augment) or "none"
    return (
        f"{backbone_name(config.backbone)}, {config.optim.epochs} epochs, the last one reported; "
        f"batch {config.optim.batch_size}, learning rate {config.optim.lr:g}, "
        f"augmentation: {augment}."
    )


def score(row: Row, name: str, column: Column) -> str:
    """A cell: mean ± standard deviation over seeds; of one seed, its value."""
    mean, sd = column.printed(row.mean(name)), row.sd(name)
    return mean if sd is None else f"{mean} ± {column.printed(sd)}"


def score_grid(columns: Mapping[str, Column], rows: Sequence[Row]) -> Grid:
    head = ["method", *(column.header for column in columns.values()), "n"]
    lines = [
        [row.name, *(score(row, *column) for column in columns.items()), str(len(row.records))]
        for row in rows
    ]
    bold = {
        (line, place)
        for place, (name, column) in enumerate(columns.items(), start=1)
        for line, is_set in enumerate(is_bold(rows, name))
        if is_set
    }
    return Grid("", head, lines, frozenset(bold))


def missing_runs(table: Filled, results: Path, quote: str = "") -> str:
    """How many runs are missing, and what makes them."""
    command = in_folder(f"python run.py table {shlex.quote(table.table)}", results)
    command = f"{quote}{command}{quote}"
    return f"{len(table.missing)} of {table.num_runs} runs are missing; {command} makes them" + (
        ", or row by row:" if table.name == table.table and quote else "."
    )


def missing_commands(runs: Sequence[RunConfig], results: Path) -> list[str]:
    """A command per row of missing runs, in the order to run them."""
    seeds: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        seeds.setdefault((run.recipe, run.overlay, *run.overrides), []).append(str(run.seed))
    return [
        in_folder(shlex.join(["python", "run.py", "train", *words, "--seeds", *listed]), results)
        for words, listed in seeds.items()
    ]


def markdown_grid(grid: Grid) -> str:
    """A Markdown table, padded so that it reads as plain text too."""
    lines = [[*map(markdown_text, grid.head)], *bolded(grid, "**", "**", markdown_text)]
    widths = [max(3, *map(len, texts)) for texts in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    printed = []
    for first, *others in lines:
        padded = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        printed.append(" | ".join(["| " + first.ljust(widths[0]), *padded]) + " |")
    return "\n".join(printed)


def markdown_text(text: str) -> str:
    """A name as Markdown text: what it holds cannot end a cell or open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def shared_marks(rows: Sequence[Row]) -> list[str]:
    """What is marked in every row does not tell them apart: it is said above them, once."""
    first, *others = [row.marks for row in rows] or [()]
    return [mark for mark in first if others and all(mark in marks for marks in others)]


def lettered(
    rows: Sequence[Row], without: tuple[str, ...] = ()
) -> tuple[dict[str, str], list[list[str]]]:
    """A letter for each mark that tells rows apart, and the letters of each row.

    Args:
        without: how marks begin that get none.
    """
    shared = shared_marks(rows)
    told = [mark for row in rows for mark in row.marks if not mark.startswith(without)]
    own = dict.fromkeys(mark for mark in told if mark not in shared)
    alphabet = string.ascii_lowercase
    letters = {mark: alphabet[i % 26] * (1 + i // 26) for i, mark in enumerate(own)}
    return letters, [[letters[mark] for mark in row.marks if mark in letters] for row in rows]


def told_marks(rows: Sequence[Row]) -> Iterator[str]:
    """The marks in sentences, those of all rows first."""
    if shared := shared_marks(rows):
        yield f"All rows: {'; '.join(shared)}."
    for row in rows:
        if own := [mark for mark in row.marks if mark not in shared]:
            yield f"{row.name}: {'; '.join(own)}."


def settings(section: str, quote: str = "") -> str:
    """The recipe of a section, and what it varies."""
    recipe, _, varied = section.partition(" ")
    text = f"recipe {quote}{recipe}{quote}"
    return f"{text} with {quote}{varied}{quote}" if varied else text


def facts(table: Filled, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """What was trained, tested and counted; on what machine, and how to read the scores."""
    data = rows[0].records[0].data
    lines = [
        f"{facts_of_runs(rows)} {data.totals['train']:,} training images, "
        f"{data.totals['test']:,} in the test split"
        + (f", {data.totals['val']:,} in the validation split." if "val" in data.totals else ".")
    ]
    lines += filter(None, [group_sizes(table, rows)])
    records = [record for row in rows for record in row.records]
    machines, code = (sorted(set(map(said, records))) for said in (_machine, version))
    ran = f"Ran on {'; '.join(machines)}. Code: {', '.join(code)}."
    return lines, [ran, *how_to_read(table, rows)]


def how_to_read(table: Filled, rows: Sequence[Row]) -> list[str]:
    """What the scores are, their unit and spread, and what is bold."""
    columns = table.columns.values()
    unit = "In %, mean" if all(column.factor == 100 for column in columns) else "Mean"
    bold = ""
    if len(rows) > 1 and any(column.best for column in columns):
        bold = (
            f"; the best mean is bold if its differences to {rows[0].name} and to the next best "
            "have 95 % intervals without zero"
        )
    lines = [f"{table.caption} {unit} ± standard deviation (n - 1) over n seeds{bold}."]
    return lines + [f"{column.header}: {column.about}." for column in columns if column.about]


def difference_grids(columns: Mapping[str, Column], rows: Sequence[Row]) -> list[Grid]:
    """Paired differences to the first row: a grid for each kind of interval that a row has."""
    grids = []
    for kind, said in OVER.items():
        known = [row for row in rows if any(kind in d.over for d in row.differences.values())]
        names = [name for name in columns if any(name in row.differences for row in known)]
        lines = []
        for row in known:
            cells = [gain(columns[name], row.differences.get(name), kind) for name in names]
            pairs = max(difference.pairs for difference in row.differences.values())
            lines.append([row.name, *cells, str(pairs)])
        about = f"Difference to {rows[0].name}, paired by seed, with its 95 % interval over {said}"
        if lines:
            head = ["method", *(columns[name].header for name in names), "pairs"]
            grids.append(Grid(about, head, lines))
    return grids


def gain(column: Column, difference: Difference | None, kind: str) -> str:
    """A difference with its interval, as +3.2 [+1.9, +4.5]."""
    if difference is None:
        return NO_VALUE
    text = _signed(column, difference.mean)
    if not (interval := difference.over.get(kind)):
        return text
    return f"{text} [{_end(column, interval.low)}, {_end(column, interval.high)}]"


def across_grid(table: Filled) -> Grid | None:
    """The headline score of every section side by side, the mean rank, and what varies it."""
    if len(table.rows) < 2 or HEADLINE not in table.columns:
        return None
    column = table.columns[HEADLINE]
    by_name = rows_by_name(table)
    place = ranks(table).mean(axis="columns")
    # other settings than the choice of images are no draws whose variance means something
    varied = {key_of(override) for override in table.config.vary if override}
    are_draws = varied == {"data.subset_seed"} and len(table.config.recipes) == 1
    lines = []
    for name, found in by_name.items():
        cells = [_in_section(column, found.get(key), found.values()) for key in table.rows]
        cells.append(f"{place[name]:.1f}" if name in place and len(place) > 1 else NO_VALUE)
        if are_draws:
            spreads = _sd_of_seeds(found), _sd_of_sections(found)
            cells += [column.printed(sd) for sd in spreads]
        lines.append([name, *cells])
    about = (
        f"Score {column.header} of each section, and the mean of its ranks there (1 is best) "
        "among the methods that every section has."
    )
    if are_draws:
        about += (
            " The sd over seeds is pooled over the sections; the sd over sections is what the "
            "seeds do not explain of the spread of their means (one-way random effects), 0.0 "
            "where they explain all of it; three sections or more tell it."
        )
    spread = ["sd over seeds", "sd over sections"] if are_draws else []
    return Grid(about, ["method", *section_names(table), "mean rank", *spread], lines)


def _in_section(column: Column, row: Row | None, beside: Iterable[Row]) -> str:
    """The mean of a row, with its number of seeds if that of the same row elsewhere differs."""
    text = column.printed(row.mean(HEADLINE) if row else None)
    differs = len({len(other.records) for other in beside}) > 1
    return f"{text} (n = {len(row.records)})" if row and differs else text


def _sd_of_seeds(rows: Mapping[str, Row]) -> float | None:
    """Pooled over the sections."""
    known = [found for row in rows.values() if len(found := row.values(HEADLINE)) > 1]
    freedom = sum(len(found) - 1 for found in known)
    squares = (statistics.variance(found) * (len(found) - 1) for found in known)
    return math.sqrt(math.fsum(squares) / freedom) if known else None


def _sd_of_sections(rows: Mapping[str, Row]) -> float | None:
    """What is left of the variance of the sections' means without the seeds' share of it."""
    found = [values for row in rows.values() if (values := row.values(HEADLINE))]
    within = _sd_of_seeds(rows)
    if len(found) < 3 or within is None:
        return None
    share = within**2 * statistics.fmean(1 / len(values) for values in found)
    return math.sqrt(max(0.0, statistics.variance(map(statistics.fmean, found)) - share))


def section_names(table: Filled) -> list[str]:
    """What tells the sections apart: the override that varies, the recipe, or both."""
    is_one = len(table.config.recipes) == 1
    return [(section.partition(" ")[2] if is_one else "") or section for section in table.rows]


def ranks(table: Filled) -> pd.DataFrame:
    """Ranks by the headline score, sections as columns, of the methods that every section has."""
    means = {
        name: {section: row.mean(HEADLINE) for section, row in found.items()}
        for name, found in rows_by_name(table).items()
    }
    whole = pd.DataFrame.from_dict(means, orient="index", columns=list(table.rows), dtype=float)
    return whole.dropna().rank(ascending=False)


def rows_by_name(table: Filled) -> dict[str, dict[str, Row]]:
    """Rows by method and section, methods in the table's order."""
    found: dict[str, dict[str, Row]] = {}
    for overlay in table.config.methods:
        for section, rows in table.rows.items():
            for row in rows:
                if row.config.overlay == overlay:
                    found.setdefault(row.name, {})[section] = row
    return found


def _section(table: Filled, section: str, rows: Sequence[Row]) -> list[str]:
    """Heading, facts, grid, footnotes and differences of one section."""
    shared = shared_marks(rows)
    letters, of_rows = lettered(rows)
    grid = score_grid(table.columns, rows)
    for line, marked in zip(grid.lines, of_rows, strict=True):
        line[0] = " ".join([line[0], *(f"[{letter}]" for letter in marked)])
    parts = [
        f"## {dataset_name(rows[0].config)}, {settings(section, '`')}",
        "\n".join(map(markdown_text, itertools.chain(*facts(table, rows)))),
        *([f"All rows: {'; '.join(shared)}."] if shared else []),
        markdown_grid(grid),
    ]
    if letters:
        parts.append("\n".join(f"- [{letter}] {mark}." for mark, letter in letters.items()))
    for differences in difference_grids(table.columns, rows):
        parts += [markdown_text(differences.about) + ":", markdown_grid(differences)]
    return parts


def bolded(
    grid: Grid, before: str, after: str, escaped: Callable[[str], str]
) -> Iterator[list[str]]:
    """The lines as escaped texts, with marks around the first word of what is bold."""
    for line, texts in enumerate(grid.lines):
        cells = [escaped(text) for text in texts]
        for place, text in enumerate(cells):
            if (line, place) in grid.bold:
                first, *others = text.split(" ", 1)
                cells[place] = " ".join([f"{before}{first}{after}", *others])
        yield cells


def _signed(column: Column, value: float) -> str:
    text = column.printed(value)
    if not _is_nonzero(text):
        return text.removeprefix("-")  # rounded to zero: no sign
    return text if value < 0 else f"+{text}"


def _is_nonzero(text: str) -> bool:
    return any(digit in text for digit in "123456789")


def _end(column: Column, value: float) -> str:
    """An end of an interval, with as many more digits as tell on which side of zero it is."""
    finer = (replace(column, decimals=column.decimals + more) for more in range(4))
    texts = [_signed(column, value) for column in finer]
    return next((text for text in texts if _is_nonzero(text)), texts[0])


def group_sizes(table: Filled, rows: Sequence[Row]) -> str:
    """Which classes each shot group holds, in a sentence; empty where no column is of them."""
    if not set(metrics.SHOT_GROUPS) <= set(table.columns):
        return ""
    return _group_sizes(rows[0].records[0].data.class_counts, **table.config.report.options)


def _group_sizes(
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
    device, cpu = (record.environment.get(name) for name in ("device", "cpu"))
    named = f"{cpu} ({device})" if str(device).startswith("cpu") and cpu else device
    return f"{named}, {how_computed(record)}"
