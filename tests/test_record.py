"""Records: round trip, provenance and refusals."""

import base64
import json
import subprocess
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lt_bench import metrics, provenance, record
from lt_bench.config import load
from lt_bench.errors import DataError
from lt_bench.record import Record, decode_labels, encode_labels, read, read_all, write
from lt_bench.reports import report
from tests.synthetic import changed, make_record


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
