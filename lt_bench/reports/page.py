"""results/index.html: every table and figure on one self-contained page, nothing fetched."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from lt_bench.config import in_folder
from lt_bench.files import write_text_whole
from lt_bench.metrics import SHOT_GROUPS
from lt_bench.record import version
from lt_bench.reports.latex import latex_published, render_latex
from lt_bench.reports.pictures import figures_of
from lt_bench.reports.prose import dataset_name
from lt_bench.reports.published import Beside, csv_published
from lt_bench.reports.render import (
    Grid,
    across_grid,
    difference_grids,
    facts,
    lettered,
    missing_commands,
    missing_runs,
    overridden,
    render_csv,
    score_grid,
    settings,
    shared_marks,
    title,
)
from lt_bench.reports.report import COLUMNS, Results, beside_published
from lt_bench.reports.tables import HEADLINE, Column, Filled, Row, how_computed

GROUPS = (*SHOT_GROUPS, HEADLINE)
IMAGE = re.compile(r'src="data:image/webp;base64,[^"]*"')
OPTION = "<option>{}</option>"


def write_page(results: Results) -> Path:
    """Write results/index.html from the records and the figures beside them."""
    path = results.folder / "index.html"
    write_text_whole(path, render_page(results))
    return path


def check_page(results: Results) -> list[str]:
    """What differs, a line each, between results/index.html and one made from the records.

    Pictures are not compared byte by byte, but there must be as many.
    """
    path = results.folder / "index.html"
    if not path.exists():
        return [f"{path}: missing; {results.remedy}"] if results.filled else []
    if _without_images(path.read_text(encoding="utf-8")) != _without_images(render_page(results)):
        return [f"{path}: differs from its records; {results.remedy}"]
    return []


def render_page(results: Results) -> str:
    """The page of all tables.

    Raises:
        DataError: a figure is damaged.
    """
    # tables of methods first, those of one setting's influence after them
    tables = sorted(results.filled, key=lambda table: bool(table.config.vary))
    published = beside_published(results)
    rows = [row for table in tables for listed in table.rows.values() for row in listed]
    articles = [
        *(_article(table, results) for table in tables),
        *(text for of in _by_table(tables) for text in _runs_of(of, results.folder)),
    ]
    articles += [_published(published)] if published else []
    template, style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("html", "css", "js")
    )
    return Template(template).substitute(
        style=style,
        script=script,
        runs=len(results.records),
        links="".join(_links(tables, results, bool(published))),
        datasets=_joined(OPTION, dict.fromkeys(dataset_name(row.config) for row in rows)),
        methods=_joined(OPTION, dict.fromkeys(row.name for row in rows)),
        groups=_joined(OPTION, GROUPS),
        articles="\n".join(articles),
    )


def _links(tables: Sequence[Filled], results: Results, is_published: bool) -> Iterator[str]:
    """A line for each table and the further reports of its runs, after what all of them say."""
    if (results.folder / "NOTES.md").is_file():
        yield '<li><a href="NOTES.md">What the numbers say (NOTES.md)</a></li>'
    if is_published:
        yield '<li><a href="#published">Ours beside published</a></li>'
    for of in _by_table(tables):
        texts = [title(of[0]), *(table.config.report.name for table in of[1:])]
        links = _joined('<a href="#{}">{}</a> ', [table.name for table in of], texts)
        yield f"<li>{links}</li>"


def _by_table(tables: Sequence[Filled]) -> Iterator[list[Filled]]:
    """Each table with the further reports of its runs, which have the same rows."""
    for name in dict.fromkeys(table.table for table in tables):
        yield [table for table in tables if table.table == name]


def _joined(pattern: str, *columns: Iterable[str]) -> str:
    """The pattern once for each line of the columns, escaped."""
    return "".join(pattern.format(*map(escape, line)) for line in zip(*columns, strict=True))


def _without_images(page: str) -> str:
    return IMAGE.sub('src=""', page)


def _article(table: Filled, results: Results) -> str:
    parts = [f"<h2>{escape(title(table))}</h2>"]
    parts += [f"<p>{escape(text)}</p>" for text in (table.config.note, overridden(table)) if text]
    parts += [_section(table, section, rows) for section, rows in table.rows.items()]
    if across := across_grid(table):
        dataset = escape(dataset_name(next(iter(table.rows.values()))[0].config))
        parts.append(
            f'<div data-dataset="{dataset}"><h3>Across the sections</h3>'
            f"<p>{escape(across.about)}</p>{_plain_table(across)}</div>"
        )
    if table.missing and table.name == table.table:
        commands = "\n".join(missing_commands(table.missing, results.folder))
        said = f"{len(table.missing)} of {table.num_runs} runs are missing: commands"
        parts.append(_foldable(said, commands, table.name))
    elif table.missing:
        parts.append(f'<p class="facts">{escape(missing_runs(table, results.folder))}</p>')
    parts.append(
        _foldable("LaTeX (booktabs)", render_latex(table, results.folder), f"{table.name}-tex")
    )
    parts.append(_foldable("CSV", render_csv(table), f"{table.name}-csv"))
    parts += figures_of(table, results)
    return f'<article class="table" id="{escape(table.name)}">{"".join(parts)}</article>'


def _section(table: Filled, section: str, rows: Sequence[Row]) -> str:
    dataset = escape(dataset_name(rows[0].config))
    shown, folded = facts(table, rows)
    parts = [
        f"<h3>{dataset}, {escape(settings(section))}</h3>",
        f'<p class="facts">{"<br>".join(map(escape, shown))}</p>',
        _scores(table, rows),
        "<details><summary>How to read it, and where it ran</summary>"
        f'<p class="facts">{"<br>".join(map(escape, folded))}</p></details>',
    ]
    letters, _ = lettered(rows)
    marks = [f"All rows: {mark}." for mark in shared_marks(rows)]
    marks += [f"[{letter}] {mark}." for mark, letter in letters.items()]
    parts.append(_listed("marks", marks))
    parts += [
        f"<details><summary>{escape(differences.about)}</summary>"
        f"{_plain_table(differences)}</details>"
        for differences in difference_grids(table.columns, rows)
    ]
    return f'<div data-dataset="{dataset}">{"".join(parts)}</div>'


def _listed(kind: str, lines: Iterable[str]) -> str:
    items = _joined("<li>{}</li>", lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _scores(table: Filled, rows: Sequence[Row]) -> str:
    grid = score_grid(table.columns, rows)
    _, of_rows = lettered(rows)
    lines = []
    for index, (row, marked) in enumerate(zip(rows, of_rows, strict=True)):
        marks = "".join(f"[{letter}]" for letter in marked)
        mark = f'<span class="mark">{marks}</span>' if marks else ""
        cells = [f'<th scope="row">{escape(row.name)}{mark}</th>']
        for place, (name, column) in enumerate(table.columns.items(), start=1):
            text = grid.lines[index][place]
            is_bold = (index, place) in grid.bold
            cells.append(_cell(row, name, column, text, is_bold, _runs_id(table, row)))
        cells.append(f'<td data-value="{len(row.records)}">{len(row.records)}</td>')
        lines.append(
            f'<tr data-method="{escape(row.name)}" data-overlay="{escape(row.config.overlay)}" '
            f'data-order="{index}">{"".join(cells)}</tr>'
        )
    rises = [False, *(column.best == "lowest" for column in table.columns.values()), False]
    heads = "".join(_head(*named) for named in zip(grid.head, rises, strict=True))
    return _table(heads, lines, ' class="scores"')


def _table(heads: str, lines: Iterable[str], kind: str = "") -> str:
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _head(text: str, rises: bool = False) -> str:
    """A column's head; `rises`: its first sorting has the smallest on top."""
    first = ' data-first="ascending"' if rises else ""
    return (
        f'<th scope="col" aria-sort="none"{first}{_group(text)}>'
        f'<button type="button">{escape(text)}</button></th>'
    )


def _group(name: str) -> str:
    return f' data-group="{name}"' if name in GROUPS else ""


def _cell(row: Row, name: str, column: Column, text: str, is_bold: bool, runs: str) -> str:
    """A score that opens the runs behind it; a thin bar shows a share of 100 %."""
    mean = row.mean(name)
    if mean is None:
        return f'<td class="none" data-value=""{_group(name)}>{text}</td>'
    first, _, sd = text.partition(" ")
    shown = f"<strong>{first}</strong>" if is_bold else first
    shown += f" <small>{sd}</small>" if sd else ""
    share = f' style="--share: {100 * min(max(mean, 0), 1):.0f}%"' if column.factor == 100 else ""
    return (
        f'<td data-value="{column.factor * mean:.6g}"{_group(name)}>'
        f'<button type="button" class="cell" popovertarget="{escape(runs)}"{share}>'
        f"{shown}</button></td>"
    )


def _runs_id(table: Filled, row: Row) -> str:
    return f"runs-{table.table}-{row.config.digest[:8]}"


def _runs_of(tables: Sequence[Filled], results: Path) -> Iterator[str]:
    """The runs of each row of a table, with their scores in all of its reports."""
    for section, rows in tables[0].rows.items():
        for index in range(len(rows)):
            yield _runs([(table, table.rows[section][index]) for table in tables], results)


def _runs(reports: Sequence[tuple[Filled, Row]], results: Path) -> str:
    """What runs them elsewhere, what compares, and each seed's record, scores and machine."""
    table, row = reports[0]
    ways: dict[str, list[str]] = {}
    for record in row.records:
        compiled = " --compile" if record.environment.get("compiled") else ""
        way = f"--precision {record.environment.get('precision', 'auto')}{compiled}"
        ways.setdefault(way, []).append(str(record.seed))
    commands = [
        f"{stage.command.rpartition(' seed=')[0]} --seeds {' '.join(seeds)} {way} --results mine"
        for way, seeds in ways.items()
        for stage in row.config.stages
    ]
    check = in_folder(f"python run.py verify {row.records[0].run_id}", results)
    columns = [
        (of.scores, name, column, table.config.report.name)
        for table, of in reports
        for name, column in table.columns.items()
    ]
    lines = []
    for index, record in enumerate(row.records):
        cells = [column.printed(scores[index][name]) for scores, name, column, _ in columns]
        link = f'<a href="runs/{escape(record.run_id)}/record.json">seed {record.seed}</a>'
        machine = [version(record), how_computed(record)]
        shown = _joined("<td>{}</td>", [f"{record.seconds:,.0f} s", *machine, *cells])
        lines.append(f"<tr><td>{link}</td>{shown}</tr>")
    headers = Counter(column.header for _, _, column, _ in columns)
    heads = ["record", "time", "commit", "precision"]
    heads += [
        column.header if headers[column.header] == 1 else f"{column.header} ({report})"
        for _, _, column, report in columns
    ]
    head = _joined('<th scope="col">{}</th>', heads)
    name = escape(_runs_id(table, row))
    code = f"command-{name}"
    return (
        f'<div popover role="dialog" id="{name}" aria-label="Runs of {escape(row.name)}">'
        f'<button type="button" class="close" popovertarget="{name}" aria-label="Close">✕</button>'
        f"<h4>{escape(row.name)}</h4>"
        f'<pre><code id="{code}">{escape(chr(10).join(commands))}</code></pre>'
        f'<button type="button" class="copy" data-from="{code}">Copy command</button>'
        f"<p class='facts'>To repeat one and compare: <code>{escape(check)}</code></p>"
        f"{_table(head, lines)}</div>"
    )


# heads of plain tables whose smallest number is the best
RISING = ("mean rank", *(one.header for one in COLUMNS.values() if one.best == "lowest"))


def _plain_table(grid: Grid) -> str:
    """A grid that sorts, too; columns of a shot group follow the filter."""
    lines = []
    for index, (first, *others) in enumerate(grid.lines):
        cells = "".join(
            f'<td data-value="{_number(text)}"{_group(head)}>{escape(text)}</td>'
            for text, head in zip(others, grid.head[1:], strict=True)
        )
        lines.append(
            f'<tr data-method="{escape(first)}" data-order="{index}">'
            f'<th scope="row">{escape(first)}</th>{cells}</tr>'
        )
    heads = "".join(_head(text, text in RISING) for text in grid.head)
    return _table(heads, lines)


def _number(text: str) -> str:
    """What a cell sorts by: the number it begins with, or nothing."""
    found = re.match(r"[+-]?[\d,]*\.?\d+", text)
    return found[0].replace(",", "").removeprefix("+") if found else ""


def _published(groups: Sequence[Beside]) -> str:
    parts = [f"<h2>Ours beside published</h2><p>{escape(groups[0].grid.about)}</p>"]
    for group in groups:
        dataset = escape(group.heading.partition(",")[0])
        parts.append(
            f'<div data-dataset="{dataset}"><h3>{escape(group.heading)}</h3>'
            f"{_plain_table(group.grid)}{_listed('marks', group.marks)}"
            f"<details><summary>Sources</summary>{_listed('sources', group.sources)}"
            "</details></div>"
        )
    parts.append(_foldable("LaTeX (booktabs)", latex_published(groups), "published-tex"))
    parts.append(_foldable("CSV", csv_published(groups), "published-csv"))
    return f'<article class="table" id="published">{"".join(parts)}</article>'


def _foldable(summary: str, text: str, name: str) -> str:
    code = f"text-{escape(name)}"
    return (
        f"<details><summary>{escape(summary)}</summary>"
        f'<button type="button" class="copy" data-from="{code}">Copy</button>'
        f'<pre tabindex="0"><code id="{code}">{escape(text)}</code></pre></details>'
    )
