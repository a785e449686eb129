"""Batches; those of a split that lives on the device: one gather crops and flips, nothing waits.

Shape suffixes: N images, B batch, H height, W width, C channels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lt_bench.data.transforms import TRANSFORMS, Change, Transform, Views
from lt_bench.data.types import Split
from lt_bench.errors import ConfigError
from lt_bench.runtime import share_of_rank
from lt_bench.schema import Spec, build

Batches = Iterator[tuple[Tensor, Tensor]]


class Loader(ABC):
    """Gives the normalised images of a split and their labels, on the device, batch by batch.

    The images of a batch lie in memory channels last.

    Args:
        labels: of the split, on the CPU.
        width: of an image as the network sees it, in pixels.
    """

    def __init__(
        self,
        labels: Tensor,
        width: int,
        *,
        batch_size: int,
        augment: tuple[Spec, ...],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
    ) -> None:
        self.labels = labels.to(device)
        self.batch_size = batch_size
        self.augment: list[Transform] = [build("augment", s, TRANSFORMS) for s in augment]
        if len(mean) != 3 and any(transform.needs_color for transform in self.augment):
            raise ConfigError("augment: color_jitter needs red, green and blue; leave it out")
        # (pixel / 255 - mean) / std of a row of pixels as one multiplication and one addition
        deviation_C = torch.tensor(std, dtype=torch.float64)
        self.factor = (1 / (255 * deviation_C)).float().repeat(width).to(device)
        offset_C = -torch.tensor(mean, dtype=torch.float64) / deviation_C
        self.offset = offset_C.float().repeat(width).to(device)

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, order_N: Tensor, generator: torch.Generator, *, skip: int = 0) -> Batches:
        """Augmented training batches in the given order.

        Args:
            order_N: one epoch of indices, of all ranks; each is given its share of every batch.
            generator: on the loader's device.
            skip: batches to leave out at the beginning, the others being as they would be.
        """
        views = Views.plain(len(order_N), self.labels.device)
        for transform in self.augment:
            transform(views, generator)
        left = slice(skip * self.batch_size, len(order_N))
        mine = [share_of_rank(batch) for batch in pieces(left, self.batch_size)]
        return self._batches(order_N, views, mine, generator.initial_seed())

    def plain(self) -> Batches:
        """The batches of an evaluation: every image once, in list order, as it is."""
        order_N = torch.arange(len(self.labels))
        views = Views.plain(len(order_N), self.labels.device)
        batches = pieces(slice(0, len(order_N)), self.batch_size)
        return self._batches(order_N, views, batches, None)

    @abstractmethod
    def _batches(
        self, order_N: Tensor, views: Views, batches: Sequence[slice], seed: int | None
    ) -> Batches:
        """These parts of an epoch; `seed` is the epoch's, None in an evaluation."""

    def _normalise(self, images_BHWC: Tensor, changes: Sequence[Change], part: slice) -> None:
        """Change and normalise pixels of 0..255 in place; `part` is where they are in the epoch."""
        if changes:
            images_BCHW = images_BHWC.div_(255).permute(0, 3, 1, 2)
            for change in changes:
                images_BCHW = change(images_BCHW, part)
            images_BHWC.copy_(images_BCHW.permute(0, 2, 3, 1)).mul_(255)
        images_BHWC.flatten(2).mul_(self.factor).add_(self.offset)


class ResidentLoader(Loader):
    """Gives the batches of a split that is kept on the device.

    The uint8 pixels are kept with a black border as wide as the augmentation shifts, channels
    last, and once more mirrored if it mirrors. A row of an augmented image is then a run of
    neighbouring bytes: a batch is one gather of B * H such runs out of all that overlap.
    """

    def __init__(self, split: Split, *, augment: tuple[Spec, ...], **options: Any) -> None:
        channels, self.height, self.width = split.images.shape[1:]
        super().__init__(split.labels, self.width, augment=augment, **options)
        for spec, transform in zip(augment, self.augment, strict=True):
            if transform.window is not None:
                raise ConfigError(
                    f"augment: {spec.name!r} cuts images out of files, these are small and kept on "
                    "the device; use 'crop'"
                )
        self.margin = sum(transform.margin for transform in self.augment)
        self.padded_width = self.width + 2 * self.margin
        self.padded_area = self.padded_width * (self.height + 2 * self.margin)

        device = self.labels.device
        mirrors = any(transform.mirrors for transform in self.augment)
        pixels = pad(split.images, self.margin, with_mirrored=mirrors).to(device).view(-1)
        run = self.width * channels
        num_runs = (pixels.numel() - run) // channels + 1
        self.runs = pixels.as_strided((num_runs, run), (channels, 1))
        self.row_H = torch.arange(self.height, device=device) * self.padded_width

    def _batches(
        self, order_N: Tensor, views: Views, batches: Sequence[slice], seed: int | None
    ) -> Batches:
        order_N = order_N.to(self.labels.device, non_blocking=True)
        copy_N = views.mirrored_N * len(self.labels) + order_N
        start_N = copy_N * self.padded_area + (self.margin - views.right_N)
        start_N += (self.margin - views.down_N) * self.padded_width
        for batch in batches:
            run_BH = start_N[batch, None] + self.row_H
            runs = self.runs.index_select(0, run_BH.view(-1)).float()
            images_BHWC = runs.view(len(run_BH), self.height, self.width, -1)
            self._normalise(images_BHWC, views.changes, batch)
            yield images_BHWC.permute(0, 3, 1, 2), self.labels[order_N[batch]]


def pieces(whole: slice, size: int) -> list[slice]:
    """`whole` cut into pieces of this size, the last of which may be smaller."""
    first = range(whole.start, whole.stop, size)
    return [slice(at, min(at + size, whole.stop)) for at in first]


def pad(images_NCHW: Tensor, margin: int, *, with_mirrored: bool) -> Tensor:
    """Channels last, with a black border; `with_mirrored` appends a mirrored copy of each image."""
    images_NHWC = images_NCHW.permute(0, 2, 3, 1)
    copies = [images_NHWC, images_NHWC.flip(2)] if with_mirrored else [images_NHWC]
    return torch.cat([torch.nn.functional.pad(c, (0, 0, *(margin,) * 4)) for c in copies])
