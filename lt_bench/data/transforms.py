"""Augmentation: what is drawn for each image of an epoch; the loader applies it batch by batch.

Shape suffixes: N images of the epoch, in the order in which they are visited.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lt_bench.config import Count, Fraction


@dataclass
class Views:
    """How each image of an epoch is seen: mirrored, then shifted, with black coming in."""

    mirrored_N: Tensor
    down_N: Tensor
    right_N: Tensor

    @classmethod
    def plain(cls, num_images: int, device: torch.device) -> "Views":
        shift_N = torch.zeros(num_images, dtype=torch.int64, device=device)
        return cls(shift_N.bool(), shift_N, shift_N.clone())


class Transform(Protocol):
    """Changes the views of an epoch in place.

    `margin` is the furthest it shifts an image; `mirrors` says whether it mirrors any.
    """

    margin: int
    mirrors: bool

    def __call__(self, views: Views, generator: torch.Generator) -> None: ...


class Crop:
    """A window of the image's own size, anywhere in the image with a black border of `padding`."""

    mirrors = False

    def __init__(self, *, padding: Count = 4) -> None:
        self.margin = padding

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        for shift_N in (views.down_N, views.right_N):
            shift_N += torch.randint(
                -self.margin,
                self.margin + 1,
                shift_N.shape,
                generator=generator,
                device=shift_N.device,
            )


class Flip:
    """Left and right exchanged, for this share of the images."""

    margin = 0
    mirrors = True

    def __init__(self, *, probability: Fraction = 0.5) -> None:
        self.probability = probability

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        mirrored_N = views.mirrored_N
        drawn_N = torch.rand(mirrored_N.shape, generator=generator, device=mirrored_N.device)
        mirrored_N ^= drawn_N < self.probability


TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "crop": Crop,
    "flip": Flip,
}
