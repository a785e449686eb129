"""Classifier heads: features (B, D) to logits (B, C)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.config import Table


class LinearHead(nn.Linear):
    """Affine logits, initialised as in the field's CIFAR code: Kaiming-normal weight, zero bias."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)


class CosineHead(nn.Module):
    """Cosines of features and class vectors, in [-1, 1] (LDAM-DRW's NormedLinear, transposed).

    Computed in the weight's precision whatever autocast says: LDAM multiplies the result by 30,
    and bfloat16 has two decimal digits.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        directions = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(directions, dim=1))
        self.register_parameter("bias", None)

    def forward(self, features_BD: Tensor) -> Tensor:
        with torch.autocast(features_BD.device.type, enabled=False):
            features_BD = features_BD.to(self.weight.dtype)
            return F.linear(F.normalize(features_BD, dim=1), F.normalize(self.weight, dim=1))


HEADS: Table = {"linear": LinearHead, "cosine": CosineHead}
