"""Classifier heads: features (B, D) to logits (B, C), in full precision whatever autocast says.

Two logits that bfloat16 cannot tell apart would go to the lower label, often the more frequent
class: in tests, and in what a loss counts as a mistake.
Shapes: N training images, B batch, D features, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.class_vectors import log_prior
from lt_bench.schema import Table


def linear(features_BD: Tensor, weight_CD: Tensor, bias_C: Tensor | None = None) -> Tensor:
    """Affine logits in the weight's precision."""
    with torch.autocast(features_BD.device.type, enabled=False):
        return F.linear(features_BD.to(weight_CD.dtype), weight_CD, bias_C)


class LinearHead(nn.Linear):
    """Affine logits; Kaiming-normal weights as in LDAM-DRW's CIFAR code, and a bias of zero.

    On every backbone: the code of Decoupling leaves torch's smaller uniform weights instead.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, features_BD: Tensor) -> Tensor:
        return linear(features_BD, self.weight, self.bias)


class CosineHead(nn.Module):
    """Cosines of features and class vectors, in [-1, 1] (LDAM-DRW's NormedLinear, transposed)."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        directions = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(directions, dim=1))
        self.register_parameter("bias", None)

    def forward(self, features_BD: Tensor) -> Tensor:
        features_BD = F.normalize(features_BD.to(self.weight.dtype), dim=1)
        return linear(features_BD, F.normalize(self.weight, dim=1))


class ScaledHead(nn.Module):
    """A head with one learnable scale per class (LWS, Kang et al., 2020, section 4.3)."""

    def __init__(self, head: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.head = head
        self.scale_C = nn.Parameter(torch.ones(num_classes))

    def forward(self, features_BD: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(features_BD)
        return logits_BC * self.scale_C


class AdjustedHead(nn.Module):
    """A head less the log of the training prior (post-hoc logit adjustment, Menon et al., 2021)."""

    adjustment_C: Tensor

    def __init__(self, head: nn.Module, class_counts: Tensor, tau: float) -> None:
        super().__init__()
        self.head = head
        adjustment_C = log_prior(class_counts, tau)
        self.register_buffer("adjustment_C", adjustment_C.to(torch.get_default_dtype()))

    def forward(self, features_BD: Tensor) -> Tensor:
        logits_BC: Tensor = self.head(features_BD)
        return logits_BC - self.adjustment_C


class NearestMeanHead(nn.Module):
    """Minus the distance to each class mean, on centred features of unit length (NCM)."""

    center_D: Tensor
    mean_CD: Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("center_D", torch.zeros(num_features))
        self.register_buffer("mean_CD", torch.zeros(num_classes, num_features))

    def fit(self, features_ND: Tensor, labels_N: Tensor) -> None:
        """Take the centre and the class means of training features."""
        self.center_D.copy_(features_ND.mean(dim=0))
        unit_ND = F.normalize(features_ND - self.center_D, dim=1)
        sums_CD = torch.zeros_like(self.mean_CD).index_add_(0, labels_N, unit_ND)
        counts_C = torch.bincount(labels_N, minlength=len(sums_CD))
        self.mean_CD.copy_(sums_CD / counts_C[:, None])

    def forward(self, features_BD: Tensor) -> Tensor:
        with torch.autocast(features_BD.device.type, enabled=False):
            unit_BD = F.normalize(features_BD.to(self.mean_CD.dtype) - self.center_D, dim=1)
            return -torch.cdist(unit_BD, self.mean_CD)


class TauHead(nn.Module):
    """A linear head with tau-normalised weights and no bias (tau-norm)."""

    tau: Tensor

    def __init__(self, head: nn.Linear, tau: float) -> None:
        super().__init__()
        self.head = head
        self.register_buffer("tau", torch.tensor(tau))

    def forward(self, features_BD: Tensor) -> Tensor:
        return linear(features_BD, tau_normalised(self.head.weight, self.tau))


def tau_normalised(weight_CD: Tensor, tau: Tensor | float) -> Tensor:
    """Class weight vectors, each divided by its norm to the power tau (Kang et al., 2020)."""
    norm_C1: Tensor = torch.linalg.vector_norm(weight_CD, dim=1, keepdim=True)
    return weight_CD / norm_C1**tau


HEADS: Table = {"linear": LinearHead, "cosine": CosineHead}
