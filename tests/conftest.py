"""Fixtures of several test files."""

import pytest

from lt_bench.data import lists
from lt_bench.data.benchmarks import BENCHMARKS
from tests import trees


@pytest.fixture
def mini_lists(tmp_path, monkeypatch):
    """`data_lists/` of the miniature trees in place of the committed one."""
    folder = tmp_path / "data_lists"
    for name in BENCHMARKS:
        trees.write_lists(name, folder)
    monkeypatch.setattr(lists, "LISTS", folder)
    return folder
