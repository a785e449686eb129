"""SGD, its parameter groups, and the learning rate as a function of Progress."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from lt_bench.config import OptimConfig
from lt_bench.errors import ConfigError
from lt_bench.progress import Progress
from lt_bench.schema import Fraction, Moment, NonNegative


def make_optimizer(
    backbone: Sequence[nn.Parameter],
    others: Sequence[nn.Parameter],
    without_decay: Iterable[nn.Parameter],
    config: OptimConfig,
) -> torch.optim.SGD:
    """SGD over the given trainable parameters; each group keeps its own `base_lr`.

    Args:
        backbone: learns at `lr * backbone_lr_factor`.
        without_decay: members of the two that weight decay leaves alone.
    """
    exempt = {id(parameter) for parameter in without_decay}
    rates = ((backbone, config.lr * config.backbone_lr_factor), (others, config.lr))
    groups = [
        {"params": chosen, "base_lr": base_lr, "weight_decay": decay}
        for parameters, base_lr in rates
        for is_exempt, decay in ((False, config.weight_decay), (True, 0.0))
        if (chosen := [p for p in parameters if (id(p) in exempt) is is_exempt])
    ]
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def constant(
    progress: Progress, *, warmup_epochs: NonNegative = 0, warmup_start: Fraction = 0.0
) -> float:
    """1 after the warm-up."""
    return _warmup(progress, warmup_epochs, warmup_start)


def step(
    progress: Progress,
    *,
    warmup_epochs: NonNegative = 0,
    warmup_start: Fraction = 0.0,
    milestones: tuple[Moment, ...] = (),
    factors: tuple[NonNegative, ...] = (),
) -> float:
    """The factor of the last milestone passed; milestones are fractions of the run.

    With warm-up 5, milestones (0.8, 0.9) and factors (0.01, 0.0001) over 200 epochs this is the
    schedule of LDAM-DRW's CIFAR code.
    """
    if len(milestones) != len(factors) or list(milestones) != sorted(milestones):
        raise ConfigError(
            f"milestones: {list(milestones)} must rise and pair with factors {list(factors)}"
        )
    factor = 1.0
    for milestone, value in zip(milestones, factors, strict=True):
        if progress.fraction >= milestone:
            factor = value
    return factor * _warmup(progress, warmup_epochs, warmup_start)


def cosine(
    progress: Progress, *, warmup_epochs: NonNegative = 0, warmup_start: Fraction = 0.0
) -> float:
    """Half a cosine from 1 to 0 over the run, a step at a time."""
    half_cosine = 0.5 * (1 + math.cos(math.pi * progress.fraction))
    return half_cosine * _warmup(progress, warmup_epochs, warmup_start)


def _warmup(progress: Progress, epochs: float, start: float) -> float:
    """From `start` to 1 in stairs of one epoch; the published CIFAR code rises so from 0."""
    if not epochs:
        if start:
            raise ConfigError(
                f"warmup_start: {start:g} has no effect without warmup_epochs; leave it out"
            )
        return 1.0
    return start + (1 - start) * min(1.0, (progress.epoch + 1) / epochs)


SCHEDULES = {"constant": constant, "step": step, "cosine": cosine}
