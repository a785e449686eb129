"""Imports go down: a module imports only from lower floors (README, the tree)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lt_bench"
FLOORS = {
    **dict.fromkeys(["progress", "metrics", "errors"], 0),
    "schema": 1,
    **dict.fromkeys(
        ["arguments", "config", "runtime", "class_vectors", "files", "intervals", "usage"], 2
    ),
    **dict.fromkeys(["losses", "samplers", "optim", "models", "data", "record", "checkpoint"], 3),
    "display": 3,
    **dict.fromkeys(["weighting", "compiled", "tables", "agreement", "event_files"], 4),
    **dict.fromkeys(["methods", "render", "drawing"], 5),
    **dict.fromkeys(["train", "evaluate", "published", "latex", "diagnostics", "overviews"], 6),
    **dict.fromkeys(["experiment", "report"], 7),
    **dict.fromkeys(["bench", "figures", "page", "predictions", "running"], 8),
    "cli": 9,
}
# packages whose own modules may import one another, one way
TOGETHER = ("models", "data", "bench")


def upward_imports(path: Path, source: str) -> list[str]:
    """The imports of one module that are not from a lower floor."""
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "lt_bench" or len(parts) < 2 or parts[1] not in FLOORS:
                continue
            other = parts[1]
            if not (FLOORS[other] < FLOORS[own] or (other == own and own in TOGETHER)):
                found.append(f"{own} (floor {FLOORS[own]}) imports {other} ({FLOORS[other]})")
    return found


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


@pytest.mark.parametrize("name", ["train", "evaluate", "runtime"])
def test_the_loop_names_no_part(name):
    from lt_bench.experiment import TABLES

    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    said = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    parts = {part for kind in ("loss", "method", "dataset", "weighting") for part in TABLES[kind]}
    assert not said & parts
