"""Every backbone a recipe can name."""

from lt_bench.config import Table
from lt_bench.models.cifar_resnet import CifarResNet, SmallConvNet
from lt_bench.models.pretrained import resnet10, timm

BACKBONES: Table = {
    "cifar_resnet": CifarResNet,
    "small_conv": SmallConvNet,
    "resnet10": resnet10,
    "timm": timm,
}
