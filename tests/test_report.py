"""Reports: every file that follows from the records, what a table refuses, and drift."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lt_bench import cli
from lt_bench import config as config_module
from lt_bench.errors import ConfigError
from lt_bench.record import read_all, write
from lt_bench.reports import prose, report
from tests.synthetic import TABLE, fill_with, make_record, rows, table_frame

ROOT = Path(__file__).parents[1]
LATEX = r"""
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{@{}lrrrrr@{}}
\toprule
method & many & medium & few & all & n \\
\midrule
CE & 90.0 $\pm$ 0.0 & 65.0 $\pm$ 0.0 & 25.0 $\pm$ 7.1 & 61.3 $\pm$ 1.8 & 2 \\
CB & 90.0 $\pm$ 0.0 & 65.0 $\pm$ 0.0 & \textbf{90.0} $\pm$ 14.1 & \textbf{77.5} $\pm$ 3.5 & 2 \\
a\_b\&c & 90.0 $\pm$ 0.0 & 65.0 $\pm$ 0.0 & 25.0 $\pm$ 7.1 & 61.3 $\pm$ 1.8 & 2 \\
\bottomrule
\end{tabular}}
"""


def test_latex_says_the_same_and_escapes_names(checkout, results):
    (checkout.parent / "methods" / "a_b&c.toml").write_text("")
    own = TABLE.replace('"mine"', '"a_b&c"').replace("|", "50 %") + 'note = "Take -1 for 2-1."\n'
    (checkout / "table.toml").write_text(own)
    for run in report.cells("table"):
        last = 8 + 2 * run.seed if run.overlay == "cb" else 2 + run.seed
        write(make_record(run, correct=(9, 8, 5, last), dirty=run.overlay == "cb"), results)
    report.write_table("table", results)
    text = (results / "tables" / "table.tex").read_text()
    assert LATEX.strip() in text.replace("CB (batch mean)$^{a}$", "CB")
    assert "\\par\\footnotesize $^{a}$ made with uncommitted changes to the code.\n" in text
    assert r"A 50 \% table" in text
    assert "\\par\\footnotesize Take $-$1 for 2-1.\n" in text
    assert "Groups by training images per class: many: more than 100 (" in text


def test_the_csv_holds_fractions_in_full(checkout, results):
    fill_with(results, total=(10, 10, 10, 7))
    report.write_table("table", results)
    frame = pd.read_csv(results / "tables" / "table.csv")
    assert frame["method"].tolist() == ["ce", "cb", "mine"]
    assert frame.loc[0, "few_mean"] == pytest.approx((2 / 7 + 3 / 7) / 2, rel=1e-11)
    assert frame.loc[0, "few_sd"] == pytest.approx(np.std([2 / 7, 3 / 7], ddof=1), rel=1e-11)
    assert frame.loc[0, "few_n"] == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "spread",
            {
                "worst_class": 0.2,
                "balanced": 0.6,
                "geometric_mean": (0.9 * 0.8 * 0.5 * 0.2) ** 0.25,
            },
        ),
        ("validation", {"many": 0.8, "medium": 0.5, "few": 0.2, "all": 0.5}),
        ("shifted", {"uniform": 0.6}),
        ("calibration", {"nll": -(24 * np.log(0.6) + 16 * np.log(0.4 / 3)) / 40}),
        (
            "cost",
            {
                "seconds": 10.0,
                "seconds_with_parents": 10.0,
                "parameters": 460_000,
                "gpu_memory": 2**28,
                "resident_memory": 2**30,
                "energy": 5000.0,
            },
        ),
    ],
)
def test_every_other_report(checkout, results, name, expected):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]") + f'report = "{name}"')
    fill_with(results, val=(8, 6, 4, 2))
    frame = table_frame(results)
    for column, value in expected.items():
        assert frame[f"{column}_mean"][0] == pytest.approx(value)
    assert "CE" in rows(report.write_table("table", results))


def test_every_report_has_a_caption_and_columns(checkout, results):
    for name in report.REPORTS:
        (checkout / "table.toml").write_text(TABLE + f'report = "{name}"')
        fill_with(results, val=(8, 6, 4, 2))
        table = report.fill("table", read_all(results))
        assert table.caption.endswith(".")
        assert all(row.values(column) for row in table.rows["small"] for column in table.columns)


def test_without_a_validation_split_its_scores_are_open(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'report = "validation"')
    fill_with(results)
    assert rows(report.write_table("table", results))["CE"] == ["–", "–", "–", "–", "2"]


def test_lower_is_better_for_an_error(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace(', "mine"', "") + 'report = "calibration"')
    fill_with(results)
    for run in report.cells("table"):
        if run.overlay == "cb":  # all right, or all but one, at 60 % confidence
            write(make_record(run, correct=(10, 10, 10, 10 - run.seed)), results)
    grid = rows(report.write_table("table", results))
    assert grid["method"][0] == "ECE"
    assert grid["CE"][0].startswith("**")
    assert grid["CB (batch mean)"][0] == "38.7 ± 1.8"


def test_a_cost_that_was_not_measured_is_left_open(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]") + 'report = "cost"')
    fill_with(results)
    run = report.cells("table")[1]
    write(replace(make_record(run), energy_joules=None, peak_memory_bytes=None), results)
    grid = rows(report.write_table("table", results))
    assert grid["method"][3:6] == ["GPU memory (MiB)", "resident memory (MiB)", "energy (kJ)"]
    assert grid["CE"][3:6] == ["256", "1,024", "5.0"]
    assert grid["CB (batch mean)"][3:6] == ["–", "1,024", "–"]


def test_cost_adds_the_parents(checkout, results):
    only_child = TABLE.replace('["ce", "cb", "mine"]', '["child"]') + 'report = "cost"'
    (checkout / "table.toml").write_text(only_child)
    fill_with(results, seconds=7.0)
    frame = table_frame(results)
    assert frame["seconds_mean"][0] == 7
    assert frame["seconds_with_parents_mean"][0] == 14
    parent = report.cells("table")[0]
    (results / "runs" / parent.run_id / "record.json").unlink()
    frame = table_frame(results)
    assert frame["seconds_with_parents_n"][0] == 0  # of the two seeds, one has lost its parent


TABLE_MISTAKES = {
    TABLE.replace('"cb"', '"cee"'): "table table: method: unknown 'cee'; did you mean 'ce'?",
    TABLE.replace(
        '"small"', '"smal"'
    ): "table table: recipe: unknown 'smal'; did you mean 'small'?",
    TABLE.replace('"small"', '"small:shrt"'): "unknown 'shrt'; did you mean 'short'?",
    TABLE.replace("seeds", "seed"): "table table: seeds: is missing",
    TABLE.replace("[0, 1]", "[]"): "table table: seeds: is empty; list at least one",
    TABLE.replace("[0, 1]", "[0, 0]"): "table table: seeds: 0 is listed twice; list it once",
    TABLE.replace("[0, 1]", "[-1]"): "table table: seeds[0]: -1 is out of range",
    TABLE.replace('"cb"', '"ce"'): "table table: methods: 'ce' is listed twice; list it once",
    TABLE.replace('"cb"', '"a/b.toml"'): "'a/b.toml' is a path; a table lists files of configs/",
    TABLE + 'report = "shot"': "table table: report.name: unknown 'shot'; did you mean 'shots'?",
    TABLE + 'report = {name = "shots", fewer = 3}': "table table: report.fewer: no such option",
    TABLE + 'report = {name = "shots", many = 10}': (
        "table table: report shots: few: fewer than 20 images overlaps many, more than 10; give "
        "few at most 11"
    ),
    TABLE + 'also = [{name = "shifted", factors = [0.5]}]': "also[0].factors[0]: 0.5",
    TABLE + 'overrides = ["seed=3"]': "overrides: 'seed=3' has no effect; write it in seeds",
    TABLE + 'overrides = ["optim.lr=fast"]': "table table: optim.lr: expected float, got 'fast'",
    TABLE + "overrides = 3": "table table: overrides: expected a list, got 3",
    TABLE + "overrides = [3]": "table table: overrides[0]: expected str, got 3",
    TABLE + 'also = ["cost", "cost"]': "table table: also: 'cost' is listed twice; list it once",
    TABLE + "also = [3]": "table table: also[0]: expected a name or a table with a name, got 3",
    "title = 3": "table table: title: expected str, got 3",
    "title = ": "not readable as TOML",
}


@pytest.mark.parametrize("text", TABLE_MISTAKES)
def test_a_table_that_cannot_be_made_says_why(checkout, text):
    (checkout / "table.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        report.cells("table")
    assert TABLE_MISTAKES[text] in str(caught.value)


def test_an_unknown_table_names_the_nearest(checkout):
    with pytest.raises(ConfigError, match="table: unknown 'tabel'; did you mean 'table'?"):
        report.cells("tabel")


def test_all_problems_of_a_table_are_told_once(checkout):
    (checkout / "table.toml").write_text(
        TABLE.replace('"cb"', '"ec"').replace('["small"]', '["small", "small:short"]')
    )
    with pytest.raises(ConfigError) as caught:
        report.cells("table")
    assert len(caught.value.problems) == 1


def test_check_finds_what_no_longer_follows_from_the_records(checkout, results):
    fill_with(results)
    written = report.report(report.read_results(results))
    assert [path.name for path in written] == ["table.md", "table.csv", "table.tex"]
    assert report.check(report.read_results(results)) == []
    markdown, csv, tex = written
    markdown.write_text(markdown.read_text().replace("61.3", "61.2"))
    csv.unlink()
    tex.write_text(tex.read_text().replace("7.1", "7.0", 1))
    (results / "tables" / "old.md").write_text("")
    old, missing, differs, differs_too = sorted(report.check(report.read_results(results)))
    assert old.startswith(f"{results}/tables/old.md: no table with records makes it")
    assert missing == f"{csv}: missing; run python run.py report"
    assert differs.startswith(f"{markdown}: differs from its records")
    assert differs_too.startswith(f"{tex}: differs from its records")


def test_committed_tables_follow_from_committed_records(committed):
    assert report.check(committed) == []


def test_committed_tables_can_be_made():
    for name in config_module.names("configs/tables"):
        assert report.cells(name)


def test_report_as_a_command(checkout, results, capsys):
    fill_with(results)
    command = ["report", "--results", str(results)]
    assert cli.main(command) == 0
    written = capsys.readouterr().out.splitlines()
    assert {str(results / name) for name in ("tables/table.md", "index.html")} <= set(written)
    assert all(map(os.path.exists, written))
    assert cli.main([*command, "--check"]) == 0
    said = "every table, figure and the page follow from their records\n"
    assert capsys.readouterr().out == said
    path = results / "tables" / "table.md"
    path.write_text(path.read_text().replace("90.0", "90.1", 1))
    assert cli.main([*command, "--check"]) == cli.FAILED_RUN
    assert capsys.readouterr().out.startswith(f"{path}: differs from its records; run ")
    assert cli.main([*command, "--published"]) == cli.USER_MISTAKE
    said = f"{results}/published.csv: no row compares with a table\n"
    assert capsys.readouterr().err == said


def test_reports_and_figures_need_no_torch():
    code = """
import importlib, pathlib, pkgutil, sys
sys.modules["torch"] = None
import lt_bench.config, lt_bench.reports
for module in pkgutil.iter_modules(lt_bench.reports.__path__):
    importlib.import_module(f"lt_bench.reports.{module.name}")
for name in lt_bench.config.names("configs/tables"):
    lt_bench.reports.report.missing(name, pathlib.Path("nowhere"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_name_in_prose_is_an_overlays():
    assert set(prose.METHODS_IN_PROSE) <= set(config_module.names("configs/methods"))
