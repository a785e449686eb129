"""Many runs: one after another in this process, or side by side in processes of their own."""

import logging
import logging.handlers
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from types import FrameType
from typing import Any

import torch

from lt_bench.config import RunConfig
from lt_bench.display import Display
from lt_bench.errors import BusyError, RunError, UserError, WriteError
from lt_bench.experiment import run
from lt_bench.files import wait_for
from lt_bench.record import Record
from lt_bench.runtime import Runtime, world_size

logger = logging.getLogger(__name__)

Outcome = tuple[RunConfig, Record | Exception]
OnEpoch = Callable[[RunConfig, Mapping[str, Any]], None]


def outcomes(
    configs: Sequence[RunConfig],
    where: Runtime,
    display: Display,
    *,
    again: bool = False,
    waits: bool = False,
) -> Generator[Outcome, None, None]:
    """Run each configuration that has no record yet; the record or the error as each one ends.

    A run begins after its parent's. With `where.jobs` above 1 that many run side by side.

    Args:
        again: repeat finished runs.
        waits: a run that another process is training is put off until all others are done,
            instead of failing.

    Raises:
        WriteError: nothing that follows could be written either.
        KeyboardInterrupt: a signal; every run at work has kept its state.
    """
    todo = list(configs)
    put_off: list[tuple[RunConfig, BusyError]] = []
    jobs = min(where.jobs, len(todo))
    crew = (_SideBySide if jobs > 1 else _Here)(where, jobs, again, display.epoch)
    with closing(crew):
        while todo or crew.at_work or put_off:
            not_done = {c.run_id for c in (*todo, *crew.at_work, *(c for c, _ in put_off))}
            ready = [c for c in todo if c.parent is None or c.parent.run_id not in not_done]
            for config in ready[: jobs - len(crew.at_work)]:
                todo.remove(config)
                display.begin(config)
                crew.begin(config)
            if crew.at_work:
                config, outcome = crew.end_of_one()
                may_wait = waits and world_size() == 1
                busy = outcome if may_wait and isinstance(outcome, BusyError) else None
                display.end(config, is_put_off=busy is not None)
                if isinstance(outcome, WriteError):
                    raise outcome
                if busy:
                    put_off.append((config, busy))
                else:
                    yield config, outcome
            else:
                busy = put_off[0][1]
                logger.info(f"{busy}; waiting for it")
                wait_for(busy.lock)
                todo = [*(config for config, _ in put_off), *todo]
                put_off.clear()


class _Here:
    """One run at a time, in this process."""

    def __init__(self, where: Runtime, jobs: int, again: bool, on_epoch: OnEpoch) -> None:
        self.where, self.again, self.on_epoch = where, again, on_epoch
        self.at_work: list[RunConfig] = []

    def close(self) -> None:
        pass

    def begin(self, config: RunConfig) -> None:
        self.at_work.append(config)

    def end_of_one(self) -> Outcome:
        config = self.at_work.pop()
        try:
            return config, run(
                config, self.where, lambda line: self.on_epoch(config, line), again=self.again
            )
        except (UserError, RunError) as error:
            return config, _without_frames(error)
        except Exception as error:
            return config, error


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    config: RunConfig | None = None


class _SideBySide:
    """As many runs at a time as there are processes, each of which does one after another.

    A process sends the lines of its epochs, what it logs, and at the end of a run its outcome.
    """

    def __init__(self, where: Runtime, jobs: int, again: bool, on_epoch: OnEpoch) -> None:
        self.on_epoch = on_epoch
        # who says how many threads a process has means each of them
        given = "OMP_NUM_THREADS" in os.environ
        threads = torch.get_num_threads() if given else max(1, torch.get_num_threads() // jobs)
        self.settings = (where, threads, again)
        self.workers: list[_Worker] = []

    def close(self) -> None:
        """What is still at work is interrupted, and waited for while it keeps its state."""
        for worker in self.workers:
            if worker.config:
                worker.process.terminate()
            else:
                worker.connection.close()
        try:
            for worker in self.workers:
                worker.process.join()
        except KeyboardInterrupt:  # a second one acts at once
            for worker in self.workers:
                worker.process.kill()
                worker.process.join()
            raise

    @property
    def at_work(self) -> list[RunConfig]:
        return [worker.config for worker in self.workers if worker.config]

    def begin(self, config: RunConfig) -> None:
        idle = (w for w in self.workers if not w.config and w.process.is_alive())
        worker = next(idle, None) or self._hire()
        worker.config = config
        worker.connection.send(config)

    def end_of_one(self) -> Outcome:
        while True:
            busy = {worker.connection: worker for worker in self.workers if worker.config}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                assert worker.config
                try:
                    said = worker.connection.recv()
                except (EOFError, OSError):  # also in the middle of what it said
                    return self._end(worker, self._bury(worker))
                if isinstance(said, logging.LogRecord):
                    logging.getLogger(said.name).handle(said)
                elif isinstance(said, Record | Exception):
                    return self._end(worker, said)
                else:
                    self.on_epoch(worker.config, said)

    def _hire(self) -> _Worker:
        # forked from a process that has torch imported and the device untouched
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *self.settings))
        # A terminal's Ctrl-C reaches all processes, but is for this one, which tells the others:
        # they inherit what is blocked here. The tracker, started later, would undo that.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
            theirs.close()
            self.workers.append(_Worker(process, ours))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self.workers[-1]

    def _end(self, worker: _Worker, outcome: Record | Exception) -> Outcome:
        config, worker.config = worker.config, None
        assert config
        return config, outcome

    def _bury(self, worker: _Worker) -> RunError:
        worker.process.join()
        status = worker.process.exitcode or 0
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return RunError(
            f"its process ended with {how}, as one that is killed for want of memory does; the "
            "same command goes on, fewer --jobs need less memory"
        )


def _work(connection: Connection, where: Runtime, threads: int, again: bool) -> None:
    """What a process does: the runs it is sent, until the sender closes or a signal comes."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Sender(connection)])
    torch.set_num_threads(threads)
    where.set_up()

    def tell(line: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # nobody listens any more: a signal is on its way
            connection.send(line)

    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        # Training keeps its state first. Elsewhere nothing is lost, the lock goes with the process,
        # and an exception could be swallowed, by an import or a destructor.
        signal.signal(signal.SIGTERM, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_the_parent, daemon=True).start()
        while True:
            config: RunConfig = connection.recv()
            try:
                said: Record | Exception = run(config, where, tell, again=again)
            except (UserError, RunError) as error:
                said = _without_frames(error)
            except Exception:  # it may not bear being sent, its traceback does
                said = RuntimeError(f"in a process of its own:\n{traceback.format_exc()}")
            connection.send(said)
    logging.disable()  # what libraries log at exit would find nobody listening


def _without_frames(error: Exception) -> Exception:
    """One line says it all; the frames, also of its cause, would keep alive what reads the images,
    and a network that was out of memory.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class _Sender(logging.handlers.QueueHandler):
    """Sends what is logged instead of writing it."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)  # type: ignore[arg-type]
        self.connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        self.connection.send(record)
