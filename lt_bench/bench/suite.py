"""Every benchmark by name, the machine they ran on, and what is printed and written of them."""

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lt_bench.bench.arrays import losses, metrics
from lt_bench.bench.inputs import inputs
from lt_bench.bench.measure import Result, table
from lt_bench.bench.memory import memory
from lt_bench.bench.startup import startup
from lt_bench.bench.training import augment, evaluation, step
from lt_bench.errors import ConfigError
from lt_bench.files import write_text_whole
from lt_bench.provenance import environment
from lt_bench.runtime import Runtime, usable_cores

Benchmark = Callable[[Runtime], Result]


def run(
    names: Sequence[str],
    where: Runtime,
    json_path: Path | None = None,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Measure the named benchmarks, or all of them; say each table as soon as it is there.

    Raises:
        ConfigError: a name is unknown.
    """
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise ConfigError(
            f"bench: unknown {unknown[0]!r}; write one of {', '.join(BENCHMARKS)}, or none for all"
        )
    found: dict[str, Any] = {"machine": machine(where), "benchmarks": {}}
    say("\n".join(_in_words(found["machine"])))
    for name in names or BENCHMARKS:
        result = BENCHMARKS[name](where)
        say("\n".join(["", f"{name}: {result.setting}", *table(result.rows)]))
        found["benchmarks"][name] = {
            "setting": result.setting,
            "rows": [row.as_dict() for row in result.rows],
        }
    if json_path:
        write_text_whole(json_path, json.dumps(found, indent=1) + "\n")
    return found


def machine(where: Runtime) -> dict[str, Any]:
    """Hardware, threads and versions; `load` tells how quiet the machine was."""
    return {
        **environment(where.describe(), where.precision),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()),
    }


def _in_words(found: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return [
        f"{found['device']}, precision {found['precision']}",
        f"{found['cpu']}, {found['usable_cores']} of {found['cores']} cores usable, "
        f"{found['threads']} threads, load {found['load'][0]:.1f}",
        f"python {platform.python_version()}, {versions}",
        "median (smallest..largest) of interleaved rounds",
    ]


BENCHMARKS: Mapping[str, Benchmark] = {
    "step": step,
    "augment": augment,
    "input": inputs,
    "losses": losses,
    "eval": evaluation,
    "metrics": metrics,
    "startup": startup,
    "memory": memory,
}
