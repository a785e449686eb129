"""Mixup and CutMix: batches in which each image is two, and what their targets then are."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """Two labels per image: `first` counts `share` (a fraction), `second` the rest."""

    first: Tensor
    second: Tensor
    share: float


class Mixer:
    """Mixes each image of a batch with its predecessor, by torchvision's MixUp and CutMix.

    Draws from the default CPU generator, so nothing waits for the device. Where both are on, each
    batch takes one of them at even odds, as timm does.

    Args:
        mixup: alpha of Zhang et al. (2018), the parameter of the Beta distribution; 0 is off.
        cutmix: alpha of Yun et al. (2019); 0 is off.
    """

    def __init__(self, *, mixup: float, cutmix: float) -> None:
        from torchvision.transforms import v2  # half a second that few runs need

        kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
        self.mixers = [kind(alpha=alpha, num_classes=1) for kind, alpha in kinds if alpha > 0]

    def __call__(self, images: Tensor, target_B: Tensor) -> tuple[Tensor, Mixed]:
        mixer = self.mixers[int(torch.randint(len(self.mixers), ()))]
        drawn = mixer.make_params([images])
        drawn |= {"labels": None, "batch_size": len(images)}
        share = drawn.get("lam", drawn.get("lam_adjusted"))
        # mixup rolls the batch, and CUDA's roll gives up the layout
        mixed = mixer.transform(images, drawn).contiguous(memory_format=torch.channels_last)
        return mixed, Mixed(target_B, target_B.roll(1, 0), share)
