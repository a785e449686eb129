"""Imports go down: a module imports only from lower floors (README, the tree)."""

import ast
import graphlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lt_bench"
FLOORS = {
    **dict.fromkeys(["progress", "metrics", "errors", "kernels"], 0),
    "schema": 1,
    **dict.fromkeys(["arguments", "config", "runtime", "class_vectors", "files", "usage"], 2),
    **dict.fromkeys(["losses", "samplers", "optim", "models", "data", "record", "checkpoint"], 3),
    **dict.fromkeys(["display", "provenance"], 3),
    **dict.fromkeys(["weighting", "compiled", "reports"], 4),
    "methods": 5,
    **dict.fromkeys(["assembly", "train", "evaluate"], 6),
    "experiment": 7,
    **dict.fromkeys(["bench", "data_actions", "predictions", "running"], 8),
    "cli": 9,
}
# packages whose own modules may import one another
TOGETHER = ("models", "data", "reports", "bench")


def imported(source: str) -> list[str]:
    """The dotted names of this package that a module imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith("lt_bench.")]


def upward_imports(path: Path, source: str) -> list[str]:
    """The imports of one module that are not from a lower floor."""
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    others = [name.split(".")[1] for name in imported(source)]
    return [
        f"{own} (floor {FLOORS[own]}) imports {other} ({FLOORS[other]})"
        for other in others
        if other in FLOORS
        and not (FLOORS[other] < FLOORS[own] or (other == own and own in TOGETHER))
    ]


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_go_down(path):
    if path == PACKAGE / "__init__.py":
        assert "import" not in path.read_text(encoding="utf-8")
        return
    assert path.relative_to(PACKAGE).with_suffix("").parts[0] in FLOORS
    assert upward_imports(path, path.read_text(encoding="utf-8")) == []


def test_an_upward_import_is_seen():
    found = upward_imports(PACKAGE / "losses.py", "from lt_bench.weighting import Objective")
    assert found == ["losses (floor 3) imports weighting (4)"]
    assert upward_imports(PACKAGE / "record.py", "from lt_bench import losses")


def test_no_imports_go_in_a_circle():
    sources = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text("utf-8")
        for path in PACKAGE.rglob("*.py")
    }
    graph = {
        module: {name for name in sources if any(f"{n}.".startswith(f"{name}.") for n in names)}
        for module, names in ((m, imported(source)) for m, source in sources.items())
    }
    assert len(graph["lt_bench.experiment"]) > 10
    graphlib.TopologicalSorter(graph).prepare()


def test_only_the_command_line_knows_both_halves():
    who = {
        path.relative_to(PACKAGE).with_suffix("").parts[0]
        for path in PACKAGE.rglob("*.py")
        if any(name.startswith("lt_bench.reports") for name in imported(path.read_text("utf-8")))
    }
    assert who == {"reports", "cli"}


@pytest.mark.parametrize("name", ["train", "evaluate", "runtime"])
def test_the_loop_names_no_part(name):
    from lt_bench.assembly import TABLES

    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    said = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    parts = {part for kind in ("loss", "method", "dataset", "weighting") for part in TABLES[kind]}
    assert not said & parts
