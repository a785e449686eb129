"""The residual networks of the field's CIFAR tables: three stages of 16, 32 and 64 channels.

Each ReLU and each sum overwrites what it reads, which nothing else needs: the same bits, sooner.
"""

from typing import Annotated, Self

import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.errors import ConfigError
from lt_bench.models.folding import fold
from lt_bench.schema import Range


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is He et al.'s option A, which has no parameters."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.missing = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(_relu(self.bn1(self.conv1(x)))))
        if self.missing:
            x = x[:, :, :: self.stride, :: self.stride]
            x = F.pad(x, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return _relu(out.add_(x))


class CifarResNet(nn.Module):
    """ResNet for 32x32 images (He et al., 2016, section 4.2): depth 6n + 2, 64 features.

    Depth 32 with option-A shortcuts has 0.46 M parameters with its head, and is the backbone of
    every plain CIFAR-LT table since Cao et al. (2019).
    """

    def __init__(self, *, depth: Annotated[int, Range(low=8)] = 32) -> None:
        if (depth - 2) % 6:
            raise ConfigError(f"depth: {depth} is not 6n + 2; write {depth - (depth - 2) % 6}")
        super().__init__()
        self.num_features = 64
        self.stem = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, in_channels = [], 16
        for channels in (16, 32, 64):
            for index in range((depth - 2) // 6):
                stride = 2 if index == 0 and channels > 16 else 1
                blocks.append(BasicBlock(in_channels, channels, stride))
                in_channels = channels
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.blocks(_relu(self.bn(self.stem(images))))
        return x.mean(dim=(2, 3))

    def folded(self) -> Self:
        pairs = [("stem", "bn")]
        for index in range(len(self.blocks)):
            pairs += [(f"blocks.{index}.conv{i}", f"blocks.{index}.bn{i}") for i in (1, 2)]
        return fold(self, pairs)


class SmallConvNet(nn.Module):
    """Three convolutions for the 8x8 digits; 64 features, 57 k parameters."""

    def __init__(self, *, in_channels: Annotated[int, Range(low=1)] = 1) -> None:
        super().__init__()
        self.num_features = 64
        layers: list[nn.Module] = []
        for channels, stride in ((32, 1), (64, 2), (64, 1)):
            layers += [
                nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            ]
            in_channels = channels
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.layers(images)
        return x.mean(dim=(2, 3))

    def folded(self) -> Self:
        starts = range(0, len(self.layers), 3)
        return fold(self, [(f"layers.{at}", f"layers.{at + 1}") for at in starts])


def _relu(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)
