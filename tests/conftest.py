"""Fixtures that more than one file uses."""

import signal
from pathlib import Path

import pytest
import torch

from lt_bench import config as config_module
from lt_bench.data import lists
from lt_bench.data.benchmarks import BENCHMARKS
from lt_bench.reports import report
from tests import trees
from tests.synthetic import RECIPE, SDN, TABLE

# the tests' tensors are small: threads would only wait for one another
torch.set_num_threads(1)
# which a shell has what runs in its background ignore: tests that interrupt would wait for ever
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def a_gpu_where_a_test_asks_for_one(request, monkeypatch):
    """All others run on the CPU, to the bit, whatever the machine has."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # of processes that they start


@pytest.fixture(scope="session")
def committed():
    """The records and tables of this checkout, whose reading takes seconds."""
    return report.read_results(Path(__file__).parents[1] / "results")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a few configurations of its own; returns its folder of tables."""
    methods, tables = tmp_path / "configs" / "methods", tmp_path / "configs" / "tables"
    methods.mkdir(parents=True)
    tables.mkdir()
    (tmp_path / "configs" / "small.toml").write_text(RECIPE)
    (methods / "ce.toml").write_text("")
    (methods / "cb.toml").write_text('[objective]\nweighting = "effective_number"')
    (methods / "mine.toml").write_text('[objective]\nloss = { name = "focal", gamma = 3.0 }')
    (methods / "sdn_recall.toml").write_text(SDN)
    (methods / "child.toml").write_text('parent = "ce"\nmethod = "retrain_head"')
    (tables / "table.toml").write_text(TABLE)
    monkeypatch.setattr(config_module, "ROOT", tmp_path)
    return tables


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def mini_lists(tmp_path, monkeypatch):
    """`data_lists/` of the miniature trees in place of the committed one."""
    folder = tmp_path / "data_lists"
    for name in BENCHMARKS:
        trees.write_lists(name, folder)
    monkeypatch.setattr(lists, "LISTS", folder)
    return folder
