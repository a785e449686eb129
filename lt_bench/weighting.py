"""Class weights, and the objective that joins loss, weighting and reduction.

Shapes: B batch, C classes. A weighting is called like a loss and returns weight_C.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from lt_bench.class_vectors import effective_number_weight, inverse_frequency_weight
from lt_bench.config import ObjectiveConfig
from lt_bench.data.mixing import Mixed
from lt_bench.errors import ConfigError
from lt_bench.kernels import first_argmax
from lt_bench.losses import LOSSES, Beta, Loss
from lt_bench.progress import START, Progress
from lt_bench.runtime import mean_over_ranks, sum_over_ranks, world_size
from lt_bench.schema import Fraction, Start, Table, build

Estimate = Literal["decayed_counts", "official_batch", "official_ema", "paper_batch", "present_ema"]

# Share of the old value kept at each visit, for the estimates that keep one.
MEMORY = {"decayed_counts": 0.99, "official_ema": 0.5, "present_ema": 0.5}


class Weighting(nn.Module):
    """Returns its weight_C, as it stays unless a subclass changes that.

    `is_tracking` marks one whose `weight_C` follows the training; it is then logged.
    """

    is_tracking = False
    weight_C: Tensor

    def __init__(self, weight_C: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_C", weight_C.to(torch.get_default_dtype()))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        return self.weight_C


class Objective(nn.Module):
    """Loss x weighting x reduction; also a plain criterion: `objective(logits, target)`.

    Takes logits (B, C) or (B, C, *spatial) with targets to match. Where `ignore_index` is set,
    elements with that target leave before anything is counted.
    """

    def __init__(
        self,
        loss: Loss,
        weighting: Weighting,
        reduction: str,
        *,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "weighted_mean"):
            raise ConfigError(f"reduction: unknown {reduction!r}; known: mean, weighted_mean")
        self.loss = loss
        self.weighting = weighting
        self.reduction = reduction
        self.ignore_index = ignore_index

    def forward(
        self, logits_BC: Tensor, target_B: Tensor | Mixed, progress: Progress = START
    ) -> Tensor:
        self._refuse_unfit(logits_BC, target_B)
        with torch.autocast(logits_BC.device.type, enabled=False):
            logits_BC = logits_BC.to(torch.get_default_dtype())
            if isinstance(target_B, Mixed):
                if self.ignore_index is not None:
                    raise ConfigError("ignore_index: has no effect on mixed labels; leave it out")
                return self._mixed(logits_BC, target_B, progress)
            logits_BC, target_B = self._elements(logits_BC, target_B)
            weight_C = self.weighting(logits_BC, target_B, progress)
            return self._reduced(logits_BC, target_B, weight_C, progress)

    def _mixed(self, logits_BC: Tensor, target: Mixed, progress: Progress) -> Tensor:
        """Both labels' objectives, in their shares.

        A weighting that counts samples counts the first label; a loss that does, both.
        """
        weight_C = self.weighting(logits_BC, target.first, progress)
        first = self._reduced(logits_BC, target.first, weight_C, progress)
        second = self._reduced(logits_BC, target.second, weight_C, progress)
        return target.share * first + (1 - target.share) * second

    def _reduced(
        self, logits_BC: Tensor, target_B: Tensor, weight_C: Tensor, progress: Progress
    ) -> Tensor:
        loss_B = self.loss(logits_BC, target_B, progress)
        return reduce(loss_B, weight_C.index_select(0, target_B), self.reduction)

    def _elements(self, logits_BC: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
        """Dense logits and targets as a batch, without what is ignored."""
        if logits_BC.ndim > 2:
            logits_BC = logits_BC.movedim(1, -1).flatten(0, -2)
            target_B = target_B.flatten()
        if self.ignore_index is not None:
            kept = target_B != self.ignore_index
            logits_BC, target_B = logits_BC[kept], target_B[kept]
        return logits_BC, target_B

    def _refuse_unfit(self, logits_BC: Tensor, target_B: Tensor | Mixed) -> None:
        num_classes = len(self.weighting.weight_C)
        if logits_BC.ndim < 2 or logits_BC.shape[1] != num_classes:
            raise ConfigError(
                f"logits: {tuple(logits_BC.shape)}, (B, {num_classes}) expected, a column for each "
                "of the class counts that the objective was made from"
            )
        labels = target_B.first if isinstance(target_B, Mixed) else target_B
        wanted = (logits_BC.shape[0], *logits_BC.shape[2:])
        is_empty = not labels.numel() and world_size() == 1  # a rank's share of a batch may be
        if labels.shape != wanted or is_empty:
            raise ConfigError(
                f"target: {tuple(labels.shape)} labels for logits of {tuple(logits_BC.shape)}; "
                "give one for each, and at least one"
            )


def make_objective(
    config: ObjectiveConfig,
    class_counts: Tensor,
    place: str = "objective",
    *,
    ignore_index: int | None = None,
) -> Objective:
    """Build the objective that `config` names; `place` is where its messages point.

    Raises:
        ConfigError: `class_counts` (C,) are no counts, or the parts refuse their options.
    """
    is_odd_C = (class_counts < 0) | (class_counts % 1 != 0)
    if class_counts.ndim != 1 or bool(is_odd_C.any()) or not bool(class_counts.any()):
        raise ConfigError(
            "class_counts: not the number of training images of each class; give whole numbers, "
            "one of them above 0"
        )
    loss = build("loss", config.loss, LOSSES, class_counts, place=f"{place}.loss")
    weighting = build(
        "weighting", config.weighting, WEIGHTINGS, class_counts, place=f"{place}.weighting"
    )
    if loss.per_rank and config.reduction == "mean" and config.weighting.name != "uniform":
        raise ConfigError(
            f"{place}.reduction: 'mean' would scale {config.loss.name!r}, a loss of the whole "
            f"batch, by the weights of {config.weighting.name!r}; write 'weighted_mean'"
        )
    return Objective(loss, weighting, config.reduction, ignore_index=ignore_index)


def reduce(loss_B: Tensor, weight_B: Tensor, reduction: str) -> Tensor:
    """The scalar whose gradient, averaged over ranks, is that of the whole global batch.

    Args:
        reduction: "mean" divides the weighted sum by the number of samples, "weighted_mean" by
            the sum of their weights (zero where all weights are zero).
    """
    own = weight_B.sum() if reduction == "weighted_mean" else weight_B.new_full((), len(weight_B))
    total = mean_over_ranks(own)
    share_B = weight_B / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.dot(share_B, loss_B)


class Uniform(Weighting):
    """Weight 1 for every class."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__(torch.ones(len(class_counts)))


class InverseFrequency(Weighting):
    """1 / n_c, scaled to sum to C: the weight of "weighted cross-entropy"."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__(inverse_frequency_weight(class_counts))


class EffectiveNumber(Weighting):
    """Class-balanced weights (Cui et al., 2019): 1 / effective number, scaled to sum to C.

    The authors' code divides by the batch size ("mean"); torch re-implementations of it, LDAM-DRW's
    among them, by the sum of the picked weights ("weighted_mean").

    Args:
        start: fraction of training before which every weight is 1; 0.8 is the deferred
            reweighting of LDAM-DRW (160 of 200 epochs).
    """

    def __init__(self, class_counts: Tensor, *, beta: Beta = 0.9999, start: Start = 0.0) -> None:
        super().__init__(effective_number_weight(class_counts, beta))
        self.start = start

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        on = 1.0 * (progress.fraction >= self.start)
        return (1 - on) + on * self.weight_C


class Recall(Weighting):
    """Each class weighed by its current share of false negatives (recall loss, Tian et al., 2021).

    The papers count one batch, a segmentation map with many pixels of each class. A batch of
    images holds a few, so the default counts over many visits. Counts are of the argmax against
    the target, summed over ranks, and change in training mode only; in evaluation the weights stay
    those of the last training step.

    Args:
        estimate:
            decayed_counts: counts N_c and false negatives FN_c, decayed by `memory` when the class
                is in the batch; max(FN_c, 1) / max(N_c, 1). Plain cross-entropy at recall 0,
                inverse frequency at recall 1, as the paper derives for large N_c.
            official_batch: the same of this batch alone (recall_loss.py of the authors' code).
            official_ema: the average of that and the previous weights, absent classes counting as
                1 (loss.py of the authors' code).
            paper_batch: 1 - recall in this batch, absent classes 0 (the papers' equation).
            present_ema: running average of 1 - recall over the batches that hold the class; its
                first observation replaces the initial 1.
        memory: share of the old value kept: 0.99 for decayed_counts, 0.5 for the two averages.
        floor: the least weight of present_ema.
    """

    is_tracking = True
    count_C: Tensor
    false_negatives_C: Tensor
    is_seen_C: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        estimate: Estimate = "decayed_counts",
        memory: Fraction | None = None,
        floor: Fraction | None = None,
    ) -> None:
        num_classes = len(class_counts)
        super().__init__(torch.ones(num_classes))
        if memory is not None and estimate not in MEMORY:
            raise ConfigError(
                f"memory: {memory:g} has no effect on {estimate!r}, which counts one batch; "
                f"leave it out or choose one of {', '.join(MEMORY)}"
            )
        if floor is not None and estimate != "present_ema":
            raise ConfigError(
                f"floor: {floor:g} has no effect on {estimate!r}; leave it out or choose "
                "'present_ema'"
            )
        self.estimate = estimate
        self.memory = MEMORY.get(estimate, 0.0) if memory is None else memory
        self.floor = floor or 0.0
        self.register_buffer("count_C", torch.zeros(num_classes))
        self.register_buffer("false_negatives_C", torch.zeros(num_classes))
        # whether there is a previous value to average with
        self.register_buffer("is_seen_C", torch.zeros(num_classes, dtype=torch.bool))

    @torch.no_grad()
    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        if self.training:
            count_C, false_negatives_C = self._count(logits_BC, target_B)
            self.weight_C.copy_(self._weight(count_C, false_negatives_C))
        return self.weight_C

    def _count(self, logits_BC: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
        """Samples and false negatives per class in this step's global batch."""
        is_wrong_B = (first_argmax(logits_BC) != target_B).to(self.count_C.dtype)
        counted_2B = torch.stack([torch.ones_like(is_wrong_B), is_wrong_B])
        counted_2C = self.count_C.new_zeros(2, len(self.count_C))
        counted_2C.index_add_(1, target_B, counted_2B)
        count_C, false_negatives_C = sum_over_ranks(counted_2C)
        return count_C, false_negatives_C

    def _weight(self, count_C: Tensor, false_negatives_C: Tensor) -> Tensor:
        is_present_C = count_C > 0
        if self.estimate == "decayed_counts":
            kept_C = torch.where(is_present_C, self.memory, 1.0)
            count_C = self.count_C.mul_(kept_C).add_(count_C)
            false_negatives_C = self.false_negatives_C.mul_(kept_C).add_(false_negatives_C)
        # the authors' code counts at least one false negative: 1 for a class without samples
        least = 0 if self.estimate in ("paper_batch", "present_ema") else 1
        new_C = false_negatives_C.clamp(min=least) / count_C.clamp(min=1)
        if self.estimate not in ("official_ema", "present_ema"):
            return new_C
        # the running average where there is something new; a first value replaces the initial
        is_new_C = is_present_C if self.estimate == "present_ema" else torch.ones_like(is_present_C)
        average_C = self.memory * self.weight_C + (1 - self.memory) * new_C
        average_C = torch.where(self.is_seen_C, average_C, new_C)
        self.is_seen_C.logical_or_(is_new_C)
        return torch.where(is_new_C, average_C, self.weight_C).clamp(min=self.floor)


WEIGHTINGS: Table = {
    "uniform": Uniform,
    "inverse_frequency": InverseFrequency,
    "effective_number": EffectiveNumber,
    "recall": Recall,
}
