"""How long the commands take that do nothing, each in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from lt_bench.bench.measure import Result, Row, side_by_side
from lt_bench.config import ROOT
from lt_bench.runtime import Runtime


def startup(where: Runtime, *, rounds: int = 7) -> Result:
    """What a user waits for before anything happens."""
    with TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        (results / "runs").mkdir(parents=True)
        taken = side_by_side(
            {
                "help": _command("run.py", "--help"),
                "report": _command("run.py", "report", "--results", str(results)),
                "import ours": _command("-c", "import lt_bench.experiment"),
                "import torch": _command("-c", "import torch"),
                "python": _command("-c", "pass"),
            },
            rounds=rounds,
            least_seconds=0.0,
        )
    return Result(
        "processes started anew; limit: Python alone",
        [
            Row("run.py --help", "value", taken["help"], limit=taken["python"], goal=0.5),
            Row("run.py report, no records", "value", taken["report"], limit=taken["python"]),
            Row(
                "import lt_bench.experiment beside import torch",
                "cost",
                taken["import ours"],
                conventional=taken["import torch"],
                goal=1.2,
            ),
        ],
    )


def _command(*arguments: str) -> Callable[[], object]:
    def start() -> None:
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

    return start
