"""Batches of a split that lives on the device: one gather crops and flips, nothing waits.

Shape suffixes: N images, B batch, H height, W width, C channels.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lt_bench.config import Spec, build
from lt_bench.data.transforms import TRANSFORMS, Transform, Views
from lt_bench.data.types import Split


class Loader:
    """Gives the batches of an epoch, normalised, from a split resident on the device.

    The uint8 pixels are kept with a black border as wide as the augmentation shifts, channels
    last, and once more mirrored if it mirrors. A row of an augmented image is then a run of
    neighbouring bytes: a batch is one gather of B * H such runs out of all that overlap.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        augment: tuple[Spec, ...],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
        channels_last: bool = False,
    ) -> None:
        device = torch.device(device)
        num_images, self.channels, self.height, self.width = split.images.shape
        self.batch_size = batch_size
        self.channels_last = channels_last
        self.labels = split.labels.to(device)
        self.augment: list[Transform] = [build("augment", s, TRANSFORMS) for s in augment]
        self.margin = sum(transform.margin for transform in self.augment)
        self.padded_width = self.width + 2 * self.margin
        self.padded_area = self.padded_width * (self.height + 2 * self.margin)

        mirrors = any(transform.mirrors for transform in self.augment)
        pixels = pad(split.images, self.margin, with_mirrored=mirrors).to(device).view(-1)
        run = self.width * self.channels
        num_runs = (pixels.numel() - run) // self.channels + 1
        self.runs = pixels.as_strided((num_runs, run), (self.channels, 1))
        self.row_H = torch.arange(self.height, device=device) * self.padded_width
        # (pixel / 255 - mean) / std of a run as one multiplication and one addition
        deviation_C = torch.tensor(std, dtype=torch.float64)
        self.factor = (1 / (255 * deviation_C)).float().repeat(self.width).to(device)
        offset_C = -torch.tensor(mean, dtype=torch.float64) / deviation_C
        self.offset = offset_C.float().repeat(self.width).to(device)

    def __len__(self) -> int:
        """Batches per epoch; the last one may be smaller."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, order_N: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented training batches in the given order.

        Args:
            order_N: one epoch of indices; under several ranks, this rank's share.
            generator: on the loader's device.
        """
        order_N = order_N.to(self.labels.device, non_blocking=True)
        views = Views.plain(len(order_N), self.labels.device)
        for transform in self.augment:
            transform(views, generator)
        return self._batches(order_N, views)

    def plain(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an evaluation: every image once, in list order, as it is."""
        order_N = torch.arange(len(self.labels), device=self.labels.device)
        return self._batches(order_N, Views.plain(len(order_N), self.labels.device))

    def _batches(self, order_N: Tensor, views: Views) -> Iterator[tuple[Tensor, Tensor]]:
        copy_N = views.mirrored_N * len(self.labels) + order_N
        start_N = copy_N * self.padded_area + (self.margin - views.right_N)
        start_N += (self.margin - views.down_N) * self.padded_width
        for at in range(0, len(order_N), self.batch_size):
            batch = slice(at, at + self.batch_size)
            yield self._images(start_N[batch]), self.labels[order_N[batch]]

    def _images(self, start_B: Tensor) -> Tensor:
        run_BH = start_B[:, None] + self.row_H
        pixels = self.runs.index_select(0, run_BH.view(-1))
        images = pixels.float().mul_(self.factor).add_(self.offset)
        images_BHWC = images.view(len(start_B), self.height, self.width, self.channels)
        images_BCHW = images_BHWC.permute(0, 3, 1, 2)
        return images_BCHW if self.channels_last else images_BCHW.contiguous()


def pad(images_NCHW: Tensor, margin: int, *, with_mirrored: bool) -> Tensor:
    """Channels last, with a black border; `with_mirrored` appends a mirrored copy of each image."""
    images_NHWC = images_NCHW.permute(0, 2, 3, 1)
    copies = [images_NHWC, images_NHWC.flip(2)] if with_mirrored else [images_NHWC]
    return torch.cat([torch.nn.functional.pad(c, (0, 0, *(margin,) * 4)) for c in copies])
