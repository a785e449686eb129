"""Every backbone a recipe can name."""

from lt_bench.models.cifar_resnet import CifarResNet, SmallConvNet
from lt_bench.models.pretrained import resnet10, timm
from lt_bench.schema import Table

BACKBONES: Table = {
    "cifar_resnet": CifarResNet,
    "small_conv": SmallConvNet,
    "resnet10": resnet10,
    "timm": timm,
}
