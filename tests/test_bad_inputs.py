"""Broken and hostile inputs by name: each ends a command with its one expected message.

The corpus is in tests/bad/, a file per kind; a case says what to put where, or what to ask for.
"""

import base64
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from lt_bench import cli
from lt_bench.assembly import load_data, prepare
from lt_bench.record import write
from tests.synthetic import make_record
from tests.test_data_files import TINY
from tests.test_data_folder import fill

CORPUS = Path(__file__).parent / "bad"
CASES = {
    f"{path.stem}: {name}": (path.stem, case)
    for path in sorted(CORPUS.glob("*.toml"))
    for name, case in tomllib.loads(path.read_text(encoding="utf-8")).items()
}


def prepared(kind, case, tmp_path):
    """Put the case's file where it belongs; the command that meets it."""
    results = ["--results", str(tmp_path / "results")]
    if kind == "arguments":
        return [word.format(tmp=tmp_path) for word in case["argv"]]
    if kind == "overrides":
        return ["show", "digits_lt", case.get("method", "ce"), *case["overrides"]]
    if kind == "configs":
        put(tmp_path / "case.toml", case)
        return ["show", str(tmp_path / "case.toml"), "ce"]
    if kind == "overlays":
        put(tmp_path / "case.toml", case)
        return ["show", "digits_lt", str(tmp_path / "case.toml")]
    if kind == "lists":
        put(tmp_path / "train.txt", case)
        return ["train", "folder", "ce", "--data-root", str(tmp_path), *results]
    if kind == "images":
        fill(tmp_path, {"a": 3, "b": 3})
        put(tmp_path / case["path"], case)
        return ["train", "folder", "ce", *TINY, "--data-root", str(tmp_path), *results]
    if kind == "cifar":
        put(tmp_path / case["path"], case)
        return ["train", "cifar10_lt", "ce", "--data-root", str(tmp_path), *results]
    crt = prepare("digits_lt", "crt")
    assert crt.parent is not None
    if kind == "models":
        record = make_record(crt.parent)
        data = replace(record.data, identity=dict(load_data(crt.data, None).identity))
        path = write(replace(record, data=data), tmp_path / "results")
        put(path.with_name("model.pt"), case)
        return ["train", "digits_lt", "crt", *results]
    assert kind == "checkpoints"
    put(tmp_path / "results" / "runs" / crt.parent.run_id / "checkpoint.pt", case)
    return ["train", "digits_lt", "ce", *results]


def put(path, case):
    path.parent.mkdir(parents=True, exist_ok=True)
    if "base64" in case:
        path.write_bytes(base64.b64decode(case["base64"]))
    else:
        path.write_bytes(case["text"].encode() * case.get("repeat", 1))


def settled(message):
    """Without what a new method, module, recipe or release of Pillow changes in a message."""
    message = re.sub(r"known: [^\n]*", "known: ...", message)
    message = re.sub(r"choose from [^)]*", "choose from ...", message)
    message = re.sub(r"(?<=another ).* and \d+ more", "...", message)
    message = re.sub(r"\d+ bytes not processed", "... bytes not processed", message)
    return re.sub(r"-s0-[0-9a-f]{8}", "-s0-DIGEST", message)


@pytest.mark.parametrize("name", CASES)
def test_a_bad_input_ends_in_its_one_message(name, tmp_path, monkeypatch, capsys):
    kind, case = CASES[name]
    argv = prepared(kind, case, tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    try:
        status = cli.main(argv)
    except SystemExit as exit_:  # how argparse ends
        status = exit_.code
    said = capsys.readouterr()
    assert settled(said.err.replace(str(tmp_path), "TMP").strip()) == settled(case["says"])
    assert status == 2
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert {path.name for path in written} <= {"events.jsonl"}
