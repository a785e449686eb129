"""Batches of images read from files: workers decode, crop and resize, the device does the rest.

What a batch holds is a function of (seed, epoch, place in the epoch) alone: the order comes from
the sampler, each crop from the epoch's seed and the image's place, everything else is drawn on the
device for the epoch as a whole. So the number of workers changes nothing but the speed.

Shape suffixes: N images, B batch, H height, W width, C channels.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lt_bench.data.images import Window, pixels
from lt_bench.data.loading import Batches, Loader, pieces
from lt_bench.data.transforms import Views
from lt_bench.data.types import ImageFiles
from lt_bench.errors import ConfigError, DataError, RunError
from lt_bench.schema import Spec

# Images handed over at a time: small enough that all workers share a batch.
PORTION = 32
PORTIONS_AHEAD = 4  # per worker
SECONDS_TO_END = 1.0  # for a process whose end of a pipe is closed already


class FileLoader(Loader):
    """Gives the batches of a split whose images are read from files as they are needed."""

    def __init__(
        self, split: ImageFiles, *, augment: tuple[Spec, ...], workers: int = 0, **options: Any
    ) -> None:
        super().__init__(split.labels, split.size, augment=augment, **options)
        self.size = split.size
        self.window = self.plain_window = split.window
        for spec, transform in zip(augment, self.augment, strict=True):
            if transform.margin:
                raise ConfigError(
                    f"augment: {spec.name!r} shifts small images, these are cut out of files; use "
                    "'random_resized_crop'"
                )
            self.window = transform.window or self.window
        # the work of the current epoch; workers that stay alive find other work in it each epoch
        self.portions: list[_Portion] = []
        # which process is at which image, said by the workers themselves
        self.at_work = torch.full((workers, 2), -1)
        self.at_work.share_memory_()  # type: ignore[no-untyped-call]
        self.listed = split.listed
        self.images: DataLoader[Tensor | str] = DataLoader(
            _Images(split, self.at_work),
            batch_size=None,
            sampler=self.portions,
            num_workers=workers,
            pin_memory=self.labels.device.type == "cuda",
            prefetch_factor=PORTIONS_AHEAD if workers else None,
            # those of an evaluation end with it, those of the training loader serve every epoch
            persistent_workers=workers > 0 and bool(self.augment),
            worker_init_fn=_leave_signals_to_the_main_process,
            generator=torch.Generator(),  # its draws are not taken from anybody else's stream
        )

    def _batches(
        self, order_N: Tensor, views: Views, batches: Sequence[slice], seed: int | None
    ) -> Batches:
        label_N = self.labels[order_N.to(self.labels.device)]
        index_N, mirrored_N = order_N.cpu().numpy(), views.mirrored_N.cpu().numpy()
        window = self.plain_window if seed is None else self.window
        self.portions[:] = [
            _Portion(window, seed or 0, part.start, index_N[part], mirrored_N[part])
            for batch in batches
            for part in pieces(batch, PORTION)
        ]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # workers inherit it
        try:
            decoded = iter(self.images)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if self.images.num_workers and threading.current_thread() is threading.main_thread():
            # torch's handler raises wherever a dead worker finds us, in the middle of a checkpoint
            # too; `_next` hears of it in any case
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for batch in batches:
            shape = (batch.stop - batch.start, self.size, self.size, 3)
            images_BHWC = torch.empty(shape, device=label_N.device)
            for part in pieces(batch, PORTION):
                images = images_BHWC[part.start - batch.start : part.stop - batch.start]
                images.copy_(self._next(decoded), non_blocking=True)
                self._normalise(images, views.changes, part)
            yield images_BHWC.permute(0, 3, 1, 2), label_N[batch]

    def _next(self, decoded: Iterator[Tensor | str]) -> Tensor:
        try:
            portion = next(decoded)
        # torch's word for a worker that is gone, or it went while it handed an image over
        except (RuntimeError, EOFError, ConnectionError) as error:
            time.sleep(SECONDS_TO_END)
            alive = {process.pid for process in multiprocessing.active_children()}
            at_work = [(process, at) for process, at in self.at_work.tolist() if at >= 0]
            images = [self.listed[at] for process, at in at_work if process not in alive]
            if not images:
                raise
            raise RunError(
                f"{', '.join(images)}: the process that reads images ended here, killed or out of "
                "memory; the same command goes on, --workers 0 reads in the run's own process"
            ) from error
        if isinstance(portion, str):
            raise DataError(portion)
        return portion


@dataclass(frozen=True)
class _Portion:
    """A piece of work: the images at these positions, the first of them at `place` of the epoch."""

    window: Window
    seed: int
    place: int
    index_N: NDArray[np.int64]
    mirrored_N: NDArray[np.bool_]


class _Images(Dataset[Tensor | str]):
    """Decodes a portion: uint8 (images, height, width, channels), or what is wrong with a file.

    A message instead of an exception, which would arrive as a traceback.
    """

    def __init__(self, split: ImageFiles, at_work: Tensor) -> None:
        self.split = split
        self.at_work = at_work

    def __getitem__(self, portion: _Portion) -> Tensor | str:
        size = self.split.size
        shape = (len(portion.index_N), 3, size, size)
        decoded_BCHW = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        try:
            for i, index in enumerate(portion.index_N):
                if worker := get_worker_info():
                    self.at_work[worker.id] = torch.tensor([os.getpid(), int(index)])
                draw = np.random.Generator(np.random.Philox(key=[portion.seed, portion.place + i]))
                shown = pixels(
                    self.split.reader,
                    int(index),
                    portion.window,
                    size=size,
                    draw=draw,
                    is_scaled=self.split.is_scaled,
                )
                shown_1CHW = torch.from_numpy(shown)[None].permute(0, 3, 1, 2)
                decoded_BCHW[i] = (shown_1CHW.flip(3) if portion.mirrored_N[i] else shown_1CHW)[0]
        except DataError as error:
            return str(error)
        return decoded_BCHW.permute(0, 2, 3, 1)


def _leave_signals_to_the_main_process(_: int) -> None:
    """A terminal or a queue tells the whole group: the main process has to keep its state first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_the_parent_says, daemon=True).start()
    else:  # macOS
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _end_when_the_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
