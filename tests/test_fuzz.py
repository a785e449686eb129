"""Whatever a file or an argument holds, it is taken or refused in plain lines, and soon.

A few examples of each kind in the suite; `pytest -m slow tests/test_fuzz.py` tries 2,000.
"""

import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lt_bench import config as config_module
from lt_bench.assembly import TABLES, prepare
from lt_bench.checkpoint import Checkpoint, load_model
from lt_bench.config import ROOT
from lt_bench.data.folder import folder
from lt_bench.errors import UserError
from lt_bench.usage import Usage

SOON = timedelta(seconds=10)

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, -1, 0.5, 2**63, 10**400, float("inf"), float("nan")]),
)
words = st.one_of(
    st.text(max_size=20),
    st.sampled_from([name for table in TABLES.values() for name in table]),
    st.sampled_from(
        ["..", "/etc/passwd", "ce.toml", "\x00", "\ud800", "[" * 2000, "'", '"', "<b>"]
    ),
)
FIELDS = (
    "name loss weighting reduction head options epochs batch_size lr momentum schedule milestones "
    "factors data imbalance_factor imb_factor backbone model method objective representation "
    "augment sampler optim parent seed start gamma beta variants for digest recipe"
)
fields = st.sampled_from(FIELDS.split(" "))
keys = st.one_of(fields, words)
values = st.recursive(
    st.one_of(numbers, words, st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)


def toml(value):
    """A value as TOML, or as something near it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool | int | float) else quoted(str(value))


def quoted(text):
    return json.dumps(text)


dotted = st.lists(fields, min_size=1, max_size=3).map(".".join)
settings_in_files = st.builds(
    lambda recipe, more: recipe + "\n" + "\n".join(f"{k} = {toml(v)}" for k, v in more),
    st.sampled_from(
        ["", *((ROOT / "configs" / name).read_text("utf-8") for name in ("digits_lt.toml",))]
    ),
    st.lists(st.tuples(st.one_of(dotted, keys.map(quoted)), values), max_size=4),
)
KEYS = (
    "seed optim.lr optim.epochs optim.schedule optim.schedule.milestones data data.name "
    "data.imbalance_factor objective.loss objective.loss.gamma objective.weighting head method "
    "sampler augment backbone backbone.name representation parent"
)
real_keys = st.sampled_from(KEYS.split(" "))
overrides = st.lists(
    st.one_of(
        words,
        st.builds("{}={}".format, real_keys, st.one_of(values.map(toml), words)),
        st.builds("{}={}".format, st.one_of(dotted, words), words),
    ),
    max_size=4,
)
lines = st.one_of(
    st.text(max_size=40),
    st.builds("{} {}".format, words, st.one_of(numbers, words)),
    st.builds("{:x}.jpg {}".format, st.integers(0, 50), st.integers(0, 9)),
)
list_texts = st.one_of(
    st.lists(lines, max_size=8).map("\n".join).map(lambda s: s.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: b"\x1f\x8b\x08" + tail),
)


def plainly(call):
    """Run it; what it refuses, it refuses in short single lines."""
    problems = ("nothing was refused",)
    try:
        call()
    except UserError as error:
        problems = error.problems
    assert problems
    assert all(0 < len(problem) < 2000 and problem.isprintable() for problem in problems)


def a_recipe(text, tmp_path):
    (tmp_path / "case.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    plainly(lambda: prepare(str(tmp_path / "case.toml"), "ce"))


def an_overlay(text, tmp_path):
    (tmp_path / "case.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    plainly(lambda: prepare("digits_lt", str(tmp_path / "case.toml")))


def some_overrides(arguments, tmp_path):
    plainly(lambda: prepare("digits_lt", "focal", arguments))


def a_list(content, tmp_path):
    (tmp_path / "train.txt").write_bytes(content)
    plainly(lambda: folder(tmp_path))


def tensors(content, tmp_path):
    for name in ("model.pt", "checkpoint.pt"):
        (tmp_path / name).write_bytes(content)
    plainly(lambda: load_model(tmp_path / "model.pt"))
    usage = Usage(torch.device("cpu"))
    plainly(Checkpoint(tmp_path / "checkpoint.pt", {}, 60, usage).read)


KINDS = {
    "recipe": (settings_in_files, a_recipe),
    "overlay": (settings_in_files, an_overlay),
    "overrides": (overrides, some_overrides),
    "list": (list_texts, a_list),
    "tensors": (st.binary(max_size=200), tensors),
}


@pytest.mark.parametrize(
    "examples", [pytest.param(30, id="few"), pytest.param(2000, id="many", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_anything_is_taken_or_refused_plainly(kind, examples, tmp_path):
    strategy, check = KINDS[kind]

    @settings(
        max_examples=examples,
        deadline=SOON,
        suppress_health_check=list(HealthCheck),
        derandomize=examples < 100,
    )
    @given(strategy)
    def holds(value):
        check(value, tmp_path)

    holds()
    allowed = {"case.toml", "train.txt", "model.pt", "checkpoint.pt"}
    assert {path.name for path in Path(tmp_path).rglob("*")} <= allowed


def test_a_traceback_would_be_noticed(monkeypatch, tmp_path):
    def broken(text):
        raise KeyError(text)

    monkeypatch.setattr(config_module, "_parse_override", broken)
    with pytest.raises(KeyError):
        some_overrides(["seed=1"], tmp_path)


def test_a_name_longer_than_any_file_is_unknown(tmp_path):
    some_overrides(["parent=" + "[" * 2000], tmp_path)
