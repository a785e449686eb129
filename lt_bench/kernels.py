"""What torch has too, in less time or memory on a CPU. B batch, C classes, K blocks of classes."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def cross_entropy(logits_BC: Tensor, target_B: Tensor) -> Tensor:
    """-log softmax at the target, per sample.

    On CPU, where memory is what costs, with two (B, C) arrays instead of torch's three: half to
    nine tenths of its time from 1,000 classes on.
    """
    if logits_BC.device.type == "cpu":
        return cast(Tensor, _KeptSoftmax.apply(logits_BC, target_B))
    return F.cross_entropy(logits_BC, target_B, reduction="none")


def first_argmax(logits_BC: Tensor, width: int = 64) -> Tensor:
    """argmax(1), the first of equals.

    On CPU, torch's argmax takes longer than a whole log-softmax, so this looks for the first block
    of `width` classes that holds the maximum, then inside it: 2.5 to 5 times faster.
    """
    num_classes = logits_BC.shape[1]
    if logits_BC.device.type != "cpu" or num_classes < 4 * width:
        return logits_BC.argmax(1)
    whole = num_classes - num_classes % width
    maxima_BK = logits_BC[:, :whole].reshape(-1, whole // width, width).amax(2)
    if whole < num_classes:
        rest_B1 = logits_BC[:, whole:].amax(1, keepdim=True)
        maxima_BK = torch.cat([maxima_BK, rest_B1], 1)
    # the last window reaches back over classes that are all below the maximum
    start_B = (width * maxima_BK.argmax(1)).clamp(max=num_classes - width)
    window = logits_BC.unfold(1, width, 1)[torch.arange(len(start_B)), start_B]
    return start_B + window.argmax(1)


def uniform(like: Tensor, rows: int, columns: int) -> Tensor:
    """Draws from 0, 1/65536, ... 65535/65536 in the type and on the device of `like`.

    Four out of each random number of 64 bits, since drawing is what costs.
    """
    total = rows * columns
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-total // 4),), device=like.device)
    signed = bits.view(torch.int16)[:total].view(rows, columns)
    return signed.to(like.dtype).add_(2**15).mul_(2**-16)


class _KeptSoftmax(torch.autograd.Function):
    """Cross-entropy that keeps the softmax, which is all its gradient needs."""

    @staticmethod
    def forward(ctx: Any, logits_BC: Tensor, target_B: Tensor) -> Tensor:
        target_B1 = target_B.unsqueeze(1)
        p_BC = logits_BC.softmax(1)
        ctx.save_for_backward(p_BC, target_B1)
        # the largest probability is at least 1 / C, so its logarithm is safe; large logits leave
        # before it comes, lest they round it away
        behind_B = logits_BC.amax(1) - logits_BC.gather(1, target_B1).squeeze(1)
        return behind_B - p_BC.amax(1).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor, None]:
        p_BC, target_B1 = ctx.saved_tensors
        grad_B1 = grad_B.unsqueeze(1)
        return (p_BC * grad_B1).scatter_add_(1, target_B1, -grad_B1), None
