"""Per-sample losses: built from class counts, called with logits, target and Progress.

Shapes: B batch, C classes, T tail classes, G groups of a batch. A loss returns loss_B in nats
unless it says otherwise; class weights and the division belong to `weighting.Objective`.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_bench.class_vectors import (
    effective_number_weight,
    inverse_frequency_weight,
    is_tail,
    log_prior,
    present_counts,
)
from lt_bench.errors import ConfigError
from lt_bench.kernels import cross_entropy, uniform
from lt_bench.progress import START, Progress
from lt_bench.runtime import sum_over_ranks
from lt_bench.schema import Fraction, Moment, NonNegative, Part, Positive, Range, Spec, build

Beta = Annotated[float, Range(low=0, below=1)]


class Loss(nn.Module):
    """What methods and reports ask of a loss besides `forward`.

    `per_rank` marks a loss of the whole batch: on several ranks, each rank's batch is a batch of
    its own, so that the sum over ranks differs from one rank's result. `needs_head` names the only
    head whose logits it is right for, if there is one. `takes_off_prior` marks one whose logits
    come out without the training split's prior, which must not be taken off again.
    """

    per_rank = False
    needs_head: str | None = None
    takes_off_prior = False

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        raise NotImplementedError

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        """The class scores that calibration is measured on."""
        return logits_BC.softmax(1)

    def initial_bias(self) -> float | None:
        """Where the head's bias must start, and stay free of weight decay; None: no demand."""
        return None


class CrossEntropy(Loss):
    """Cross-entropy of the softmax.

    Args:
        label_smoothing: share of the target spread evenly over all classes. A weighting multiplies
            the whole by its label's weight, where torch's `cross_entropy(weight=...)` weighs each
            class's share.
    """

    def __init__(self, class_counts: Tensor, *, label_smoothing: Fraction = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        if self.label_smoothing:
            return F.cross_entropy(
                logits_BC, target_B, reduction="none", label_smoothing=self.label_smoothing
            )
        return cross_entropy(logits_BC, target_B)


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

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        cross_entropy_B = cross_entropy(logits_BC, target_B)
        cross_entropy_B = self.weight_C[target_B] * cross_entropy_B
        return _power(-torch.expm1(-cross_entropy_B), self.gamma) * cross_entropy_B


class LDAM(Loss):
    """Label-distribution-aware margins (Cao et al., 2019, section 3.2): cross-entropy of
    scale * (z - margin at the target), margin_c = max_margin * (n_min / n_c)^(1/4).

    The logits must be cosines; `scale` is applied here, once.
    """

    needs_head = "cosine"
    margin_C: Tensor

    def __init__(
        self, class_counts: Tensor, *, max_margin: NonNegative = 0.5, scale: Positive = 30.0
    ) -> None:
        super().__init__()
        self.scale = scale
        margin_C = present_counts(class_counts).pow(-0.25)
        self.register_buffer("margin_C", _in_default_dtype(max_margin * margin_C / margin_C.max()))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        scaled_BC = self.scale * logits_BC
        shift_B = -self.scale * self.margin_C[target_B]
        scaled_BC.scatter_add_(1, target_B.unsqueeze(1), shift_B.unsqueeze(1))
        return cross_entropy(scaled_BC, target_B)

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return (self.scale * logits_BC).softmax(1)


class SoftmaxEqualization(Loss):
    """Softmax equalization loss, SEQL (Tan et al., 2020, eq. 9-11).

    A tail class leaves the denominator of every sample of another class with probability `gamma`.
    The paper does not say how often that is drawn: here, as in its authors' code, once per sample
    and class. A class exactly at `threshold` is not tail, as in the paper; in their code it is.
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
        slot_C = torch.full_like(is_tail_C, len(tail_T), dtype=torch.int64)
        slot_C[tail_T] = torch.arange(len(tail_T))
        self.register_buffer("tail_T", tail_T)
        # where a class stands in tail_T; all others share the slot after its end
        self.register_buffer("slot_C", slot_C)

    def forward(
        self,
        logits_BC: Tensor,
        target_B: Tensor,
        progress: Progress = START,
        uniform_BC: Tensor | None = None,
    ) -> Tensor:
        """`uniform_BC` injects the draw: a tail class leaves where it is below gamma."""
        num_samples, num_tail = len(logits_BC), len(self.tail_T)
        draw_BT = uniform(logits_BC, num_samples, num_tail + 1)
        if uniform_BC is not None:
            draw_BT[:, :num_tail] = uniform_BC[:, self.tail_T]
        draw_BT.scatter_(1, self.slot_C[target_B].unsqueeze(1), 1.0)  # the target stays
        # 1 where a class leaves, 0 elsewhere, without the detour over booleans, slow on a CPU
        leaves_BT = draw_BT.lt_(self.gamma)[:, :num_tail]
        far_below_BT = leaves_BT.mul_(torch.finfo(leaves_BT.dtype).min)
        return cross_entropy(logits_BC.index_add(1, self.tail_T, far_below_BT), target_B)


class BalancedSoftmax(Loss):
    """Balanced softmax (Ren et al., 2020, theorem 1): cross-entropy of z + log n_c.

    Training only; prediction uses z. A class without training images gets no gradient.
    """

    takes_off_prior = True
    log_count_C: Tensor

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("log_count_C", _in_default_dtype(class_counts.double().log()))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        return cross_entropy(logits_BC + self.log_count_C, target_B)


class LogitAdjusted(Loss):
    """Logit adjustment in training (Menon et al., 2021, eq. 10): cross-entropy of z + log pi^tau.

    With tau 1 this is the balanced softmax up to the 1e-12 of the authors' code (`log_prior`).
    """

    takes_off_prior = True
    log_prior_C: Tensor

    def __init__(self, class_counts: Tensor, *, tau: NonNegative = 1.0) -> None:
        super().__init__()
        self.register_buffer("log_prior_C", _in_default_dtype(log_prior(class_counts, tau)))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        return cross_entropy(logits_BC + self.log_prior_C, target_B)


class VectorScaling(Loss):
    """Vector-scaling loss, VS (Kini et al., 2021): cross-entropy of
    z_c / (n_max / n_c)^gamma + tau * log pi_c.
    """

    takes_off_prior = True
    factor_C: Tensor
    shift_C: Tensor

    def __init__(
        self, class_counts: Tensor, *, gamma: NonNegative = 0.3, tau: NonNegative = 1.0
    ) -> None:
        super().__init__()
        count_C = present_counts(class_counts)
        self.register_buffer("factor_C", _in_default_dtype((count_C / count_C.max()).pow(gamma)))
        self.register_buffer("shift_C", _in_default_dtype(tau * (count_C / count_C.sum()).log()))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        scaled_BC = torch.addcmul(self.shift_C, logits_BC, self.factor_C)
        return cross_entropy(scaled_BC, target_B)


class LADE(Loss):
    """Label distribution disentangling loss (Hong et al., 2021): logit adjustment plus a
    regulariser of the whole batch, which every sample carries in full.

    Args:
        strength: factor of the regulariser, the paper's alpha.
        penalty: factor of the squared term within it, the paper's lambda.
    """

    per_rank = True
    takes_off_prior = True
    prior_C: Tensor
    log_prior_C: Tensor

    def __init__(
        self, class_counts: Tensor, *, strength: NonNegative = 0.1, penalty: NonNegative = 0.1
    ) -> None:
        super().__init__()
        self.strength = strength
        self.penalty = penalty
        prior_C = class_counts.double() / class_counts.sum()
        self.register_buffer("prior_C", _in_default_dtype(prior_C))
        # the 1e-9, here and below, are those of the authors' code
        self.register_buffer("log_prior_C", _in_default_dtype((prior_C + 1e-9).log()))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        cross_entropy_B = cross_entropy(logits_BC + self.log_prior_C, target_B)
        return cross_entropy_B + self.strength * self.regulariser(logits_BC, target_B)

    def regulariser(self, logits_BC: Tensor, target_B: Tensor) -> Tensor:
        """How far each class's logits are from a balanced density ratio in this batch."""
        num_samples, num_classes = logits_BC.shape
        target_logit_B = logits_BC.gather(1, target_B.unsqueeze(1)).squeeze(1)
        zeros_C = torch.zeros_like(self.prior_C)
        count_C = zeros_C.index_add(0, target_B, torch.ones_like(target_logit_B))
        of_class_C = zeros_C.index_add(0, target_B, target_logit_B) / (count_C + 1e-8)
        balanced_BC = logits_BC - self.log_prior_C + math.log(1 / num_classes + 1e-9)
        of_all_C = balanced_BC.logsumexp(0) - math.log(max(num_samples, 1))
        bound_C = of_class_C - of_all_C - self.penalty * of_all_C.square()
        return -(self.prior_C * bound_C).sum()


class Seesaw(Loss):
    """Seesaw loss (Wang et al., 2021), the classification form: each negative's exp(z)
    is scaled by mitigation * compensation.

    mitigation = min(1, N_j / N_target)^p over the labels seen so far in training, this batch
    included; compensation = max(1, p_j / p_target)^q of the detached softmax.

    Args:
        p: exponent of the mitigation.
        q: exponent of the compensation.
        eps: least p_target that the compensation divides by.
    """

    count_C: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        p: NonNegative = 0.8,
        q: NonNegative = 2.0,
        eps: Positive = 0.01,
    ) -> None:
        super().__init__()
        self.p = p
        self.q = q
        self.log_eps = math.log(eps)
        self.register_buffer("count_C", torch.zeros(len(class_counts)))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        if self.training:
            new_C = torch.zeros_like(self.count_C)
            new_C.index_add_(0, target_B, torch.ones_like(logits_BC[:, 0]))
            self.count_C.add_(sum_over_ranks(new_C))
        scaled_BC = logits_BC + self._log_scale(logits_BC.detach(), target_B)
        return cross_entropy(scaled_BC, target_B)

    def _log_scale(self, logits_BC: Tensor, target_B: Tensor) -> Tensor:
        """log(mitigation * compensation); 0 at the target, where both ratios are at most 1."""
        log_count_C = self.count_C.clamp(min=1).log()
        mitigation_BC = (log_count_C - log_count_C[target_B].unsqueeze(1)).clamp(max=0)
        log_p_BC = logits_BC.log_softmax(1)
        log_p_target_B1 = log_p_BC.gather(1, target_B.unsqueeze(1)).clamp(min=self.log_eps)
        compensation_BC = (log_p_BC - log_p_target_B1).clamp(min=0)
        return self.p * mitigation_BC + self.q * compensation_BC


class LabelAwareSmoothing(Loss):
    """Label smoothing by class frequency (MiSLAS, Zhong et al., 2021):
    (1 - eps_y) * -log p_y + eps_y * mean_c(-log p_c), eps rising with n_c.

    Args:
        at_max: eps of the class with most images; `at_min`: of the one with fewest.
        shape: how eps rises between them, over (n_c - n_min) / (n_max - n_min).
    """

    smoothing_C: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        at_max: Fraction = 0.4,
        at_min: Fraction = 0.1,
        shape: Literal["concave", "linear", "convex"] = "concave",
    ) -> None:
        super().__init__()
        count_C = class_counts.double()
        rank_C = (count_C - count_C.min()) / (count_C.max() - count_C.min()).clamp(min=1)
        if shape == "concave":
            rank_C = (rank_C * math.pi / 2).sin()
        elif shape == "convex":
            rank_C = 1 - (rank_C * math.pi / 2).cos()
        self.register_buffer("smoothing_C", _in_default_dtype(at_min + (at_max - at_min) * rank_C))

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        log_p_BC = logits_BC.log_softmax(1)
        smoothing_B = self.smoothing_C[target_B]
        target_loss_B = F.nll_loss(log_p_BC, target_B, reduction="none")
        return (1 - smoothing_B) * target_loss_B - smoothing_B * log_p_BC.mean(1)


class SigmoidCrossEntropy(Loss):
    """Binary cross-entropy of each class against the rest, summed over classes."""

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        self.num_classes = len(class_counts)

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        return -F.logsigmoid(_sign(logits_BC, target_B) * logits_BC).sum(1)

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.sigmoid()

    def initial_bias(self) -> float:
        """Every class starts at probability 1 / C, as in the class-balanced paper's code; else the
        loss starts in proportion to C.
        """
        return -math.log(max(self.num_classes - 1, 1))


class SigmoidFocal(SigmoidCrossEntropy):
    """Focal loss on the sigmoid (Lin et al., 2017) as in the class-balanced paper (Cui et al.,
    2019): the sum over classes of (1 - p_t)^gamma * -log p_t.

    The modulator in that paper's code overflows: a positive below about -88 contributes nothing
    in float32. This one is exact there.
    """

    def __init__(self, class_counts: Tensor, *, gamma: NonNegative = 1.0) -> None:
        super().__init__(class_counts)
        self.gamma = gamma

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        signed_BC = _sign(logits_BC, target_B) * logits_BC
        modulator_BC = (self.gamma * F.logsigmoid(-signed_BC)).exp()
        return -(modulator_BC * F.logsigmoid(signed_BC)).sum(1)


class Equalization(Loss):
    """Sigmoid equalization loss, EQL (Tan et al., 2020, eq. 6-8): a tail class is spared the
    negative gradient from samples of other classes.

    The paper's exception, a class that an image is known not to hold, has no counterpart in
    classification and none in the authors' code.

    Args:
        keep: probability with which a tail class learns from such a sample all the same; in
            classification no background does that, so that at 0 it is never pushed down.
        background: label C is a sample of no class, a negative for every class, tail or not. For
            the loss by itself: an `Objective` has no weight for that label.
    """

    is_tail_C: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        threshold: NonNegative | None = None,
        tail_ratio: Fraction | None = None,
        keep: Fraction = 0.0,
        background: bool = False,
    ) -> None:
        super().__init__()
        self.keep = keep
        self.background = background
        self.register_buffer("is_tail_C", is_tail(class_counts, threshold, tail_ratio))

    def forward(
        self,
        logits_BC: Tensor,
        target_B: Tensor,
        progress: Progress = START,
        uniform_BC: Tensor | None = None,
    ) -> Tensor:
        """`uniform_BC` injects the draw: a tail class learns where it is below `keep`."""
        sign_BC = _sign(logits_BC, target_B, extra_labels=int(self.background))
        is_foreground_B1 = (target_B < logits_BC.shape[1]).unsqueeze(1)
        is_spared_BC = self.is_tail_C & (sign_BC < 0) & is_foreground_B1
        if self.keep:
            draw_BC = uniform(logits_BC, *logits_BC.shape) if uniform_BC is None else uniform_BC
            is_spared_BC = is_spared_BC & (draw_BC >= self.keep)
        return -F.logsigmoid(sign_BC * logits_BC).masked_fill(is_spared_BC, 0.0).sum(1)

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.sigmoid()

    def initial_bias(self) -> float:
        """Every class starts at the authors' probability of 0.001."""
        return -math.log((1 - 0.001) / 0.001)


class Dice(Loss):
    """Dice loss as in loss scheduling (Taubert et al., 2021, eq. 2), one value per group.

    1 - 2 (sum_c w_c sum_x p_xc y_xc + smooth) / (sum_c w_c sum_x (p_xc^2 + y_xc^2) + smooth + eps)
    over the elements x of a group: there an image and its pixels, here the batch and its samples.
    The 2 multiplies `smooth`, as in the authors' code, so a perfect prediction is below 0.

    Args:
        balanced: w is the inverse frequency scaled to sum to C, instead of 1.
        layout: "sample" makes each sample a group of its own.
    """

    weight_C: Tensor

    def __init__(
        self,
        class_counts: Tensor,
        *,
        balanced: bool = False,
        smooth: NonNegative = 1.0,
        eps: NonNegative = 1e-5,
        layout: Literal["batch", "sample"] = "batch",
    ) -> None:
        super().__init__()
        self.smooth = smooth
        self.eps = eps
        self.layout = layout
        self.per_rank = layout == "batch"
        weight_C = torch.ones(len(class_counts))
        if balanced:
            weight_C = _in_default_dtype(inverse_frequency_weight(class_counts))
        self.register_buffer("weight_C", weight_C)

    def forward(
        self,
        logits_BC: Tensor,
        target_B: Tensor,
        progress: Progress = START,
        group_B: Tensor | None = None,
    ) -> Tensor:
        """`group_B` numbers the group of each element, from 0, for dense predictions."""
        p_BC = logits_BC.softmax(1)
        weight_B = self.weight_C[target_B]
        overlap_B = weight_B * p_BC.gather(1, target_B.unsqueeze(1)).squeeze(1)
        area_B = p_BC.square() @ self.weight_C + weight_B
        if self.layout == "sample":
            return self._dice(overlap_B, area_B)
        if group_B is None:
            dice = self._dice(overlap_B.sum(), area_B.sum())
        else:
            zeros_G = overlap_B.new_zeros(int(group_B.max()) + 1)
            overlap_G = zeros_G.index_add(0, group_B, overlap_B)
            dice = self._dice(overlap_G, zeros_G.index_add(0, group_B, area_B)).mean()
        return dice.expand(len(target_B))

    def _dice(self, overlap: Tensor, area: Tensor) -> Tensor:
        return 1 - 2 * (overlap + self.smooth) / (area + self.smooth + self.eps)


class MaxPooled(Loss):
    """Loss max-pooling (Bulo et al., 2017): the cross-entropies of a batch under the worst
    weights with ||w||_p <= n^(-1/q) and w <= tau, 1/p + 1/q = 1.

    The weights are the exact solution; the published code sums losses where their q-th powers
    belong, and exceeds tau. They are detached, which leaves the gradient of the maximum as it is.
    A sample's value is n * w_i * loss_i, so that "mean" gives the sum of w_i * loss_i.

    Args:
        p: norm that bounds the weights.
        m_over_n: at least this share of the samples carries the weight (tau = n^(-1/q) m^(-1/p)).
    """

    per_rank = True

    def __init__(
        self,
        class_counts: Tensor,
        *,
        p: Annotated[float, Range(above=1)] = 1.3,
        m_over_n: Annotated[float, Range(above=0, high=1)] = 0.1,
    ) -> None:
        super().__init__()
        self.p = p
        self.m_over_n = m_over_n

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        cross_entropy_B = cross_entropy(logits_BC, target_B)
        return len(target_B) * self.sample_weight(cross_entropy_B) * cross_entropy_B

    @torch.no_grad()
    def sample_weight(self, loss_B: Tensor) -> Tensor:
        """w_i = tau * min(1, loss_i / alpha)^(q / p); alpha^q is the mean of loss^q, taken over
        m - |J| instead of n - |J|, of what is left after the |J| largest, capped at tau.
        """
        num_samples = len(loss_B)
        if num_samples == 0:
            return loss_B
        q = self.p / (self.p - 1)
        m = self.m_over_n * num_samples
        tau: float = num_samples ** (-1 / q) * m ** (-1 / self.p)
        # relative to the largest: loss^q itself overflows
        power_B = (loss_B / loss_B.max().clamp(min=torch.finfo(loss_B.dtype).tiny)).pow(q)
        falling_B = power_B.sort(descending=True).values
        rest_B = falling_B.flip(0).cumsum(0).flip(0)
        left_B = m - torch.arange(num_samples, device=loss_B.device, dtype=loss_B.dtype)
        # the fewest capped samples for which no other exceeds the cap
        num_capped_1 = (falling_B * left_B <= rest_B).int().argmax(keepdim=True)
        alpha_power = rest_B[num_capped_1] / left_B[num_capped_1]
        ratio_B = power_B / alpha_power.clamp(min=torch.finfo(loss_B.dtype).tiny)
        return tau * ratio_B.clamp(max=1).pow(1 / self.p)


class Combined(Loss):
    """A loss made of others: what any of them asks for, it asks for."""

    def _follow(self, parts: Sequence[Loss], *, prior_of: Sequence[Loss]) -> None:
        """`prior_of`: those that the trained network answers to."""
        self.takes_off_prior = any(part.takes_off_prior for part in prior_of)
        self.per_rank = any(part.per_rank for part in parts)
        self.needs_head = next(filter(None, (part.needs_head for part in parts)), None)
        biases = (part.initial_bias() for part in parts)
        # the same for all classes, it changes nothing for a loss of the softmax
        self.bias = next((bias for bias in biases if bias is not None), None)

    def initial_bias(self) -> float | None:
        return self.bias


class Sum(Combined):
    """A weighted sum of losses; by default the compound loss of loss scheduling (Taubert et al.,
    2021), half dice and half cross-entropy. The first of them says what the probabilities are.
    """

    def __init__(
        self,
        class_counts: Tensor,
        *,
        parts: tuple[Annotated[Spec, Part("loss")], ...] = (Spec("dice"), Spec("ce")),
        factors: tuple[NonNegative, ...] = (0.5, 0.5),
    ) -> None:
        super().__init__()
        if len(parts) != len(factors) or not parts:
            raise ConfigError(
                f"factors: {len(factors)} given for {len(parts)} parts; give one for each"
            )
        self.factors = factors
        self.parts = nn.ModuleList(
            build("loss", part, LOSSES, class_counts, place=f"parts[{i}]")
            for i, part in enumerate(parts)
        )
        losses = [cast(Loss, part) for part in self.parts]
        self._follow(losses, prior_of=losses)

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        scaled = [
            factor * part(logits_BC, target_B, progress)
            for factor, part in zip(self.factors, self.parts, strict=True)
        ]
        return torch.stack(scaled).sum(0)

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return cast(Loss, self.parts[0]).probabilities(logits_BC)


class Ramp(Combined):
    """Loss scheduling (Taubert et al., 2021, eq. 5 and 6): from one loss to another in training.

    Args:
        first: the loss that the second one replaces; dice in the paper.
        second: the only loss at the end.
        shape: "naive" rises linearly from the first loss at `begin` to the second at `end`;
            "alternating" starts at the second, falls linearly to the first at `begin` and returns
            on a quarter cosine until `end`.
        begin: fraction of training; the paper's 0.3 for naive, 0.5 for alternating.
        end: fraction of training.
    """

    def __init__(
        self,
        class_counts: Tensor,
        *,
        first: Annotated[Spec, Part("loss")] = Spec("dice"),
        second: Annotated[Spec, Part("loss")] = Spec("ce"),
        shape: Literal["naive", "alternating"] = "naive",
        begin: Moment | None = None,
        end: Moment = 0.9,
    ) -> None:
        super().__init__()
        if begin is None:
            begin = 0.3 if shape == "naive" else 0.5
        if begin >= end or (shape == "alternating" and begin == 0):
            raise ConfigError(
                f"begin: {begin:g} leaves {shape!r} no time to change; "
                f"give a fraction between 0 and end, {end:g}"
            )
        self.first: Loss = build("loss", first, LOSSES, class_counts, place="first")
        self.second: Loss = build("loss", second, LOSSES, class_counts, place="second")
        self._follow([self.first, self.second], prior_of=[self.second])
        self.shape = shape
        self.begin = begin
        self.end = end

    def forward(self, logits_BC: Tensor, target_B: Tensor, progress: Progress = START) -> Tensor:
        share = self.share_of_second(progress)
        first_B: Tensor = self.first(logits_BC, target_B, progress)
        second_B: Tensor = self.second(logits_BC, target_B, progress)
        return (1 - share) * first_B + share * second_B

    def share_of_second(self, progress: Progress) -> Tensor:
        """The weight of the second loss, 0-dim; the first has the rest."""
        done = torch.as_tensor(progress.fraction, dtype=torch.get_default_dtype())
        rising = ((done - self.begin) / (self.end - self.begin)).clamp(0, 1)
        if self.shape == "naive":
            return rising
        falling = (1 - done / self.begin).clamp(min=0)
        return falling + 1 - (rising * math.pi / 2).cos()

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return self.second.probabilities(logits_BC)


def _sign(logits_BC: Tensor, target_B: Tensor, extra_labels: int = 0) -> Tensor:
    """+1 at the target, -1 elsewhere; a label after the last class has no +1."""
    num_samples, num_classes = logits_BC.shape
    sign_BC = logits_BC.new_full((num_samples, num_classes + extra_labels), -1.0)
    return sign_BC.scatter_(1, target_B.unsqueeze(1), 1.0)[:, :num_classes]


def _power(base: Tensor, exponent: float) -> Tensor:
    """base^exponent for base >= 0, with a finite gradient at 0 for exponents below 1."""
    return base.clamp(min=torch.finfo(base.dtype).tiny).pow(exponent)


def _in_default_dtype(vector_C: Tensor) -> Tensor:
    return vector_C.to(torch.get_default_dtype())


LOSSES: dict[str, type[Loss]] = {
    "ce": CrossEntropy,
    "focal": Focal,
    "ldam": LDAM,
    "seql": SoftmaxEqualization,
    "balanced_softmax": BalancedSoftmax,
    "logit_adjusted": LogitAdjusted,
    "vs": VectorScaling,
    "lade": LADE,
    "seesaw": Seesaw,
    "label_aware_smoothing": LabelAwareSmoothing,
    "sigmoid_ce": SigmoidCrossEntropy,
    "sigmoid_focal": SigmoidFocal,
    "eql": Equalization,
    "dice": Dice,
    "max_pooled": MaxPooled,
    "sum": Sum,
    "ramp": Ramp,
}
