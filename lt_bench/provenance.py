"""Where a number comes from: the commit, the code, the packages and the machine."""

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lt_bench.config import ROOT

# A run whose commit is not the whole story: what decides its numbers was changed since. A table's
# file only says which runs to set beside one another.
CODE_PATHS = ("lt_bench", "configs", ":!configs/tables", "data_lists", "run.py", "pyproject.toml")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pandas", "scikit-learn", "matplotlib")
PACKAGE = Path(__file__).parent
# Modules that print what a record says; any other may decide its numbers.
PRESENTING = ("arguments", "bench", "cli", "data_actions", "display", "predictions", "reports")


def environment(device: str, precision: str, **settings: Any) -> dict[str, Any]:
    """What a number may depend on beyond the configuration; `settings` are the machine's flags."""
    commit, is_dirty = code_at_start()
    return {
        "commit": commit,
        "dirty": is_dirty,
        "code": code_digest(),
        "device": device,
        "precision": precision,
        **settings,
        "packages": _package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
    }


@functools.cache
def code_at_start() -> tuple[str | None, bool | None]:
    """Commit of the checkout and whether what decides numbers differs from it; None without git.

    As they were at the first call, which is to come before anything is computed: a checkout may
    move on while a run trains.
    """
    try:
        # an installed copy inside somebody else's repository is not a checkout of ours
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return None, None
        changed = _git("status", "--porcelain", "--untracked-files=all", "--", *CODE_PATHS)
        return _git("rev-parse", "HEAD"), bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None, None


@functools.cache  # the code that runs is the code that was there at the first call
def code_version() -> dict[str, str]:
    """A hash per module that may decide numbers; comments and docstrings do not count."""
    return {
        str(path.relative_to(PACKAGE.parent)): hashlib.sha256(_syntax(path).encode()).hexdigest()
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in PRESENTING
    }


def code_digest() -> str:
    """One hash over `code_version`: what tells uncommitted states of the code apart."""
    return hashlib.sha256(json.dumps(code_version()).encode()).hexdigest()[:16]


def is_stale(environment: Mapping[str, Any]) -> bool:
    """Whether a record of this environment is of uncommitted code that is not the code here."""
    code = environment.get("code")
    return bool(environment.get("dirty") and code and code != code_digest())


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _syntax(path: Path) -> str:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            del node.body[0]
    return ast.dump(tree)
