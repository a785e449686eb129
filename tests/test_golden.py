"""The golden runner, and through it every published number we hold (values and gradients)."""

import copy
import json
from pathlib import Path

import pytest

from tests import golden

FILE = Path(__file__).parents[1].parent / "shared" / "reference" / "golden.json"
CASES = json.loads(FILE.read_text(encoding="utf-8"))["cases"] if FILE.exists() else []
NEEDS_FILE = pytest.mark.skipif(not CASES, reason="the golden file is not beside the checkout")

TINY = {
    "id": "balanced_softmax/tiny",
    "loss": "balanced_softmax",
    "hparams": {},
    "class_counts": [1, 1],
    "logits": [[0.0, 0.0]],
    "labels": [0],
    "expected": {"loss": 0.6931471805599453, "grad": [[-0.5, 0.5]]},
}


@NEEDS_FILE
@pytest.mark.parametrize("dtype", golden.TOLERANCE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_golden_case(case, dtype):
    assert golden.failures(case, dtype) == []


@NEEDS_FILE
def test_every_kind_of_case_is_in_the_file():
    assert {case["loss"] for case in CASES} == set(golden.KINDS)


def run(tmp_path, capsys, cases, *arguments):
    path = tmp_path / "cases.json"
    path.write_text(json.dumps({"cases": cases}), encoding="utf-8")
    status = golden.main([str(path), *arguments])
    return status, capsys.readouterr().out


def changed(**expected):
    case = copy.deepcopy(TINY)
    case["expected"] |= expected
    return case


def test_a_right_case_passes(tmp_path, capsys):
    assert run(tmp_path, capsys, [TINY]) == (0, "1 passed, 0 failed\n")


@pytest.mark.parametrize(
    "expected",
    [
        {"loss": 0.693147182},
        {"loss": "nan"},
        {"grad": [[-0.5, 0.5 + 1e-8]]},
        {"grad": [[-0.5], [0.5]]},
        {"grad": "zeros"},
        {"margins": [0.5, 0.5]},
    ],
    ids=str,
)
def test_a_wrong_case_fails_by_its_id(tmp_path, capsys, expected):
    status, out = run(tmp_path, capsys, [TINY, changed(**expected)])
    assert status == 1
    assert out.startswith(f"balanced_softmax/tiny: {next(iter(expected))}")
    assert out.endswith("1 passed, 1 failed\n")


def test_an_unknown_loss_fails(tmp_path, capsys):
    status, out = run(tmp_path, capsys, [TINY | {"id": "new/1", "loss": "new"}])
    assert (status, out) == (1, "new/1: unknown loss 'new'\n0 passed, 1 failed\n")


def test_only_selects_by_loss(tmp_path, capsys):
    other = TINY | {"loss": "new"}
    assert run(tmp_path, capsys, [TINY, other], "--only", "balanced_softmax,ce")[0] == 0


def test_a_case_that_raises_fails_alone(tmp_path, capsys):
    broken = TINY | {"id": "broken", "labels": [7]}
    status, out = run(tmp_path, capsys, [broken, TINY])
    assert status == 1
    assert "broken: RuntimeError: index 7 is out of bounds" in out
    assert out.endswith("1 passed, 1 failed\n")


def test_recommended_replaces_what_the_published_code_does(tmp_path, capsys):
    case = changed(loss="nan") | {"recommended": {"loss": 0.6931471805599453}}
    assert run(tmp_path, capsys, [case])[0] == 0
    case["recommended"] = {"loss": 0.7, "grad": "zeros"}
    assert run(tmp_path, capsys, [case])[0] == 1


def test_nan_equals_nan_and_infinities_are_read(tmp_path, capsys):
    hopeless = TINY | {"class_counts": [0, 1]}
    assert run(tmp_path, capsys, [hopeless | {"expected": {"loss": "inf"}}])[0] == 0
    assert run(tmp_path, capsys, [hopeless | {"expected": {"loss": "-inf"}}])[0] == 1
    not_a_number = TINY | {"logits": [["nan", 0.0]], "expected": {"loss": "nan"}}
    assert run(tmp_path, capsys, [not_a_number])[0] == 0


@pytest.mark.parametrize("text", ["", "[]", '{"meta": {}}'])
def test_a_file_of_another_kind_is_refused(tmp_path, capsys, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as end:
        golden.main([str(path)])
    assert end.value.code == 2
    assert "not a file of golden cases" in capsys.readouterr().err
