"""The arguments of each verb."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

USER_MISTAKE = 2


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_MISTAKE, f"{message}; see {self.prog} --help\n")


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a file of configs/, with :VARIANTs")
    parser.add_argument("method", metavar="METHOD", help="a file of configs/methods/")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="such as optim.lr=0.05")


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", metavar="DIR", type=Path, default=Path("results"), help="default: results"
    )


def _add_data_root(parser: argparse.ArgumentParser) -> None:
    root = os.environ.get("LT_BENCH_DATA")
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        type=Path,
        default=Path(root) if root else None,
        help="where the datasets lie; default: $LT_BENCH_DATA",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    _add_data_root(parser)
    _add_results(parser)
    _add_device(parser)
    _add_compile(parser)
    parser.add_argument("--deterministic", action="store_true", help="two runs equal to the bit")
    _add_workers(parser)
    _add_on_bad_image(parser)
    parser.add_argument(
        "--checkpoint-seconds",
        metavar="N",
        type=float,
        default=60.0,
        help="how often the state of a run is kept; 0 is after every step, 60 the default",
    )


def _add_on_bad_image(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--on-bad-image",
        choices=["stop", "skip"],
        default="stop",
        help="at an image file that cannot be read: stop, or leave all such files out",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")


def _add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile the step: slow to begin, then faster; not measured on a GPU yet",
    )


def _add_workers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        metavar="N",
        type=int,
        help="processes that read images from files; default: one per core",
    )


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=_at_least_one,
        default=1,
        help="how many runs go on side by side, on a share of the cores each; default: 1",
    )


def _at_least_one(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs; write 1 or more")
    return int(text)


def _train(parser: argparse.ArgumentParser) -> None:
    _add_experiment(parser)
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="one run for each")
    _add_jobs(parser)
    parser.add_argument("--again", action="store_true", help="repeat a run that has a record")
    parser.add_argument("--download", action="store_true", help="fetch CIFAR into the data root")
    _add_machine(parser)


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a file of configs/tables/")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    _add_jobs(parser)
    _add_machine(parser)


def _report(parser: argparse.ArgumentParser) -> None:
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--check", action="store_true", help="fail where a table has drifted")
    instead.add_argument("--published", action="store_true", help="print ours beside published")
    instead.add_argument(
        "--tensorboard",
        metavar="DIR",
        type=Path,
        help="write the curves of every run, finished or in progress, for TensorBoard",
    )
    _add_results(parser)


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID", help="a folder of results/runs")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="fail where top-1 differs by more; default: 1.0",
    )
    _add_machine(parser)


def _predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN_ID", help="a folder of results/runs, with model.pt")
    parser.add_argument("path", metavar="PATH", type=Path, help="an image, or a folder of them")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write all predictions here")
    _add_results(parser)
    _add_device(parser)
    _add_workers(parser)
    _add_on_bad_image(parser)


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["check", "build", "pack"])
    parser.add_argument("recipe", metavar="RECIPE", help="a file of configs/, with :VARIANTs")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="such as data.subset=ldam"
    )
    _add_data_root(parser)
    parser.add_argument(
        "--lists", metavar="DIR", type=Path, help="build: where the published list files lie"
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="fetch CIFAR into the data root, or the published lists",
    )
    parser.add_argument("--decode", action="store_true", help="check: try to read every image")
    parser.add_argument(
        "--format", choices=["jpeg", "uint8"], help="pack: how images are kept; default: jpeg"
    )
    _add_workers(parser)
    _add_on_bad_image(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="which ones; default: all")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures here as well")
    _add_device(parser)
    parser.add_argument("--compile", action="store_true", help="step: a compiled one as well")


ARGUMENTS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "train": _train,
    "table": _table,
    "report": _report,
    "verify": _verify,
    "predict": _predict,
    "data": _data,
    "show": _add_experiment,
    "bench": _bench,
}
