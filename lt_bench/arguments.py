"""The arguments of each verb."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

USER_MISTAKE = 2


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        message = message.removesuffix(", key=value")  # which may be none
        if message.startswith("unrecognized arguments: --"):
            message += "; a setting is written key=value, such as optim.epochs=2"
        self.exit(USER_MISTAKE, f"{message}; see {self.prog} --help\n")

    def take(self, verb: str) -> None:
        """Take the arguments of this verb."""
        either: argparse._ActionsContainer = self
        if verb == "report":
            either = self.add_mutually_exclusive_group()
        for name in VERBS[verb]:
            (self if name in MACHINE else either).add_argument(name, **ARGUMENTS[name])
        if "--data-root" in VERBS[verb] and (root := os.environ.get("LT_BENCH_DATA")):
            self.set_defaults(data_root=Path(root))


def _at_least_one(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs; write 1 or more")
    return int(text)


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        said = f"{text!r} is no seed; write them apart, --seeds 0 1 2"
        raise argparse.ArgumentTypeError(said) from None


def _flag(about: str) -> dict[str, Any]:
    return {"action": "store_true", "help": about}


def _folder(about: str) -> dict[str, Any]:
    return {"metavar": "DIR", "type": Path, "help": about}


def _file(about: str) -> dict[str, Any]:
    return {"metavar": "FILE", "type": Path, "help": about}


def _number(kind: Any, about: str, **more: Any) -> dict[str, Any]:
    return {"metavar": "N", "type": kind, "help": about, **more}


ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "recipe": {"metavar": "RECIPE", "help": "a file of configs/, with :VARIANTs"},
    "method": {"metavar": "METHOD", "help": "a file of configs/methods/"},
    "overrides": {"metavar": "key=value", "nargs": "*", "help": "such as optim.lr=0.05"},
    "name": {"metavar": "NAME", "help": "a file of configs/tables/"},
    "run_id": {"metavar": "RUN_ID", "help": "a folder of results/runs"},
    "path": {"metavar": "PATH", "type": Path, "help": "an image, or a folder of them"},
    "action": {"choices": ["check", "build", "pack"]},
    "names": {"metavar": "NAME", "nargs": "*", "help": "which ones; default: all"},
    "--seeds": _number(_seed, "one run for each", nargs="+"),
    "--jobs": _number(
        _at_least_one,
        "how many runs go on side by side, on a share of the cores each; default: 1",
        default=1,
    ),
    "--again": _flag("repeat a run that has a record"),
    "--download": _flag("fetch CIFAR into the data root; data build: or the published lists"),
    "--dry-run": _flag("print the commands, run nothing"),
    "--check": _flag("fail where a table has drifted"),
    "--published": _flag("print ours beside published"),
    "--tensorboard": _folder("write the curves of every run, also in progress, for TensorBoard"),
    "--pdf": _folder("write every figure as PDF, for print"),
    "--tolerance": {
        **_number(float, "fail where top-1 differs by more; default: 1.0", default=1.0),
        "metavar": "POINTS",
    },
    "--csv": _file("write all predictions here"),
    "--json": _file("write the figures here as well"),
    "--lists": _folder("build: where the published list files lie"),
    "--decode": _flag("check: try to read every image"),
    "--format": {
        "choices": ["jpeg", "uint8"],
        "help": "pack: how images are kept; default: jpeg",
    },
    "--data-root": _folder("where the datasets lie; default: $LT_BENCH_DATA"),
    "--results": {**_folder("default: results"), "default": Path("results")},
    "--device": {"default": "auto", "help": "auto, cpu, cuda or cuda:N"},
    "--precision": {"default": "auto", "help": "auto, fp32 or bf16"},
    "--compile": {
        **_flag("torch.compile the step: slow to begin, then faster; not measured on a GPU yet"),
        "dest": "compiled",
    },
    "--deterministic": _flag("two runs equal to the bit, on a GPU too"),
    "--workers": _number(int, "processes that read images from files; default: one per core"),
    "--on-bad-image": {
        "choices": ["stop", "skip"],
        "default": "stop",
        "help": "at an image file that cannot be read: stop, or leave all such files out",
    },
    "--checkpoint-seconds": _number(
        float,
        "how often the state of a run is kept; 0 is after every step, 60 the default",
        default=60.0,
    ),
}
EXPERIMENT = ("recipe", "method", "overrides")
DEVICE = ("--device", "--precision")
FILES = ("--workers", "--on-bad-image")
MACHINE = (
    *("--data-root", "--results", *DEVICE, "--compile", "--deterministic", *FILES),
    "--checkpoint-seconds",
)
VERBS: Mapping[str, tuple[str, ...]] = {
    "train": (*EXPERIMENT, "--seeds", "--jobs", "--again", "--download", *MACHINE),
    "table": ("name", "--dry-run", "--jobs", *MACHINE),
    "report": ("--check", "--published", "--pdf", "--tensorboard", "--results"),
    "verify": ("run_id", "--tolerance", *MACHINE),
    "predict": ("run_id", "path", "--csv", "--results", *DEVICE, *FILES),
    "data": (
        *("action", "recipe", "overrides", "--data-root", "--lists", "--download", "--decode"),
        *("--format", *FILES),
    ),
    "show": EXPERIMENT,
    "bench": ("names", "--json", *DEVICE, "--compile"),
}
