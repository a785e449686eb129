"""Augmentation: what is drawn for each image of an epoch; the loader applies it batch by batch.

Shape suffixes: N images of the epoch, in the order in which they are visited.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lt_bench.config import Count, Fraction


@dataclass
class Views:
    """How each image of an epoch is seen: shifted by whole pixels, black coming in, and mirrored.

    Shifts are drawn symmetrically, so the order of shifting and mirroring does not matter.
    """

    down_N: Tensor
    right_N: Tensor
    mirrored_N: Tensor

    @classmethod
    def plain(cls, num_images: int, device: torch.device) -> "Views":
        shift_N = torch.zeros(num_images, dtype=torch.int64, device=device)
        return cls(shift_N, shift_N.clone(), torch.zeros_like(shift_N, dtype=torch.bool))

    def __getitem__(self, batch: slice) -> "Views":
        return Views(self.down_N[batch], self.right_N[batch], self.mirrored_N[batch])


def crop(views: Views, generator: torch.Generator, *, padding: Count = 4) -> None:
    """A window of the image's own size, anywhere in the image with a black border of `padding`."""
    for shift_N in (views.down_N, views.right_N):
        shift_N += torch.randint(
            -padding, padding + 1, shift_N.shape, generator=generator, device=shift_N.device
        )


def flip(views: Views, generator: torch.Generator, *, probability: Fraction = 0.5) -> None:
    """Left and right exchanged."""
    drawn_N = torch.rand(
        views.mirrored_N.shape, generator=generator, device=views.mirrored_N.device
    )
    views.mirrored_N ^= drawn_N < probability


TRANSFORMS: Mapping[str, Callable[..., None]] = {
    "crop": crop,
    "flip": flip,
}
