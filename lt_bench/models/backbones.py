"""Every backbone a recipe can name."""

from lt_bench.models.cifar_resnet import CifarResNet, SmallConvNet
from lt_bench.models.pretrained import timm

BACKBONES = {"cifar_resnet": CifarResNet, "small_conv": SmallConvNet, "timm": timm}
