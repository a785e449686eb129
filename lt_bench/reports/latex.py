"""Tables for papers: LaTeX with booktabs, narrowed where they are wider than the text."""

import re
from collections.abc import Sequence
from pathlib import Path

from lt_bench.reports.prose import dataset_name
from lt_bench.reports.published import Beside
from lt_bench.reports.render import (
    bolded,
    facts_of_runs,
    group_sizes,
    how_to_read,
    lettered,
    missing_runs,
    overridden,
    score_grid,
    settings,
    shared_marks,
    title,
    told_marks,
)
from lt_bench.reports.tables import VERSIONS, Filled, Row

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
WIDE, LONG = 6, 35  # columns, and rows, more than which a column of text cannot hold
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"


def render_latex(table: Filled, results: Path) -> str:
    """A booktabs table per section: mean and standard deviation, the best in bold as elsewhere."""
    parts = [
        f"% Made by python run.py report from the records of table {table.table}; needs booktabs "
        "and graphicx."
    ]
    if table.missing:
        parts.append(f"% {missing_runs(table, results)}")
    parts += [_latex_table(table, section, rows) for section, rows in table.rows.items()]
    return "\n\n".join(parts) + "\n"


def latex_published(groups: Sequence[Beside]) -> str:
    """A booktabs table for each recipe with published values, our marks and the sources below."""
    parts = ["% Made by python run.py report; needs booktabs and graphicx."]
    parts += [f"% {latex(group.grid.about)}" for group in groups[:1]]
    for group in groups:
        lines = [[latex(text) for text in line] for line in group.grid.lines]
        notes = [*group.marks, *group.sources]
        parts.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering\small",
                    rf"\caption{{{latex(group.heading)}.}}\vspace{{4pt}}",
                    *_tabular(group.grid.head, lines),
                    *(rf"\par\footnotesize {latex(note)}" for note in notes),
                    r"\end{table}",
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def _tabular(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a tabular that is made narrower where it is wider than the text.

    Args:
        head: as plain texts.
        lines: of cells that are LaTeX already.
    """
    return [
        FITTED,
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(head) - 1)}@{{}}}}",
        r"\toprule",
        " & ".join(map(latex, head)) + r" \\",
        r"\midrule",
        *(" & ".join(cells) + r" \\" for cells in lines),
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def _latex_table(table: Filled, section: str, rows: Sequence[Row]) -> str:
    """One float: what a reader of the paper needs in its caption, the marks below as footnotes."""
    letters, of_rows = lettered(rows, without=(VERSIONS,))
    versions = [m for m in told_marks(rows) if VERSIONS in m]
    grid = score_grid(table.columns, rows)
    lines = list(bolded(grid, r"\textbf{", "}", latex))
    for cells, marked in zip(lines, of_rows, strict=True):
        cells[0] += f"$^{{{','.join(marked)}}}$" if marked else ""
    varied = section.partition(" ")[2]
    named = [title(table), dataset_name(rows[0].config), *([varied] if varied else [])]
    caption = [f"{', '.join(named)}.", facts_of_runs(rows), overridden(table)]
    caption += [group_sizes(table, rows), *how_to_read(table, rows)]
    shared = [mark for mark in shared_marks(rows) if not mark.startswith(VERSIONS)]
    notes = [table.config.note, f"All rows: {'; '.join(shared)}." if shared else ""]
    is_wide = len(grid.head) > WIDE
    kind = "table*" if is_wide else "table"
    size, space = (r"\footnotesize", 3) if is_wide else (r"\small", 4)
    if len(rows) > LONG:
        size = r"\scriptsize"
    return "\n".join(
        [
            rf"\begin{{{kind}}}",
            rf"\centering{size}\setlength{{\tabcolsep}}{{{space}pt}}",
            rf"\caption{{{latex(' '.join(filter(None, caption)))}}}\vspace{{4pt}}",
            rf"\label{{tab:{table.name_of(section)}}}",
            rf"% {latex(settings(section))}",
            *(rf"% {latex(mark)}" for mark in versions),
            *_tabular(grid.head, lines),
            *(rf"\par\footnotesize {latex(note)}" for note in notes if note),
            *(
                rf"\par\footnotesize $^{{{letter}}}$ {latex(mark)}."
                for mark, letter in letters.items()
            ),
            rf"\end{{{kind}}}",
        ]
    )


def latex(text: str) -> str:
    """Text as LaTeX source, in one line; the hyphen before a number is a minus sign."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", " ".join(text.split())).translate(LATEX)
