"""verify: what is said of a repeated run, and that a digits run repeats to the bit."""

from dataclasses import replace

import pytest

from lt_bench import cli
from lt_bench.config import load
from lt_bench.errors import RunError
from lt_bench.record import read, write
from lt_bench.reports.agreement import agreement
from tests.synthetic import make_record

RUN = ["digits_lt", "ce", "optim.epochs=1", "optim.schedule=constant"]


@pytest.fixture
def pair(checkout):
    config = load("small", "ce")
    return make_record(config), make_record(config, correct=(9, 8, 5, 4))


def test_a_repetition_to_the_bit_is_identical(pair):
    one, _ = pair
    found = agreement(one, replace(one, seconds=99.0))
    assert found.lines == (
        "identical: the losses of every epoch and the prediction for every image",
    )
    was, now = ({**one.environment, "compiled": on} for on in (False, True))
    assert agreement(one, replace(one, environment=was)).lines == found.lines
    told = agreement(one, replace(one, environment=now)).lines
    assert told == ("compiled: None then, True now", *found.lines)


def test_a_difference_is_told_in_points(pair):
    one, other = pair
    found = agreement(one, other)
    assert found.points == pytest.approx(5.0)
    assert found.within(5.0)
    assert not found.within(4.9)
    assert found.lines == (
        "all: 60.00 then, 65.00 now (+5.00)",
        "many: 90.00 then, 90.00 now (+0.00)",
        "medium: 65.00 then, 65.00 now (+0.00)",
        "few: 20.00 then, 40.00 now (+20.00)",
        "the same prediction for 95.0 % of the test images",
        "no agreement within 10 points",
    )


def test_equal_scores_of_another_training_are_not_identical(pair):
    one, _ = pair
    epochs = (replace(one.history[0], loss=2.0), *one.history[1:])
    found = agreement(one, replace(one, history=epochs))
    assert not any("identical" in line for line in found.lines)
    assert found.lines[-1] == "every score agrees within 0.1 points"


def test_other_images_never_agree(pair):
    one, _ = pair
    other = replace(one, data=replace(one.data, identity={"train": "5" * 64, "test": "2" * 64}))
    found = agreement(one, other)
    assert not found.within(100.0)
    assert found.lines == (
        "other images: the identity of the data differs, so the scores do not compare",
    )


def test_another_machine_is_named(pair):
    one, _ = pair
    other = replace(one, environment={**one.environment, "precision": "fp32"})
    assert agreement(one, other).lines[0] == "precision: bf16 then, fp32 now"
    other = replace(one, environment={**one.environment, "cpu": "another", "ranks": 8})
    assert agreement(one, other).lines[:2] == (
        f"cpu: {one.environment.get('cpu')} then, another now",
        "ranks: 1 then, 8 now",
    )
    older = {key: value for key, value in one.environment.items() if key != "ranks"}
    again = replace(one, environment={**older, "ranks": 1})
    assert agreement(replace(one, environment=older), again).lines[0].startswith("identical")


def test_verify_repeats_a_run_and_finds_a_number_that_was_edited(tmp_path, capsys):
    assert cli.main(["train", *RUN, "--results", str(tmp_path)]) == 0
    (path,) = (tmp_path / "runs").glob("*/record.json")
    run_id = path.parent.name
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert cli.main(["verify", run_id, "--results", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("identical")
    assert sorted(tmp_path.rglob("*")) == before  # nothing is written beside the record
    one = read(path)
    better = make_record(
        load(RUN[0], RUN[1], RUN[2:]),
        total=one.test.total,
        correct=one.test.total,
        class_counts=one.data.class_counts,
    )
    write(replace(one, test=better.test), tmp_path)
    assert cli.main(["verify", run_id, "--results", str(tmp_path)]) == cli.FAILED_RUN
    assert "no agreement within 10 points" in capsys.readouterr().out


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_verify_repeats_in_the_recorded_precision_within_a_tolerance(precision, tmp_path, capsys):
    results = ["--results", str(tmp_path)]
    assert cli.main(["train", *RUN, "--precision", precision, *results]) == 0
    (path,) = (tmp_path / "runs").glob("*/record.json")
    one = read(path)
    assert one.environment["precision"] == precision
    pairs = zip(one.test.correct, one.test.total, strict=True)
    half = [(right + total) // 2 for right, total in pairs]
    better = make_record(
        load(RUN[0], RUN[1], RUN[2:]),
        total=one.test.total,
        correct=half,
        class_counts=one.data.class_counts,
    )
    other = replace(one, test=better.test)
    write(other, tmp_path)
    points = agreement(one, other).points
    capsys.readouterr()
    for tolerance, status in ((points - 0.5, cli.FAILED_RUN), (points + 0.5, 0)):
        command = ["verify", one.run_id, "--tolerance", str(tolerance), *results]
        assert cli.main(command) == status
        assert "precision: " not in capsys.readouterr().out


def test_a_repetition_that_fails_names_no_folder_that_is_gone(tmp_path, capsys, monkeypatch):
    assert cli.main(["train", *RUN, "--results", str(tmp_path)]) == 0
    (path,) = (tmp_path / "runs").glob("*/record.json")

    def fail(config, *_, **__):
        raise RunError("loss is nan")

    monkeypatch.setattr("lt_bench.running.run", fail)
    capsys.readouterr()
    assert cli.main(["verify", path.parent.name, "--results", str(tmp_path)]) == cli.FAILED_RUN
    assert capsys.readouterr().err.splitlines() == [f"{path.parent.name}: loss is nan"]


def test_a_changed_configuration_is_refused(tmp_path, capsys):
    one = make_record(load("digits_lt", "ce"))
    digest = "ab" * 32
    run_id = one.run_id.replace(one.digest[:8], digest[:8])
    write(replace(one, digest=digest, run_id=run_id), tmp_path)
    assert cli.main(["verify", run_id, "--results", str(tmp_path)]) == cli.USER_MISTAKE
    assert "its configuration has changed since" in capsys.readouterr().err


@pytest.mark.parametrize("right", range(480, 500))
def test_one_image_of_five_hundred_is_two_tenths_of_a_point(checkout, right):
    """However the two quotients round."""
    config = load("small", "ce")
    counts = {"class_counts": (200, 150), "total": (500, 500)}
    one, other = (make_record(config, correct=(n, n), **counts) for n in (right, right - 1))
    found = agreement(one, other)
    assert found.within(0.2)
    assert found.lines[-1] == "every score agrees within 0.2 points"
