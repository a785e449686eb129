"""Batch norms put into the convolutions before them: less to do, the same predictions."""

import copy
from collections.abc import Iterable
from typing import Protocol, TypeVar, cast, runtime_checkable

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

M = TypeVar("M", bound=nn.Module)


@runtime_checkable
class Foldable(Protocol):
    """A backbone that knows which of its batch norms follow a convolution."""

    def folded(self) -> nn.Module:
        """A copy for evaluation, without these batch norms."""
        ...


def fold(backbone: M, pairs: Iterable[tuple[str, str]]) -> M:
    """A copy for evaluation in which each batch norm is part of its convolution.

    Args:
        pairs: dotted names of a convolution and of the batch norm that alone reads it.
    """
    folded = copy.deepcopy(backbone).eval()
    for convolution, norm in pairs:
        fused = fuse_conv_bn_eval(
            cast(nn.Conv2d, folded.get_submodule(convolution)),
            cast(nn.BatchNorm2d, folded.get_submodule(norm)),
        )
        folded.set_submodule(convolution, fused)
        folded.set_submodule(norm, nn.Identity())
    return folded
