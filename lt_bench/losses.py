"""Per-sample losses: built from class counts, called with logits, target and Progress.

Shapes: B batch, C classes, T tail classes. A loss returns loss_B in nats unless it says otherwise;
class weights and the division belong to `weighting.Objective`.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.config import Fraction, NonNegative, Positive, Range, Table
from lt_bench.errors import ConfigError
from lt_bench.progress import Progress

Beta = Annotated[float, Range(low=0, below=1)]


class Loss(nn.Module):
    """What methods and reports ask of a loss besides `forward`.

    `per_rank` marks a loss of the whole batch: on several ranks, each rank's batch is a batch of
    its own, so that the sum over ranks differs from one rank's result.
    """

    per_rank = False

    def forward(
        self, logits_BC: Tensor, target_B: Tensor, progress: Progress = Progress()
    ) -> Tensor:
        raise NotImplementedError

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        """The class scores that calibration is measured on."""
        return logits_BC.softmax(1)

    def initial_bias(self) -> float | None:
        """Where the head's bias must start, and stay free of weight decay; None: no demand."""
        return None


def effective_number_weight(class_counts: Tensor, beta: float) -> Tensor:
    """Inverse effective numbers, (1 - beta) / (1 - beta^n_c), in float64, scaled to sum to C."""
    log_beta = torch.tensor(beta, dtype=torch.float64).log()
    return _sum_to_num_classes(-1 / torch.expm1(_all_present(class_counts) * log_beta))


def inverse_frequency_weight(class_counts: Tensor) -> Tensor:
    """1 / n_c in float64, scaled to sum to C."""
    return _sum_to_num_classes(1 / _all_present(class_counts))


def is_tail(
    class_counts: Tensor, threshold: float | None = None, tail_ratio: float | None = None
) -> Tensor:
    """Which classes count as tail, by frequency or by their share of the images.

    Args:
        threshold: lambda of the equalization losses: tail is n_c / n < threshold, strictly.
        tail_ratio: tail is the largest set of rarest classes, equal counts together, that holds
            at most this share of the images; 0.05 when neither is given.
    """
    if threshold is not None and tail_ratio is not None:
        raise ConfigError(
            f"threshold: {threshold:g} and tail_ratio {tail_ratio:g} both say what tail is; "
            "give one of them"
        )
    if threshold is not None:
        return class_counts.double() / class_counts.sum() < threshold
    ratio = 0.05 if tail_ratio is None else tail_ratio
    rising_C = class_counts.sort().values
    last_of_equals_C = torch.searchsorted(rising_C, class_counts, right=True) - 1
    images_up_to_C = rising_C.cumsum(0)[last_of_equals_C]
    return images_up_to_C <= ratio * class_counts.sum()


class CrossEntropy(Loss):
    """Cross-entropy of the softmax."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()

    def forward(
        self, logits_BC: Tensor, target_B: Tensor, progress: Progress = Progress()
    ) -> Tensor:
        return F.cross_entropy(logits_BC, target_B, reduction="none")


class Focal(Loss):
    """Focal loss on the softmax: (1 - p)^gamma * CE (Lin et al., 2017, eq. 4, for one label).

    The factor takes part in the gradient; some repositories detach it.

    Args:
        exponent_beta: the habit of LDAM-DRW's code, which passes the class-balanced weight w of
            this beta into the cross-entropy first: (1 - p^w)^gamma * w * CE. The published
            class-balanced focal loss has w outside; leave this unset and use a weighting.
    """

    weight_C: Tensor

    def __init__(
        self, class_counts: Tensor, *, gamma: NonNegative = 1.0, exponent_beta: Beta | None = None
    ) -> None:
        super().__init__()
        self.gamma = gamma
        weight_C = torch.ones(len(class_counts))
        if exponent_beta is not None:
            weight_C = _in_default_dtype(effective_number_weight(class_counts, exponent_beta))
        self.register_buffer("weight_C", weight_C)

    def forward(
        self, logits_BC: Tensor, target_B: Tensor, progress: Progress = Progress()
    ) -> Tensor:
        cross_entropy_B = F.cross_entropy(logits_BC, target_B, reduction="none")
        cross_entropy_B = self.weight_C[target_B] * cross_entropy_B
        return _power(-torch.expm1(-cross_entropy_B), self.gamma) * cross_entropy_B


class LDAM(Loss):
    """Label-distribution-aware margins (Cao et al., 2019, eq. 13): cross-entropy of
    scale * (z - margin at the target), margin_c = max_margin * (n_min / n_c)^(1/4).

    The logits must be cosines (the `cosine` head); `scale` is applied here, once.
    """

    margin_C: Tensor

    def __init__(
        self, class_counts: Tensor, *, max_margin: NonNegative = 0.5, scale: Positive = 30.0
    ) -> None:
        super().__init__()
        self.scale = scale
        margin_C = _all_present(class_counts).pow(-0.25)
        self.register_buffer("margin_C", _in_default_dtype(max_margin * margin_C / margin_C.max()))

    def forward(
        self, logits_BC: Tensor, target_B: Tensor, progress: Progress = Progress()
    ) -> Tensor:
        scaled_BC = self.scale * logits_BC
        shift_B = -self.scale * self.margin_C[target_B]
        scaled_BC.scatter_add_(1, target_B.unsqueeze(1), shift_B.unsqueeze(1))
        return F.cross_entropy(scaled_BC, target_B, reduction="none")

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return (self.scale * logits_BC).softmax(1)


class SoftmaxEqualization(Loss):
    """Softmax equalization loss, SEQL (Tan et al., 2020, eq. 9-11).

    A tail class leaves the denominator of every sample of another class with probability `gamma`.
    The paper does not say how often that is drawn; like its authors' code, once per sample and
    class. Their code keeps a class whose frequency equals `threshold`; here as in the paper it is
    not tail.
    """

    tail_T: Tensor
    slot_C: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        gamma: Fraction = 0.9,
        threshold: NonNegative | None = None,
        tail_ratio: Fraction | None = None,
    ) -> None:
        super().__init__()
        self.gamma = gamma
        is_tail_C = is_tail(class_counts, threshold, tail_ratio)
        tail_T = is_tail_C.nonzero().squeeze(1)
        slot_C = torch.full_like(class_counts, len(tail_T))
        slot_C[tail_T] = torch.arange(len(tail_T))
        self.register_buffer("tail_T", tail_T)
        # where a class stands in tail_T; all others share the slot after its end
        self.register_buffer("slot_C", slot_C)

    def forward(
        self,
        logits_BC: Tensor,
        target_B: Tensor,
        progress: Progress = Progress(),
        uniform_BC: Tensor | None = None,
    ) -> Tensor:
        """`uniform_BC` injects the draw: a tail class leaves where it is below gamma."""
        num_samples, num_tail = len(logits_BC), len(self.tail_T)
        leaves = logits_BC.new_empty((num_samples, num_tail + 1), dtype=torch.bool)
        if uniform_BC is None:
            leaves.bernoulli_(self.gamma)
        else:
            leaves[:, :num_tail] = uniform_BC[:, self.tail_T] < self.gamma
        leaves.scatter_(1, self.slot_C[target_B].unsqueeze(1), False)
        penalty_BT = torch.zeros_like(leaves[:, :num_tail], dtype=logits_BC.dtype)
        penalty_BT.masked_fill_(leaves[:, :num_tail], -torch.inf)
        kept_BC = logits_BC.index_add(1, self.tail_T, penalty_BT)
        return F.cross_entropy(kept_BC, target_B, reduction="none")


class BalancedSoftmax(Loss):
    """Balanced softmax (Ren et al., 2020, eq. 4): cross-entropy of z + log n_c.

    Training only; prediction uses z. A class without training images gets no gradient.
    """

    log_count_C: Tensor

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_count_C", _in_default_dtype(class_counts.double().log()))

    def forward(
        self, logits_BC: Tensor, target_B: Tensor, progress: Progress = Progress()
    ) -> Tensor:
        return F.cross_entropy(logits_BC + self.log_count_C, target_B, reduction="none")


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0, with a finite gradient at 0 for exponents below 1."""
    return base.clamp(min=torch.finfo(base.dtype).tiny).pow(exponent)


def _all_present(class_counts: Tensor) -> Tensor:
    """The counts in float64; refuses a class without training images, whose weight is infinite."""
    if bool((class_counts < 1).any()):
        empty = int((class_counts < 1).nonzero()[0])
        raise ConfigError(
            f"class_counts: class {empty} has no training image; "
            "leave the class out or choose a part that takes it, such as balanced_softmax"
        )
    return class_counts.double()


def _sum_to_num_classes(weight_C: Tensor) -> Tensor:
    return weight_C * (len(weight_C) / weight_C.sum())


def _in_default_dtype(vector_C: Tensor) -> Tensor:
    return vector_C.to(torch.get_default_dtype())


LOSSES: Table = {
    "ce": CrossEntropy,
    "focal": Focal,
    "ldam": LDAM,
    "seql": SoftmaxEqualization,
    "balanced_softmax": BalancedSoftmax,
}
