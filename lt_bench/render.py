"""Tables as text: Markdown for reading, CSV for computing, LaTeX (booktabs) for papers."""

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lt_bench import metrics
from lt_bench.config import RunConfig
from lt_bench.intervals import Difference, Interval
from lt_bench.record import Record
from lt_bench.tables import (
    HEADLINE,
    NO_VALUE,
    Column,
    Filled,
    Row,
    backbone_name,
    dataset_name,
    frame,
    is_bold,
)

LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "τ": r"$\tau$",
        "±": r"$\pm$",
        "–": "--",
        "−": "$-$",
    }
)


@dataclass(frozen=True)
class Grid:
    """A table of plain texts: what it shows, its head, its lines."""

    about: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]


def render_csv(table: Filled) -> str:
    # 12 digits: more than was measured, and the same on every machine
    text: str = frame(table).to_csv(index=False, float_format="%.12g", lineterminator="\n")
    return text


def render_markdown(table: Filled) -> str:
    """What was run, a grid per section, its marks explained, and what makes the missing cells."""
    config = table.config
    parts = [f"# {config.title}"]
    if config.note:
        parts.append(config.note)
    if config.overrides:
        parts.append("Every run with " + ", ".join(f"`{o}`" for o in config.overrides) + ".")
    for section, rows in table.rows.items():
        parts += _section(table, section, rows)
    if across := across_grid(table):
        parts += ["## Across the sections", across.about, markdown_grid(across)]
    commands = missing_commands(table.missing)
    if commands:
        made_by = f"Missing, made by `python run.py table {table.name}` or by:"
        parts += [made_by, "\n".join(["```", *commands, "```"])]
    return "\n\n".join(parts) + "\n"


def render_latex(table: Filled) -> str:
    """A booktabs table per section: mean and standard deviation, the best in bold as elsewhere."""
    parts = [
        f"% Made by python run.py report from the records of table {table.name}; needs booktabs."
    ]
    for index, (section, rows) in enumerate(table.rows.items()):
        label = f"tab:{table.name}" + (f"-{index + 1}" if len(table.rows) > 1 else "")
        caption = (
            f"{table.config.title}: {heading(rows)}, {settings(section)}. {facts_of_runs(rows)}"
        )
        notes = [
            f"{row.name}: {'; '.join(row.marks)}." for row in rows if row.marks and row.records
        ]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\caption{{{latex(' '.join([caption, *notes]))}}}",
                    rf"\label{{{label}}}",
                    *_tabular(table.columns, rows),
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def latex(text: str) -> str:
    return " ".join(text.split()).translate(LATEX)


def heading(rows: Sequence[Row]) -> str:
    return dataset_name(rows[0].config)


def facts_of_runs(rows: Sequence[Row]) -> str:
    """Network, length and optimisation, in a sentence."""
    config = rows[0].config
    return (
        f"{backbone_name(config.backbone)}, {config.optim.epochs} epochs, the last one reported; "
        f"batch {config.optim.batch_size}, learning rate {config.optim.lr:g}."
    )


def score(row: Row, name: str, column: Column, *, bold: bool = False, mark: str = "**") -> str:
    """A cell: mean ± standard deviation over seeds."""
    values = row.values(name)
    if not row.records:
        return "missing"
    if not values:
        return NO_VALUE
    mean = column.printed(statistics.fmean(values))
    sd = column.printed(statistics.stdev(values)) if len(values) > 1 else NO_VALUE
    return f"{mark}{mean}{mark} ± {sd}" if bold else f"{mean} ± {sd}"


def gain(column: Column, difference: Difference | None, interval: Interval | None) -> str:
    """A difference with its interval, as +3.2 [+1.9, +4.5]."""
    if difference is None:
        return NO_VALUE
    text = _signed(column, difference.mean)
    if interval is None:
        return text
    return f"{text} [{_signed(column, interval.low)}, {_signed(column, interval.high)}]"


def bold_cells(columns: Mapping[str, Column], rows: Sequence[Row]) -> dict[str, list[bool]]:
    return {name: is_bold(rows, name, column) for name, column in columns.items()}


def missing_commands(runs: Sequence[RunConfig]) -> list[str]:
    """A command per row of missing runs, in the order to run them."""
    seeds: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        seeds.setdefault((run.recipe, run.overlay, *run.overrides), []).append(str(run.seed))
    return [
        shlex.join(["python", "run.py", "train", *words, "--seeds", *listed])
        for words, listed in seeds.items()
    ]


def markdown_grid(grid: Grid) -> str:
    """A Markdown table, padded so that it reads as plain text too."""
    head, *lines = ([markdown_text(text) for text in line] for line in (grid.head, *grid.lines))
    widths = [max(3, *map(len, texts)) for texts in zip(head, *lines, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    printed = []
    for first, *others in (head, rule, *lines):
        padded = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        printed.append(" | ".join(["| " + first.ljust(widths[0]), *padded]) + " |")
    return "\n".join(printed)


def markdown_text(text: str) -> str:
    """A name as Markdown text: what it holds cannot end a cell or open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _section(table: Filled, section: str, rows: Sequence[Row]) -> list[str]:
    """Heading, facts, grid, footnotes and differences of one section."""
    shared = shared_marks(rows)
    letters: dict[str, str] = {}
    for mark in (mark for row in rows for mark in row.marks if mark not in shared):
        letters.setdefault(mark, f"[{chr(ord('a') + len(letters))}]")
    parts = [
        f"## {heading(rows)}, {settings(section, '`')}",
        "\n".join(map(markdown_text, facts(table, rows))),
        *([f"All rows: {'; '.join(shared)}."] if shared else []),
        _grid(table.columns, rows, letters),
    ]
    if letters:
        parts.append("\n".join(f"- {letter} {mark}." for mark, letter in letters.items()))
    if differences := difference_grid(table.columns, rows):
        parts += [markdown_text(differences.about) + ":", markdown_grid(differences)]
    return parts


def shared_marks(rows: Sequence[Row]) -> list[str]:
    """What is marked in every row does not tell them apart: it is said above them, once."""
    first, *others = [row.marks for row in rows if row.records] or [()]
    return [mark for mark in first if others and all(mark in marks for marks in others)]


def settings(section: str, quote: str = "") -> str:
    """The recipe of a section, and what it varies."""
    recipe, _, varied = section.partition(" ")
    text = f"recipe {quote}{recipe}{quote}"
    return f"{text} with {quote}{varied}{quote}" if varied else text


def facts(table: Filled, rows: Sequence[Row]) -> list[str]:
    """What was trained, tested and counted, and on what machine."""
    records = [record for row in rows for record in row.records]
    lines = [facts_of_runs(rows)]
    if records:
        data = records[0].data
        lines[0] += f" {data.totals['train']:,} training images, {data.totals['test']:,} in the "
        lines[0] += "test split."
        if set(metrics.SHOT_GROUPS) <= set(table.columns):
            lines.append(_shot_groups(data.class_counts, **table.config.report.options))
        machines = sorted({_machine(record) for record in records})
        lines.append(f"Ran on {'; '.join(machines)}.")
    columns = table.columns.values()
    unit = "In %, mean" if all(column.factor == 100 for column in columns) else "Mean"
    lines.append(f"{table.caption} {unit} ± standard deviation (n - 1) over n seeds; {_bold(rows)}")
    lines += [f"{column.header}: {column.about}." for column in columns if column.about]
    return lines


def _bold(rows: Sequence[Row]) -> str:
    if any(_kinds(rows, name) for row in rows for name in row.differences):
        first = rows[0].name
        return (
            f"the best mean is bold if its difference to {first} (for {first} itself, the next "
            "best's) has 95 % intervals without zero."
        )
    return "the best mean is bold."


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
    device, precision = (record.environment.get(name) for name in ("device", "precision"))
    cpu = record.environment.get("cpu")
    named = f"{cpu} ({device})" if str(device).startswith("cpu") and cpu else device
    return f"{named}, {precision}"


def _grid(columns: Mapping[str, Column], rows: Sequence[Row], letters: Mapping[str, str]) -> str:
    bold = bold_cells(columns, rows)
    lines = []
    for index, row in enumerate(rows):
        marks = "".join(f" {letters[mark]}" for mark in row.marks if mark in letters)
        cells = [score(row, name, c, bold=bold[name][index]) for name, c in columns.items()]
        lines.append([row.name + marks, *cells, str(len(row.records))])
    head = ["method", *(column.header for column in columns.values()), "n"]
    return markdown_grid(Grid("", head, lines))


def difference_grid(columns: Mapping[str, Column], rows: Sequence[Row]) -> Grid | None:
    """Paired differences to the first row, each with its interval; None if there is none."""
    shown = [(name, kind) for name in columns for kind in _kinds(rows, name)[:1]]
    if not shown:
        return None
    if len(_kinds(rows, HEADLINE)) > 1:
        shown.append((HEADLINE, "images"))
    kinds = {kind for _, kind in shown}
    head = [
        columns[name].header + (", over images" if kind == "images" and len(kinds) > 1 else "")
        for name, kind in shown
    ]
    lines = []
    for row in rows[1:]:
        cells = []
        for name, kind in shown:
            difference = row.differences.get(name)
            interval = getattr(difference, f"over_{kind}", None)
            cells.append(gain(columns[name], difference, interval))
        pairs = max((d.pairs for d in row.differences.values()), default=0)
        lines.append([row.name, *cells, str(pairs)])
    over = {"seeds": "seeds (Student's t)", "images": "test images (bootstrap within classes)"}
    said = " and over ".join(over[kind] for kind in ("seeds", "images") if kind in kinds)
    about = f"Difference to {rows[0].name}, paired by seed, with its 95 % interval over {said}"
    return Grid(about, ["method", *head, "pairs"], lines)


def _kinds(rows: Sequence[Row], name: str) -> list[str]:
    """Which intervals a column's differences have, over seeds first."""
    known = [row.differences[name] for row in rows if name in row.differences]
    return [kind for kind in ("seeds", "images") if any(getattr(d, f"over_{kind}") for d in known)]


def _signed(column: Column, value: float) -> str:
    text = column.printed(value)
    if not any(digit in text for digit in "123456789"):
        return text.removeprefix("-")  # rounded to zero: no sign
    return text if value < 0 else f"+{text}"


def across_grid(table: Filled) -> Grid | None:
    """The headline score of every section side by side, the mean rank, and what varies it."""
    if len(table.rows) < 2 or HEADLINE not in table.columns:
        return None
    column = table.columns[HEADLINE]
    varied = bool(table.config.vary) and len(table.config.recipes) == 1
    spreads = ["sd over seeds", "sd over sections"] if varied else []
    lines = []
    for place, line in zip(ranks(table), zip(*table.rows.values(), strict=True), strict=True):
        values = [row.values(HEADLINE) for row in line]
        cells = [column.printed(statistics.fmean(v)) if v else NO_VALUE for v in values]
        cells.append(f"{statistics.fmean(place):.1f}" if place else NO_VALUE)
        if varied:
            within = [statistics.variance(v) for v in values if len(v) > 1]
            means = [statistics.fmean(v) for v in values if v]
            cells.append(column.printed(statistics.fmean(within) ** 0.5) if within else NO_VALUE)
            cells.append(column.printed(statistics.stdev(means)) if len(means) > 1 else NO_VALUE)
        lines.append([line[0].name, *cells])
    about = f"Score {column.header} of each section, and the mean of its ranks there (1 is best)."
    if varied:
        about += (
            " The sd over seeds is pooled over the sections; the sd over sections is of their "
            "means, and holds what the seeds add to it."
        )
    return Grid(about, ["method", *section_names(table), "mean rank", *spreads], lines)


def section_names(table: Filled) -> list[str]:
    """What tells the sections apart: the override that varies, the recipe, or both."""
    is_one = len(table.config.recipes) == 1
    return [(section.partition(" ")[2] if is_one else "") or section for section in table.rows]


def ranks(table: Filled) -> list[list[float]]:
    """For each row, its rank by the headline score in every section that has its mean."""
    found: list[list[float]] = [[] for _ in next(iter(table.rows.values()))]
    for rows in table.rows.values():
        means = [statistics.fmean(v) if (v := row.values(HEADLINE)) else None for row in rows]
        known = [mean for mean in means if mean is not None]
        for place, mean in zip(found, means, strict=True):
            if mean is not None:
                better, same = sum(m > mean for m in known), known.count(mean)
                place.append(better + (same + 1) / 2)
    return found


def _tabular(columns: Mapping[str, Column], rows: Sequence[Row]) -> Iterator[str]:
    bold = bold_cells(columns, rows)
    yield rf"\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}"
    yield r"\toprule"
    heads = ["method", *(column.header for column in columns.values()), "n"]
    yield " & ".join(map(latex, heads)) + r" \\"
    yield r"\midrule"
    for index, row in enumerate(rows):
        cells = [latex(row.name)]
        for name, column in columns.items():
            mean, plus_minus, sd = latex(score(row, name, column)).partition(" ")
            is_set = bold[name][index]
            cells.append((rf"\textbf{{{mean}}}" if is_set else mean) + plus_minus + sd)
        yield " & ".join([*cells, str(len(row.records))]) + r" \\"
    yield r"\bottomrule"
    yield r"\end{tabular}"
