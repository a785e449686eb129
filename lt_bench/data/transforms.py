"""Augmentation: what is drawn for each image of an epoch; the loader applies it batch by batch.

Shape suffixes: N images of the epoch, in the order in which they are visited; B images of a batch;
C, H, W channels, height and width; K the three changes of colour.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from lt_bench.data.images import RandomWindow, Window
from lt_bench.errors import ConfigError
from lt_bench.schema import Count, Fraction, NonNegative, Positive, Range

# Changes the pixels, in 0..1, of the images of a batch; the slice says which of the epoch they are.
Change = Callable[[Tensor, slice], Tensor]


@dataclass
class Views:
    """How each image of an epoch is seen: mirrored, shifted with black coming in, then changed."""

    mirrored_N: Tensor
    down_N: Tensor
    right_N: Tensor
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def plain(cls, num_images: int, device: torch.device) -> "Views":
        shift_N = torch.zeros(num_images, dtype=torch.int64, device=device)
        return cls(shift_N.bool(), shift_N, shift_N.clone())


class Transform:
    """Changes the views of an epoch in place.

    `margin` is the furthest it shifts an image; `mirrors` says whether it mirrors any; `window`
    is how it has images cut out of their files; `needs_color`, that they are red, green and blue.
    """

    margin: int = 0
    mirrors: ClassVar[bool] = False
    needs_color: ClassVar[bool] = False
    window: Window | None = None

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        """Draw for every image of the epoch; by default nothing is drawn here."""


class Crop(Transform):
    """A window of the image's own size, anywhere in the image with a black border of `padding`."""

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


class Flip(Transform):
    """Left and right exchanged, for this share of the images."""

    mirrors = True

    def __init__(self, *, probability: Fraction = 0.5) -> None:
        self.probability = probability

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        mirrored_N = views.mirrored_N
        drawn_N = torch.rand(mirrored_N.shape, generator=generator, device=mirrored_N.device)
        mirrored_N ^= drawn_N < self.probability


class RandomResizedCrop(Transform):
    """A box of random area and aspect ratio, resized to the size of the images.

    Args:
        scale: smallest and largest share of the image's area.
        ratio: smallest and largest width over height.
    """

    def __init__(
        self,
        *,
        scale: tuple[Annotated[float, Range(above=0, high=1)], ...] = (0.08, 1.0),
        ratio: tuple[Positive, ...] = (3 / 4, 4 / 3),
    ) -> None:
        for name, limits in (("scale", scale), ("ratio", ratio)):
            if len(limits) != 2 or limits[0] > limits[1]:
                raise ConfigError(f"{name}: {list(limits)} is not [smallest, largest]")
        self.window = RandomWindow((scale[0], scale[1]), (ratio[0], ratio[1]))


class ColorJitter(Transform):
    """Brightness, contrast and saturation, each by a factor up to this far from 1, in any order."""

    needs_color = True
    BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2

    def __init__(
        self,
        *,
        brightness: NonNegative = 0.4,
        contrast: NonNegative = 0.4,
        saturation: NonNegative = 0.4,
    ) -> None:
        self.strength_K = (brightness, contrast, saturation)

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        device = views.mirrored_N.device
        shape = (len(views.mirrored_N), len(self.strength_K))
        drawn_NK = torch.rand(shape, generator=generator, device=device)
        strength_K = torch.tensor(self.strength_K, device=device)
        factor_NK = (1 + strength_K * (2 * drawn_NK - 1)).clamp(min=0)
        order_NK = torch.rand(shape, generator=generator, device=device).argsort(dim=1)
        views.changes.append(partial(self._change, factor_NK, order_NK))

    def _change(self, factor_NK: Tensor, order_NK: Tensor, images: Tensor, batch: slice) -> Tensor:
        """Each change is a blend with black, with the image's mean gray, or with its gray."""
        factor_BK, order_BK = factor_NK[batch], order_NK[batch]
        for place in range(order_BK.shape[1]):
            kind_B = order_BK[:, place]
            factor_B111 = factor_BK.gather(1, kind_B[:, None])[:, :, None, None]
            kind_B111 = kind_B[:, None, None, None]
            red, green, blue = images.unbind(1)
            gray_B1HW = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]
            mean_B111 = gray_B1HW.mean(dim=(2, 3), keepdim=True)
            other = torch.where(kind_B111 == self.CONTRAST, mean_B111, gray_B1HW)
            other = torch.where(kind_B111 == self.BRIGHTNESS, 0, other)
            images = torch.lerp(other.expand_as(images), images, factor_B111).clamp_(0, 1)
        return images


class AutoAugment(Transform):
    """The sub-policies that Cubuk et al. (2019) found on CIFAR-10 or ImageNet, by torchvision.

    One is drawn for each image, from the default generators. torchvision works through an image at
    a time, which costs more than the rest of the input together.

    Args:
        fill: the gray, of 255, that comes in at the edges; 128 in the field's CIFAR code.
    """

    def __init__(
        self,
        *,
        policy: Literal["cifar10", "imagenet"] = "cifar10",
        fill: Annotated[int, Range(low=0, high=255)] = 128,
    ) -> None:
        from torchvision.transforms import v2  # half a second that few runs need

        self.policy = v2.AutoAugment(v2.AutoAugmentPolicy(policy), fill=fill)

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        views.changes.append(self._change)

    def _change(self, images: Tensor, batch: slice) -> Tensor:
        pixels = images.mul(255).round_().to(torch.uint8)
        return torch.stack([self.policy(image) for image in pixels]).to(images.dtype).div_(255)


class Cutout(Transform):
    """A gray square anywhere on the image, cut off at its edges (DeVries and Taylor, 2017).

    Args:
        length: side in pixels; 16 on CIFAR.
        fill: the gray, of 1. The published code fills with the data's mean, which on CIFAR is
            0.45 to 0.49 by channel.
    """

    def __init__(self, *, length: Count = 16, fill: Fraction = 0.5) -> None:
        self.length = length
        self.fill = fill

    def __call__(self, views: Views, generator: torch.Generator) -> None:
        shape = (2, len(views.mirrored_N))
        drawn = torch.rand(shape, generator=generator, device=views.mirrored_N.device)
        views.changes.append(partial(self._change, drawn))

    def _change(self, drawn_2N: Tensor, images: Tensor, batch: slice) -> Tensor:
        is_inside = [
            self._is_inside(size, drawn_N[batch])
            for size, drawn_N in zip(images.shape[2:], drawn_2N, strict=True)
        ]
        is_cut_BHW = is_inside[0][:, :, None] & is_inside[1][:, None, :]
        return images.masked_fill(is_cut_BHW[:, None], self.fill)

    def _is_inside(self, size: int, drawn_B: Tensor) -> Tensor:
        """Which of `size` rows or columns the square covers, its centre drawn among them."""
        first_B = (drawn_B * size).long() - self.length // 2
        place = torch.arange(size, device=drawn_B.device)
        return (place >= first_B[:, None]) & (place < first_B[:, None] + self.length)


TRANSFORMS: Mapping[str, Callable[..., Transform]] = {
    "crop": Crop,
    "flip": Flip,
    "random_resized_crop": RandomResizedCrop,
    "color_jitter": ColorJitter,
    "auto_augment": AutoAugment,
    "cutout": Cutout,
}
