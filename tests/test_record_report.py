"""Records: round trip and refusals. Tables and figures: from records to the last digit."""

import base64
import json
import os
import re
import statistics
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lt_bench import cli, metrics, provenance, record
from lt_bench import config as config_module
from lt_bench.config import load
from lt_bench.errors import ConfigError, DataError
from lt_bench.record import Record, decode_labels, encode_labels, read, read_all, write
from lt_bench.reports import prose, report, tables
from lt_bench.reports.page import render_page
from tests.synthetic import SDN, TABLE, changed, fill_with, make_record

ROOT = Path(__file__).parents[1]


def rows(markdown):
    """The cells of the Markdown tables above the differences, by the first of each line."""
    text = markdown.partition("\nDifference")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def table_frame(results):
    return tables.frame(report.fill("table", read_all(results)))


# --- records ---


def test_a_record_reads_back_as_written(checkout, results):
    run = replace(load("small", "child"), seed=3)
    child = make_record(run, weights=np.random.default_rng(0).random((2, 4)))
    child = replace(
        child, val=child.test, data=replace(child.data, totals={**child.data.totals, "val": 40})
    )
    path = write(child, results)
    assert path == results / "runs" / run.run_id / "record.json"
    assert read(path) == child
    assert read_all(results) == [child]
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]  # nothing temporary left


def test_a_record_is_written_the_same_each_time(checkout, results):
    one = make_record(load("small", "ce"))
    first = write(one, results).read_bytes()
    assert write(read(write(one, results)), results).read_bytes() == first


def test_a_record_diffs_line_by_line(checkout, results):
    text = write(make_record(load("small", "ce")), results).read_text()
    assert '\n  "total": [10, 10, 10, 10],\n' in text
    assert sum(line.startswith('  {"epoch": ') for line in text.splitlines()) == 4
    assert text.endswith("}\n")


def test_a_tally_and_its_predictions_come_back(checkout, results):
    test = read(write(make_record(load("small", "ce")), results)).test
    assert test.tally.correct.tolist() == [9, 8, 5, 2]
    labels = np.repeat(np.arange(4), 10)
    again = metrics.Tally.of(labels, test.predictions(), 4)
    assert again.correct.tolist() == [9, 8, 5, 2]
    assert again.predicted.tolist() == list(test.predicted)


@given(st.lists(st.integers(0, 2**16 - 1)))
def test_labels_survive_encoding(labels):
    assert decode_labels(encode_labels(labels), len(labels)).tolist() == labels


def test_labels_of_another_length_are_refused():
    text = encode_labels([1, 2, 3])
    for length in (2, 4):
        with pytest.raises(DataError, match=f"one label for each of {length} images"):
            decode_labels(text, length)


def test_a_compressed_bomb_is_not_inflated():
    bomb = base64.b64encode(zlib.compress(bytes(10**8), 9)).decode()
    with pytest.raises(DataError, match="one label for each of 5 images"):
        decode_labels(bomb, 5)


def test_counts_that_disagree_are_not_written(checkout, results):
    with pytest.raises(AssertionError, match="above total"):
        write(changed(make_record(load("small", "ce")), top5_correct=(11, 10, 10, 10)), results)
    assert not results.exists()


def put(tree, place, value):
    """Set `value` at a dotted place of a tree of dicts and lists."""
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in path:
        tree = tree[key]
    tree[last] = value


BROKEN = {
    "schema": (2, "schema 2, this version reads 1"),
    "run_id": ("../../etc/passwd", "run_id: not a plain file name"),
    "digest": ("xyz", "digest"),
    "seed": ("0", "record.seed: expected int, got '0'"),
    "status": ("failed", "record.status: unknown 'failed'"),
    "config": ([], "record.config: expected a table, got []"),
    "seconds": (-1.0, "record.seconds: -1.0 is out of range"),
    "num_parameters": (10**400, "record.num_parameters: 1000"),
    "surprise": (1, "record.surprise: no such field"),
    "data.class_counts": ([200, 100, 20], "data.class_names: not one per class"),
    "data.class_counts.0": (201, "data.totals: train is not class_counts' sum"),
    "data.class_counts.1": (True, "record.data.class_counts[1]: expected int, got True"),
    "data.totals.test": (41, "test.total: sum differs from data.totals.test"),
    "test.total": ([10, 10, 10], "test.total: 4 classes, not as many counts"),
    "test.total.0": (-1, "record.test.total[0]: -1 is out of range"),
    "test.total.1": (2**60, "out of range"),
    "test.total.2": (2**40, "test.total: 1,099,511,627,806 images"),
    "test.correct.0": (11, "test.correct: above total"),
    "test.correct.1": (1.5, "record.test.correct[1]: expected int, got 1.5"),
    "test.correct.3": (3, "test.calibration.top_label: does not add up"),
    "test.predicted.0": (12, "test.predicted: sum differs from total's"),
    "test.predicted": ([8, 10, 11, 11], "test.correct: above predicted"),
    "test.top5_correct.0": (8, "test.top5_correct: below correct"),
    "test.labels_predicted": ("AAAA", "test.labels_predicted: damaged"),
    "test.calibration.score.count.1": (0, "test.calibration.score: does not add up"),
    "test.calibration.top_label.correct.9": (41, "test.calibration.top_label: does not add up"),
    "test.calibration.top_label.confidence": ([0.0], "test.calibration.top_label: does not"),
    "test.nll": (None, "record.test.nll: expected float, got None"),
    "history.1.epoch": (5, "history: has gaps"),
    "history.0.terms": ({"loss": "high"}, "record.history[0].terms.loss: expected float"),
    "class_history.class_weight.epochs": ([1], "class_weight: not a line of values for each epoch"),
}


@pytest.fixture
def sound(checkout, results):
    return write(make_record(load("small", "ce"), weights=[[1, 1, 1, 1], [2, 1, 1, 1]]), results)


@pytest.mark.parametrize("place", BROKEN)
def test_a_broken_record_is_refused_in_one_line(sound, place):
    value, message = BROKEN[place]
    tree = json.loads(sound.read_text())
    put(tree, place, value)
    sound.write_text(json.dumps(tree))
    with pytest.raises(DataError) as caught:
        read(sound)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{sound}: ")
    assert message in problem
    assert problem.endswith("; restore the file, or delete its folder and run it again")
    assert len(problem) < len(str(sound)) + 300
    assert "\n" not in problem


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"schema": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": NaN}',
        b'{"schema": 1, "seconds": 1e999}',
        b'{"schema": 1, "recipe": "\\ud800"}',
        b'{"schema": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_record_is_refused(sound, text):
    sound.write_bytes(text)
    with pytest.raises(DataError, match="restore the file") as caught:
        read(sound)
    assert len(caught.value.problems) == 1


def test_a_file_too_large_for_a_record_is_not_read(sound, monkeypatch):
    monkeypatch.setattr(record, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="at most 100 expected"):
        read(sound)


def test_a_missing_record_says_so(results):
    with pytest.raises(DataError, match="no such record; run its experiment first"):
        read(results / "runs" / "x" / "record.json")


def test_all_broken_records_are_named_at_once(sound, results):
    write(make_record(load("small", "cb")), results)
    moved = sound.parent.with_name("elsewhere")
    sound.parent.rename(moved)
    other = results / "runs" / "other" / "record.json"
    other.parent.mkdir()
    other.write_text("{}")
    with pytest.raises(DataError) as caught:
        read_all(results)
    named, broken = caught.value.problems
    assert named.startswith(str(moved))
    assert "its folder names another" in named
    assert broken.startswith(str(other))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_one_value_replaced_is_read_or_refused(sound, data):
    """No traceback, whatever stands at whatever place; what is read can be reported."""
    text = sound.read_text()
    tree = json.loads(text)
    place = data.draw(st.sampled_from(sorted(places(tree))))
    put(tree, place, data.draw(json_values))
    other = sound.with_name("fuzzed.json")
    try:
        other.write_text(json.dumps(tree))
        found = read(other)
    except (DataError, UnicodeEncodeError):
        return
    assert isinstance(found, Record)
    report.render_markdown(report.fill("table", [found]), sound.parent)
    for scores in report.REPORTS.values():
        assert scores(found, {})


def places(tree, at=""):
    """The dotted places of a tree, a few of each list."""
    items = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:3]
    for key, value in items:
        yield f"{at}{key}"
        if isinstance(value, dict | list):
            yield from places(value, f"{at}{key}.")


def test_environment_says_what_ran():
    found = provenance.environment("cpu, 2 threads", "fp32", workers=4)
    assert found["device"] == "cpu, 2 threads"
    assert found["precision"] == "fp32"
    assert found["workers"] == 4
    assert found["packages"]["torch"]
    assert found["cpu"]
    assert found["cores"] >= 1
    json.dumps(found)


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_commit_and_dirty_flag(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path.resolve())
    version = provenance.code_at_start.__wrapped__
    assert version() == (None, None)
    git(tmp_path, "init")
    (tmp_path / "lt_bench").mkdir()
    (tmp_path / "lt_bench" / "train.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "one")
    commit, is_dirty = version()
    assert len(commit) == 40
    assert is_dirty is False
    (tmp_path / "results").mkdir()  # a run's own files change nothing that decides its numbers
    (tmp_path / "results" / "record.json").write_text("{}")
    assert version() == (commit, False)
    (tmp_path / "configs" / "tables").mkdir(parents=True)  # nor does what sets runs side by side
    (tmp_path / "configs" / "tables" / "mine.toml").write_text("title = 1")
    assert version() == (commit, False)
    (tmp_path / "configs" / "mine.toml").write_text("optim = 1")
    assert version() == (commit, True)
    (tmp_path / "configs" / "mine.toml").unlink()
    (tmp_path / "lt_bench" / "losses.py").write_text("2")
    assert version() == (commit, True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path.resolve() / "lt_bench")
    assert version() == (None, None)  # installed into somebody else's repository


# --- tables ---


def test_the_grid_of_a_full_table(checkout, results):
    fill_with(results)
    grid = rows(report.write_table("table", results))
    assert grid["method"] == ["many", "medium", "few", "all", "n"]
    sd = statistics.stdev([20.0, 30.0])
    assert grid["CE"] == [
        "90.0 ± 0.0",
        "65.0 ± 0.0",
        f"25.0 ± {sd:.1f}",
        "61.3 ± 1.8",
        "2",
    ]


def test_only_a_best_mean_that_is_clear_of_the_first_row_is_bold(checkout, results):
    fill_with(results)
    for run in report.cells("table"):
        if run.overlay == "cb":  # 6 and 7 more of the last class in both seeds
            write(make_record(run, correct=(9, 8, 5, 8 + 2 * run.seed)), results)
    grid = rows(report.write_table("table", results))
    assert grid["CB (batch mean)"][2] == f"**90.0** ± {statistics.stdev([80, 100]):.1f}"
    assert grid["CE"][2].startswith("25.0")
    assert grid["CB (batch mean)"][0] == "90.0 ± 0.0"  # as good as the first: nothing to mark


def test_a_best_mean_within_its_interval_is_not_bold(checkout, results):
    fill_with(results)
    run = report.cells("table")[2]
    assert run.overlay == "cb"
    write(make_record(run, correct=(9, 8, 5, 9)), results)  # 70 more in one seed, 0 in the other
    grid, _, gains = report.write_table("table", results).partition("Difference")
    assert rows(grid)["CB (batch mean)"][2] == f"60.0 ± {statistics.stdev([90, 30]):.1f}"
    half = 12.7062 * statistics.stdev([70, 0]) / 2**0.5
    assert rows(gains)["CB (batch mean)"][2] == f"+35.0 [{35 - half:.1f}, +{35 + half:.1f}]"


def test_a_best_mean_that_is_not_clear_of_the_next_best_is_not_bold(checkout, results):
    """Both are clear of the first row."""
    for run in report.cells("table"):
        last = {"ce": 1, "cb": 9 + run.seed, "mine": 9 - run.seed}[run.overlay]
        write(make_record(run, correct=(9, 8, 5, last)), results)
    text, *gains = report.write_table("table", results).split("Difference")
    assert rows(text)["CB (batch mean)"][2].startswith("95.0 ±")
    assert rows(text)["mine"][2].startswith("85.0 ±")
    assert all("[+" in rows(gain)["CB (batch mean)"][2] for gain in gains)


def test_the_first_row_is_bold_where_the_next_best_is_clearly_worse(checkout, results):
    fill_with(results, correct=(9, 8, 5, 2))
    for run in report.cells("table"):
        if run.overlay == "ce":
            write(make_record(run, correct=(9, 8, 5, 9 + run.seed)), results)
    grid = rows(report.write_table("table", results))
    assert [cell.startswith("**") for cell in grid["CE"]] == [False, False, True, True, False]
    assert not any(cell.startswith("**") for cell in grid["mine"])


def test_a_best_mean_without_a_difference_to_the_first_row_is_not_bold(checkout, results):
    """The first row has another seed: only the lead over the next best is known, and clear."""
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0, 1, 2]"))
    for run in report.cells("table"):
        if (run.seed == 2) == (run.overlay == "ce"):
            last = {"ce": 1, "cb": 9, "mine": 2}[run.overlay]
            write(make_record(run, correct=(9, 8, 5, last)), results)
    grid = rows(report.write_table("table", results))
    (best,) = (cells for name, cells in grid.items() if name.startswith("CB"))
    assert best[2] == "90.0 ± 0.0"


def test_one_seed_is_compared_over_test_images_and_never_bold(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]"))
    fill_with(results)
    write(make_record(report.cells("table")[1], correct=(9, 8, 5, 9)), results)
    text, _, gains = report.write_table("table", results).partition("Difference")
    assert "over test images (bootstrap within classes):" in gains
    assert rows(gains)["CB (batch mean)"][2].startswith("+70.0 [+40.0, +")
    assert rows(gains)["CB (batch mean)"][0] == "0.0"  # no draw differs: no interval
    assert rows(text)["CB (batch mean)"][2] == "90.0"


def test_images_that_cannot_be_told_apart_have_no_interval(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]"))
    fill_with(results)
    run = report.cells("table")[1]
    one = make_record(run, correct=(9, 8, 5, 9))
    shuffled = encode_labels(one.test.predictions()[::-1].copy())
    write(changed(one, labels_predicted=shuffled), results)
    write(make_record(report.cells("table")[2], correct=(9, 8, 5, 7)), results)
    before, _, gains = report.write_table("table", results).partition("Difference")
    (marked,) = (name for name in rows(before) if name.startswith("CB (batch mean) ["))
    said = "no interval over test images: predicted labels and counts of right ones disagree"
    assert f"- {marked[-3:]} {said}." in before + gains
    assert "CB (batch mean)" not in rows(gains)
    assert "mine" in rows(gains)
    assert table_frame(results)["few_difference"][1] == pytest.approx(0.7)
    other = replace(one, data=replace(one.data, identity={"test": "4" * 64}))
    write(other, results)
    assert "CB (batch mean)" not in rows(
        report.write_table("table", results).partition("Difference")[2]
    )


def test_a_table_elsewhere_does_not_replace_one_of_the_checkout(checkout, results, tmp_path):
    fill_with(results)
    own = tmp_path / "table.toml"
    own.write_text(TABLE)
    with pytest.raises(ConfigError, match="would replace the results of table table; rename it"):
        report.write_table(str(own), results)
    (checkout / "table.toml").write_text(TABLE + 'also = ["cost"]')
    for name in ("table-cost", "published"):
        own = own.rename(tmp_path / f"{name}.toml")
        with pytest.raises(ConfigError, match=f"replace the results of table {name}; rename it"):
            report.write_table(str(own), results)
    own.rename(tmp_path / "mine.v2.toml")
    report.write_table(str(tmp_path / "mine.v2.toml"), results)
    assert (results / "tables" / "mine.v2.md").is_file()


def test_a_results_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"^--results: .*/typo is no folder; run train or table"):
        report.read_results(tmp_path / "typo")


def test_a_second_stage_says_which_settings_its_parent_is_without(checkout, results):
    (checkout.parent / "methods" / "child.toml").write_text(
        'parent = "ce"\nmethod = "retrain_head"\n'
    )
    table = TABLE.replace('"mine"', '"child"') + 'overrides = ["optim.lr=0.1"]'
    (checkout / "table.toml").write_text(table)
    fill_with(results)
    *_, mark = table_frame(results)["marks"]
    assert mark == "second stage, 4 epochs after the 4 of CE, which is without optim.lr=0.1"


def test_one_seed_has_no_deviation(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]"))
    fill_with(results)
    assert rows(report.write_table("table", results))["CE"][2] == "20.0"


def test_an_empty_group_is_a_dash(checkout, results):
    fill_with(results, class_counts=(200, 150, 101, 19))
    grid = rows(report.write_table("table", results))
    assert grid["CE"][1] == "–"
    frame = table_frame(results)
    assert frame["medium_n"].tolist() == [0, 0, 0]
    assert frame["medium_mean"].isna().all()


def test_class_counts_of_exactly_20_and_100_are_medium(checkout, results):
    fill_with(results, class_counts=(101, 100, 20, 19))
    text = report.write_table("table", results)
    assert (
        "many: more than 100 (1 class); medium: 20 to 100 (2 classes); "
        "few: fewer than 20 (1 class)." in text
    )
    assert rows(text)["CE"][:3] == ["90.0 ± 0.0", "65.0 ± 0.0", "25.0 ± 7.1"]


def test_thresholds_are_options_of_the_report(checkout, results):
    rule = 'report = { name = "shots", many = 99, few = 21 }'
    (checkout / "table.toml").write_text(TABLE + rule)
    fill_with(results, class_counts=(101, 100, 20, 19))
    text = report.write_table("table", results)
    assert "many: more than 99 (2 classes); medium: 21 to 99 (0 classes)" in text
    assert rows(text)["CE"][:2] == ["85.0 ± 0.0", "–"]


def test_one_seed_is_not_bold_among_rows_of_several(checkout, results):
    for run in report.cells("table"):
        last = {"ce": 2, "cb": 9 + run.seed, "mine": 10}[run.overlay]
        if (run.overlay, run.seed) != ("mine", 1):
            write(make_record(run, correct=(9, 8, 5, last)), results)
    text = report.write_table("table", results)
    assert rows(text)["mine [a]"][2] == "100.0"
    seeds, images = text.split("Difference to CE, paired by seed, with its 95 % interval over ")[1:]
    assert seeds.startswith("seeds (Student's t, where they differ):")
    assert "mine" not in rows(seeds)
    assert rows(seeds)["CB (batch mean)"][2:] == [
        "+75.0 [+11.5, +138.5]",
        "+18.8 [+2.9, +34.6]",
        "2",
    ]
    assert images.startswith("test images (bootstrap within classes):")
    assert rows(images)["mine"][4] == "1"
    assert rows(images)["CB (batch mean)"][4] == "2"
    (results / "runs" / report.cells("table")[4].run_id / "record.json").unlink()
    assert rows(report.write_table("table", results))["CB (batch mean)"][2].startswith("**95.0**")


def test_two_seeds_beside_one_are_not_bold(checkout, results):
    """One pair has no interval over seeds, whatever the means of two and one are."""
    for run in report.cells("table"):
        if run.overlay != "mine" and (run.overlay, run.seed) != ("ce", 1):
            last = 9 + run.seed if run.overlay == "cb" else 2
            write(make_record(run, correct=(9, 8, 5, last)), results)
    for kind in ("shots", "spread"):
        (checkout / "table.toml").write_text(f'{TABLE}report = "{kind}"')
        text = report.write_table("table", results)
        assert rows(text)["CE [a]"][-1] == "1"
        assert rows(text)["CB (batch mean)"][-1] == "2"
        assert "**" not in text


def test_seeds_of_different_commits_and_second_stages_are_marked(checkout, results):
    (checkout.parent / "methods" / "child.toml").write_text(
        'parent = "ce"\nmethod = "retrain_head"\n[optim]\nepochs = 1'
    )
    (checkout / "table.toml").write_text(TABLE.replace('"mine"', '"child"'))
    for run in report.cells("table"):
        one = make_record(run)
        commit = "b" * 40 if (run.overlay, run.seed) == ("cb", 1) else "a" * 40
        settled = {"tau": 0.5} if run.overlay == "child" else {}
        environment = {**one.environment, "commit": commit}
        write(replace(one, environment=environment, settled=settled), results)
    marks = table_frame(results)["marks"]
    assert marks.tolist() == [
        "",
        "runs of different versions of the code: aaaaaaaa, bbbbbbbb",
        "second stage, 1 epochs after the 4 of CE, tau = 0.5",
    ]
    text = report.write_table("table", results)
    assert "Code: aaaaaaaa, bbbbbbbb." in text
    assert "4 epochs, the last one reported" in text
    parent = report.cells("table")[0]
    write(make_record(parent, dirty=True), results)
    marks = table_frame(results)["marks"]
    assert [mark.startswith("made with uncommitted") for mark in marks] == [True, False, True]


def test_means_that_are_all_equal_are_not_bold(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'report = "spread"')
    fill_with(results, correct=(9, 8, 5, 0))
    assert "**" not in report.write_table("table", results)


def test_a_missing_cell_shows_its_command(checkout, results):
    also = 'overrides = ["optim.lr=0.1"]\nalso = ["spread"]'
    (checkout / "table.toml").write_text(TABLE + also)
    run = report.cells("table")[0]
    write(make_record(run), results)
    text = report.write_table("table", results)
    assert rows(text)["CE [a]"][:2] == ["90.0", "65.0"]
    assert "- [a] 1 of 2 seeds." in text
    assert "CB (batch mean)" not in rows(text)
    told = "5 of 6 runs are missing; `python run.py table table` makes them"
    assert f"{told}, or row by row:" in text
    assert f"{told}.\n" in (results / "tables" / "table-spread.md").read_text()
    assert "Every run with `optim.lr=0.1`." in text
    assert "Every run with optim.lr=0.1. " in (results / "tables" / "table.tex").read_text()
    page = render_page(report.read_results(results))
    assert "<p>Every run with optim.lr=0.1.</p>" in page
    assert (
        "\n".join(
            [
                "```",
                "python run.py train small ce optim.lr=0.1 --seeds 1",
                "python run.py train small cb optim.lr=0.1 --seeds 0 1",
                "python run.py train small mine optim.lr=0.1 --seeds 0 1",
                "```",
            ]
        )
        in text
    )
    assert report.missing("table", results) == report.cells("table")[1:]


def test_a_table_without_records_is_all_missing(checkout, results):
    text = report.write_table("table", results)
    assert "## Missing\n\n6 of 6 runs are missing" in text
    assert rows(text) == {}
    assert report.missing("table", results) == report.cells("table")
    assert not (results / "tables").exists()


def test_a_table_begun_shows_what_there_is(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "small:short"]'))
    for run in report.cells("table"):
        if run.recipe == "small" and run.overlay != "cb" and run.seed == 0:
            write(make_record(run), results)
    text = report.write_table("table", results)
    assert text.count("## Digits-LT") == 1
    assert "All rows: 1 of 2 seeds." in text
    assert set(rows(text.partition("## Missing")[0])) >= {"CE", "mine"}
    assert "## Across" not in text
    assert "10 of 12 runs are missing" in text
    assert r"\label{tab:table-small}" in (results / "tables" / "table.tex").read_text()


def test_ranks_are_of_the_methods_that_every_section_has(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "small:short"]'))
    for run in report.cells("table"):
        better = {"ce": 0, "cb": 1, "mine": 5}[run.overlay]
        if (run.recipe, run.overlay) != ("small:short", "mine"):
            write(make_record(run, correct=(9, 8, 5, 2 + better)), results)
    across = rows(report.write_table("table", results).partition("## Across")[2])
    assert across["CE"] == ["60.0", "60.0", "2.0"]
    assert across["CB (batch mean)"] == ["62.5", "62.5", "1.0"]
    assert across["mine"] == ["72.5", "–", "–"]


def test_parents_come_before_their_children(checkout, results):
    methods = TABLE.replace('["ce", "cb", "mine"]', '["child", "ce"]')
    (checkout / "table.toml").write_text(methods)
    runs = report.cells("table")
    assert [(run.overlay, run.seed) for run in runs] == [
        ("ce", 0),
        ("child", 0),
        ("ce", 1),
        ("child", 1),
    ]
    (checkout / "table.toml").write_text(methods.replace('"child", "ce"', '"child"'))
    assert report.cells("table") == runs
    assert "python run.py train small ce --seeds 0 1\npython run.py train small child" in (
        report.write_table("table", results)
    )


def test_rows_that_do_not_compare_are_marked(checkout, results):
    ce, other_ce, cb, _, mine, _ = report.cells("table")
    fill_with(results)
    write(make_record(ce, dirty=True), results)
    write(make_record(other_ce, compiled=True), results)
    write(make_record(cb, precision="fp32"), results)
    other = make_record(mine)
    write(replace(other, data=replace(other.data, identity={"train": "3" * 64})), results)
    text = report.write_table("table", results)
    assert {"CE [a] [b] [c]", "CB (batch mean) [d]", "mine [e]"} < set(rows(text))
    assert "- [a] made with uncommitted changes to the code." in text
    assert "- [b] computed in bf16 and in compiled bf16; most runs here in bf16." in text
    assert "- [c] runs of different versions of the code: 00000000, 00000000 (changed)." in text
    assert "- [d] computed in bf16 and in fp32; most runs here in bf16." in text
    assert "- [e] other images than the rows around it" in text


def test_uncommitted_states_of_the_code_are_told_apart(checkout, results):
    ce, other_ce, cb, other_cb, *_ = report.cells("table")
    here, other = provenance.code_digest(), "beef" * 4
    write(make_record(ce, dirty=True, code=here), results)
    write(make_record(other_ce, dirty=True, code=other), results)
    write(make_record(cb, code=other), results)  # committed: the table names its commit
    write(make_record(other_cb, dirty=True), results)  # of before records said which code
    assert report.stale("table", results) == [other_ce]
    text = report.write_table("table", results)
    both = f"00000000 (changed: beefbeef), 00000000 (changed: {here[:8]})"
    assert f"runs of different versions of the code: {', '.join(sorted(both.split(', ')))}" in text


def test_a_mark_that_all_rows_share_stands_above_them(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('"small"', '"small:short"'))
    fill_with(results, commit=None, dirty=None)
    text = report.write_table("table", results)
    assert (
        "All rows: made outside a git checkout: the code's version is not known; "
        "short recipe: 2 epochs, the full one has 4." in text
    )
    assert "CE" in rows(text)
    frame = table_frame(results)
    assert frame["marks"].str.contains("short recipe").all()


@pytest.mark.parametrize(
    ("recipe", "overrides", "full"),
    [
        ("cifar100_lt:short", (), 200),
        ("cifar100_lt:eql:short", (), 337),
        ("cifar100_lt:eql", ("optim.epochs=250",), 337),
        ("cifar100_lt:eql", (), None),
        ("inat2018:epochs200", (), None),
    ],
)
def test_the_full_length_is_that_of_the_variants(recipe, overrides, full):
    config = load(recipe, "ce", overrides)
    assert (tables.shortened(config) is None) == (full is None)
    assert full in (None, tables._full_epochs(config))


def test_a_run_of_full_length_is_not_marked_short(checkout, results):
    fill_with(results)
    assert "short" not in report.write_table("table", results)


def test_the_heading_says_what_was_run(checkout, results):
    fill_with(results, device="cpu, 2 threads", cpu="A|CPU", precision="fp32")
    text = report.write_table("table", results)
    assert "## Digits-LT (imbalance factor 50), recipe `small`" in text
    assert (
        "4 epochs, the last one reported; batch 128, learning rate 0.05, augmentation: none."
        in text
    )
    assert "339 training images, 40 in the test split." in text
    assert "Ran on A\\|CPU (cpu, 2 threads), fp32." in text


def test_sdn_rows_name_both_objectives(checkout, results):
    (checkout / "methods").mkdir(exist_ok=True)
    two = TABLE.replace('["ce", "cb", "mine"]', '["sdn_recall", "sdn_again"]')
    (checkout / "table.toml").write_text(two)
    (checkout.parent / "methods" / "sdn_again.toml").write_text(SDN + "beta = 0.9")
    with pytest.raises(ConfigError, match="objective.beta: no such field"):
        report.cells("table")
    (checkout.parent / "methods" / "sdn_again.toml").write_text(SDN + "reduction = 'mean'")
    fill_with(results)
    names = set(rows(report.write_table("table", results)))
    # two overlays of one name are told apart
    assert "SDN (rep: recall, cls: CB) (sdn_recall)" in names
    assert "SDN (rep: recall, cls: CB) (sdn_again)" in names


def test_recipes_have_a_section_each(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "small:short"]'))
    fill_with(results)
    text = report.write_table("table", results)
    assert text.count("## Digits-LT") == 2
    frame = table_frame(results)
    assert frame["section"].tolist() == ["small"] * 3 + ["small:short"] * 3


def test_a_table_varies_a_setting_in_sections(checkout, results):
    vary = 'vary = ["data.subset_seed=1", "data.subset_seed=2", "data.subset_seed=3"]'
    (checkout / "table.toml").write_text(TABLE + vary)
    for run in report.cells("table"):
        subset = run.data.options["subset_seed"]
        better = 2 if run.overlay == "cb" else 0
        write(make_record(run, correct=(9, 8, 5 + subset, 2 + run.seed + better)), results)
    text = report.write_table("table", results)
    assert "recipe `small` with `data.subset_seed=1`" in text
    across = rows(text.partition("## Across")[2])
    seeds = 2.5 * 2**0.5 / 2  # of 1 image in 40 between two seeds
    assert across["CE"][:2] + across["CE"][3:5] == ["63.7", "66.3", "2.5", f"{seeds:.1f}"]
    # of the means of two seeds, without the seeds' share
    assert float(across["CE"][5]) == pytest.approx((2.5**2 - seeds**2 / 2) ** 0.5, abs=0.06)
    assert across["CB (batch mean)"][:2] + across["CB (batch mean)"][3:4] == ["68.8", "71.2", "1.0"]
    captions = re.findall(r"\\caption{.*", (results / "tables" / "table.tex").read_text())
    for seed, caption in enumerate(captions, start=1):
        assert rf", data.subset\_seed={seed}. " in caption
    assert len(captions) == 3
    one = next(run for run in report.cells("table") if run.overlay == "ce")
    (results / "runs" / one.run_id / "record.json").unlink()
    across = rows(report.write_table("table", results).partition("## Across")[2])
    assert across["CE"][:2] == ["65.0 (n = 1)", "66.3 (n = 2)"]
    assert across["CB (batch mean)"][:1] == ["68.8"]
    (checkout / "table.toml").write_text(TABLE + 'vary = ["optim.lr=0.1", "optim.lr=0.2"]')
    fill_with(results)
    assert "sd over" not in report.write_table("table", results)  # no draws of one thing
    (checkout / "table.toml").write_text(TABLE + 'vary = ["seed=1"]')
    with pytest.raises(ConfigError, match="vary: 'seed=1' has no effect; write it in seeds"):
        report.cells("table")


def test_further_reports_of_the_same_runs_are_tables_of_their_own(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'also = ["spread", "cost"]')
    fill_with(results)
    names = {path.name for path in report.report(report.read_results(results))}
    assert {"table.md", "table-spread.md", "table-cost.csv", "table-spread.tex"} < names
    assert report.check(report.read_results(results)) == []
    (results / "tables" / "table-spread.md").unlink()
    assert len(report.check(report.read_results(results))) == 1


def test_a_child_of_a_short_parent_is_marked_short(checkout, results):
    child = TABLE.replace('["ce", "cb", "mine"]', '["child"]').replace('"small"', '"small:short"')
    (checkout.parent / "methods" / "child.toml").write_text(
        'parent = "ce"\nmethod = "retrain_head"\n[optim]\nepochs = 1'
    )
    (checkout / "table.toml").write_text(child)
    fill_with(results)
    marks = table_frame(results)["marks"]
    assert marks.tolist() == [
        "second stage, 1 epochs after the 2 of CE; short recipe: 2 epochs, the full one has 4"
    ]


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


# --- drift ---


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
