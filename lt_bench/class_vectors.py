"""One number per class, from the training images per class: weights, priors, who is tail.

Shape: C classes. Vectors are float64; a module registers them once, in the default dtype.
"""

import torch
from torch import Tensor

from lt_bench.errors import ConfigError


def present_counts(class_counts: Tensor) -> Tensor:
    """The counts in float64; refuses a class without training images, whose weight is infinite."""
    if bool((class_counts < 1).any()):
        empty = int((class_counts < 1).nonzero()[0])
        raise ConfigError(
            f"class_counts: class {empty} has no training image; "
            "leave the class out or choose a part that takes it, such as balanced_softmax"
        )
    return class_counts.double()


def effective_number_weight(class_counts: Tensor, beta: float) -> Tensor:
    """Inverse effective numbers of Cui et al. (2019, proposition 1), (1 - beta) / (1 - beta^n_c),
    scaled to sum to C.
    """
    log_beta = torch.tensor(beta, dtype=torch.float64).log()
    return _sum_to_num_classes(-1 / torch.expm1(present_counts(class_counts) * log_beta))


def inverse_frequency_weight(class_counts: Tensor) -> Tensor:
    """1 / n_c, scaled to sum to C."""
    return _sum_to_num_classes(1 / present_counts(class_counts))


def log_prior(class_counts: Tensor, tau: float = 1.0) -> Tensor:
    """log(pi^tau + 1e-12) in float64, pi the class frequency: what logit adjustment adds to the
    logits in training, or takes from them afterwards. The 1e-12 is the authors' code's.
    """
    return ((class_counts.double() / class_counts.sum()).pow(tau) + 1e-12).log()


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
    return images_up_to_C <= ratio * class_counts.sum().double() * (1 + 1e-12)


def _sum_to_num_classes(weight_C: Tensor) -> Tensor:
    return weight_C * (len(weight_C) / weight_C.sum())
