"""The command line as a user meets it: what is printed, where, and the exit status."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lt_bench import provenance
from lt_bench.cli import FAILED_RUN, _row, main
from lt_bench.config import load, names
from lt_bench.errors import RunError
from lt_bench.record import read_all, record_path, write
from tests.synthetic import make_record

ROOT = Path(__file__).parents[1]
SHORT = ["optim.epochs=1"]


def run(capsys, *argv):
    """Exit status, standard output and standard error of one command in this process."""
    try:
        status = main(list(argv))
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


def mistake(capsys, *argv):
    """The lines on standard error of a command that is the user's mistake."""
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    return err.splitlines()


def process(*argv, block=(), **environment):
    """The command as a process of its own, with some modules made unimportable."""
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in block)
    code = f"import sys\n{blocked}sys.argv = ['run.py', *{list(argv)!r}]\n"
    code += "from lt_bench.cli import main\nsys.exit(main())"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_data_root(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("LT_BENCH_DATA", raising=False)
    (line,) = mistake(capsys, "train", "cifar100_lt", "ce", "--results", str(tmp_path))
    assert line.startswith("data root: ")
    assert "--data-root" in line
    (line,) = mistake(
        capsys,
        "train",
        "cifar100_lt",
        "ce",
        "--data-root",
        str(tmp_path),
        "--results",
        str(tmp_path),
    )
    assert line.startswith("data root: ")
    assert str(tmp_path) in line
    assert list(tmp_path.rglob("record.json")) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "meta"], "--device: 'meta' is not supported; write cpu, cuda or cuda:0"),
        (["--device", "cuda:99"], "--device: 'cuda:99' is not available here; use --device cpu"),
    ],
)
def test_a_device_or_precision_that_is_not_to_be_had(capsys, flags, message):
    assert mistake(capsys, "train", "digits_lt", "ce", *flags) == [message]


def test_device_cuda_without_one(capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert mistake(capsys, "train", "digits_lt", "ce", "--device", "cuda") == [
        "--device: 'cuda' is not available here; use --device cpu"
    ]


def test_train_prints_a_row_and_a_finished_run_is_not_repeated(capsys, tmp_path):
    command = ["train", "digits_lt", "ce", *SHORT, "--seeds", "0", "1", "--results", str(tmp_path)]
    status, first, err = run(capsys, *command)
    assert status == 0
    assert [line.split(":")[0] for line in first.splitlines()] == [
        "digits_lt ce seed 0",
        "digits_lt ce seed 1",
    ]
    before = [record.seconds for record in read_all(tmp_path)]
    status, again, _ = run(capsys, *command)
    assert (status, again) == (0, first)
    assert [record.seconds for record in read_all(tmp_path)] == before
    run(capsys, *command, "--again")
    assert [record.seconds for record in read_all(tmp_path)] != before


def test_flags_and_overrides_in_any_order(capsys, tmp_path):
    status, out, _ = run(
        capsys, "train", "--results", str(tmp_path), "digits_lt", "ce", "--device", "cpu", *SHORT
    )
    assert status == 0
    assert out.startswith("digits_lt ce seed 0:  many ")


def test_show_says_where_each_value_comes_from(capsys):
    status, out, _ = run(capsys, "show", "cifar100_lt:short", "ldam_drw", "optim.lr=0.2")
    assert status == 0
    lines = {line.split(" = ")[0]: line for line in out.splitlines()}
    assert lines["optim.lr"].endswith("# command line: optim.lr=0.2")
    assert lines["optim.epochs"].endswith("# configs/cifar100_lt.toml [variants.short]")
    assert lines["head.name"].endswith("# configs/methods/ldam_drw.toml")
    assert lines["optim.nesterov"].endswith("# default")
    assert "parent" not in lines


def test_data_check_says_whether_a_run_could_start(capsys, tmp_path):
    status, out, _ = run(capsys, "data", "check", "digits_lt")
    assert status == 0
    assert out.splitlines()[-1] == "a run can start"
    status, out, _ = run(capsys, "data", "check", "cifar10_lt", "--data-root", str(tmp_path))
    assert status == 2
    assert "170 MB" in out
    assert "--download" in out


@pytest.mark.parametrize("name", names("configs/tables"))
def test_every_table_resolves_its_runs(capsys, tmp_path, name):
    status, out, _ = run(capsys, "table", name, "--dry-run", "--results", str(tmp_path))
    assert status == 0
    commands = out.splitlines()
    assert commands
    assert all(line.startswith("python run.py train ") for line in commands)


def test_what_was_made_by_code_edited_since_is_told(capsys, caplog, tmp_path, monkeypatch):
    table = tmp_path / "mine.toml"
    table.write_text('title = "mine"\nrecipes = ["digits_lt"]\nmethods = ["ce"]\nseeds = [0]\n')
    one = make_record(load("digits_lt", "ce"), dirty=True, code=provenance.code_digest())
    write(one, tmp_path)
    caplog.set_level("INFO")

    def said(*argv):
        caplog.clear()
        assert run(capsys, *argv, "--results", str(tmp_path))[0] == 0
        return caplog.messages

    dry, train = ("table", str(table), "--dry-run"), ("train", "digits_lt", "ce")
    code = f"00000000 (changed: {provenance.code_digest()[:8]})"
    assert said(*dry) == ["every run is on record"]
    assert said(*train)[0] == f"{one.run_id}: on record, by code {code}; --again repeats it"
    monkeypatch.setattr(provenance, "code_digest", lambda: "beef" * 4)
    again = f"python run.py train digits_lt ce seed=0 --again --results {tmp_path}"
    other = f"{one.run_id}: of uncommitted code that is not the code here: {again}"
    assert said(*dry) == [other, "every run is on record"]
    assert f"by code {code}, which is not the code here; --again repeats it" in said(*train)[0]


def test_a_damaged_record_is_not_on_record(capsys, tmp_path):
    one = make_record(load("digits_lt", "ce"))
    write(one, tmp_path)
    path = record_path(tmp_path, one.run_id)
    path.write_text(path.read_text()[:400])
    status, _, err = run(capsys, "table", "quick", "--dry-run", "--results", str(tmp_path))
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith(str(path))


HEAVY = ("torch", "torchvision", "timm", "sklearn")


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    command = [sys.executable, "run.py", "table", "cifar100", "--dry-run"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        it.stdout.close()  # long before the first line comes
        assert it.stderr.read() == b""
    assert it.returncode == 141


def test_a_failure_on_the_way_is_one_line_of_every_verb(capsys, monkeypatch, tmp_path):
    def fail(*_):
        raise RunError("a.png: the process that reads images ended here")

    monkeypatch.setattr("lt_bench.predictions.predict", fail)
    assert main(["predict", "some-run", str(tmp_path)]) == FAILED_RUN
    assert capsys.readouterr().err == "a.png: the process that reads images ended here\n"


def test_help_report_and_a_finished_table_need_no_torch(tmp_path):
    for argv in (["--help"], ["table", "--help"], ["report", "--results", str(tmp_path)]):
        done = process(*argv, block=HEAVY)
        assert done.returncode == 0, done.stderr
    text = process("--help").stdout
    for verb in ("train", "table", "report", "data", "show", "bench", "verify", "predict"):
        assert f"\n  {verb} " in text


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from lt_bench.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted(set(sys.modules) & {set((*HEAVY, 'pandas', 'matplotlib', 'numpy'))!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_without_a_terminal_each_epoch_is_a_line(tmp_path):
    done = process("train", "digits_lt", "sdn_ce", "optim.epochs=2", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert "epoch 2/2" in lines[1]
    for term in ("loss", "representation", "classifier", "lr"):
        assert f"  {term} " in lines[1]


def test_the_row_of_an_unbalanced_test_split_has_the_mean_over_classes():
    config = load("digits_lt", "ce")
    record = make_record(config, correct=(30, 8, 5, 2), total=(30, 10, 10, 10), val=(8, 6, 4, 2))
    row = _row(record)
    assert row.startswith("digits_lt ce seed 0:  many 100.0  medium 65.0  few 20.0  all 75.0")
    assert "  balanced 62.5  validation 50.0  (" in row
    assert "balanced" not in _row(make_record(config))
