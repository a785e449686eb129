"""Every backbone a recipe can name."""

from lt_bench.config import Table
from lt_bench.models.cifar_resnet import CifarResNet, SmallConvNet
from lt_bench.models.pretrained import timm

BACKBONES: Table = {"cifar_resnet": CifarResNet, "small_conv": SmallConvNet, "timm": timm}
