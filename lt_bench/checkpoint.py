"""Checkpoints: a run that was stopped goes on where it stood, to the same numbers, bit for bit."""

import io
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from lt_bench.errors import DataError
from lt_bench.files import whole_file
from lt_bench.runtime import on_any_rank, rank
from lt_bench.usage import Usage

State = dict[str, Any]

ECHO_SECONDS = 1.0


class Checkpoint:
    """The file that holds the state of a run in progress.

    Args:
        made_by: what gives the state its meaning; a checkpoint made by anything else is refused.
        every: seconds between two of them, apart from the one that a signal asks for.
        usage: of the run, which the parts of a stopped one add up to.
    """

    def __init__(self, path: Path, made_by: Mapping[str, Any], every: float, usage: Usage) -> None:
        self.path = path
        self.made_by = dict(made_by)
        self.every = every
        self.usage = usage
        self.times_resumed = 0
        self.is_stopping = False
        self.began = self.kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the run has taken, in all its parts."""
        return time.monotonic() - self.began

    def read(self) -> State | None:
        """The state to go on from; None where a run starts.

        Raises:
            DataError: the file is damaged, or its state would mean something else here.
        """
        if not self.path.exists():
            return None
        held = load_tensors(self.path)
        try:
            made_by, state = dict(held["made_by"]), dict(held["state"])
            self.began -= float(held["seconds"])
            self.times_resumed = int(held["times_resumed"]) + 1
        except (TypeError, ValueError, KeyError) as error:
            raise not_usable(self.path, "holds no state of a run") from error
        if differing := list(_differences(made_by, self.made_by)):
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise not_usable(self.path, f"made with another {', '.join(differing[:3])}{more}")
        self.usage.go_on_from(held["usage"])  # there, since this very code wrote it
        return state

    def is_due(self, *, is_last: bool) -> bool:
        """Whether to keep the state after this step, which may be the last one of training."""
        now = time.monotonic()
        is_long = is_last and now - self.began >= self.every
        return self.is_stopping or is_long or now - self.kept >= self.every

    def keep(self, state: State) -> None:
        """Write the state, whole, in place of the one before; the first rank does it for all.

        Raises:
            KeyboardInterrupt: a signal asked the run to stop here.
            WriteError: it cannot be written; the one before is still there.
        """
        held = {
            "made_by": self.made_by,
            "state": state,
            "seconds": self.seconds,
            "times_resumed": self.times_resumed,
            "usage": self.usage.as_dict(),
        }
        if rank() == 0:
            save_tensors(self.path, held)
        self.kept = time.monotonic()
        if on_any_rank(self.is_stopping):
            raise KeyboardInterrupt

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Let the first SIGINT or SIGTERM wait for the end of the step; a later one acts at once.

        Within ECHO_SECONDS it is the first: queues and torchrun tell a whole group of processes,
        and then each of them by itself.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread is told of signals
            return

        first = math.inf

        def stop(number: int, frame: FrameType | None) -> None:
            nonlocal first
            self.is_stopping = True
            first = min(first, time.monotonic())
            if time.monotonic() - first > ECHO_SECONDS:
                raise KeyboardInterrupt

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.is_stopping:
            raise KeyboardInterrupt


def save_tensors(path: Path, value: Any) -> None:
    """Write tensors and plain values under `path`, whole."""
    buffer = io.BytesIO()  # on a full disk torch.save itself would hide what went wrong
    torch.save(value, buffer)
    with whole_file(path) as file:
        file.write(buffer.getbuffer())


def load_tensors(path: Path) -> Any:
    """What torch.save wrote, if it is tensors and plain values alone.

    Raises:
        DataError: it is anything else, such as a pickle that would run code.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused in the next line
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise not_usable(path, f"cannot be read: {error.strerror}") from error
    except Exception as error:  # torch's reader fails in many ways on bytes that are not its own
        raise not_usable(path, "damaged, or not written by lt_bench") from error


def load_model(path: Path) -> dict[str, Tensor]:
    """The named tensors of a model.pt."""
    state = load_tensors(path)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise not_usable(path, "holds no model")
    return state


def not_usable(path: Path, problem: str) -> DataError:
    remedy = "repeat its run with --again" if path.name == "model.pt" else "delete it to start over"
    return DataError(f"{path}: {problem}; {remedy}")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(theirs.keys() | ours.keys()):
        was, now = theirs.get(name), ours.get(name)
        if was == now:
            continue
        if isinstance(now, dict):
            was = was if isinstance(was, dict) else {}
            yield from sorted(k for k in was.keys() | now.keys() if was.get(k) != now.get(k))
        else:
            yield f"{name} ({was}, here {now})"
