"""Batches of a split that lives on the device: one gather crops and flips, nothing waits.

Shape suffixes: N images, B batch, H height, W width.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from lt_bench.config import Spec
from lt_bench.data.transforms import TRANSFORMS, Views
from lt_bench.data.types import Split


class Loader:
    """Gives the batches of an epoch, normalised, from a split resident on the device.

    The pixels are kept as 32-bit words of up to four channels with a black border of one pixel.
    So a batch is one gather of words, and whatever falls off the image reads the border.
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
        self.augment = [partial(TRANSFORMS[spec.name], **spec.options) for spec in augment]
        self.labels = split.labels.to(device)
        self.words_NHW = pack(split.images).to(device)
        self.row_H = torch.arange(self.height, device=device)
        self.column_W = torch.arange(self.width, device=device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        # (pixel / 255 - mean) / std as one multiplication and one addition
        deviation = torch.tensor(std, device=device).view(-1, 1, 1)
        self.factor = 1 / (255 * deviation)
        self.offset = -torch.tensor(mean, device=device).view(-1, 1, 1) / deviation

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
        for start in range(0, len(order_N), self.batch_size):
            batch = slice(start, start + self.batch_size)
            yield self._images(order_N[batch], views[batch]), self.labels[order_N[batch]]

    def _images(self, at_B: Tensor, views: Views) -> Tensor:
        sign_B1 = (1 - 2 * views.mirrored_N.long())[:, None]
        start_B1 = ((self.width - 1) * views.mirrored_N - views.right_N)[:, None]
        column_BW = (start_B1 + sign_B1 * self.column_W).clamp_(-1, self.width) + 1
        row_BH = (self.row_H - views.down_N[:, None]).clamp_(-1, self.height) + 1
        _, padded_height, padded_width = self.words_NHW.shape
        row_BH = (at_B[:, None] * padded_height + row_BH) * padded_width
        index_BHW = row_BH[:, :, None] + column_BW[:, None, :]
        words = self.words_NHW.view(-1).index_select(0, index_BHW.view(-1))
        pixels = words.view(torch.uint8).view(*index_BHW.shape, 4)[..., : self.channels]
        images_BCHW = torch.empty(
            (len(at_B), self.channels, self.height, self.width),
            device=at_B.device,
            memory_format=self.memory_format,
        )
        return images_BCHW.copy_(pixels.permute(0, 3, 1, 2)).mul_(self.factor).add_(self.offset)


def pack(images_NCHW: Tensor) -> Tensor:
    """uint8 images of up to four channels as int32 words (N, H + 2, W + 2), border black."""
    num_images, channels, height, width = images_NCHW.shape
    bytes_NHW4 = torch.zeros(num_images, height + 2, width + 2, 4, dtype=torch.uint8)
    bytes_NHW4[:, 1:-1, 1:-1, :channels] = images_NCHW.permute(0, 2, 3, 1)
    return bytes_NHW4.view(torch.int32).squeeze(-1)
