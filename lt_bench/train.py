"""The training loop: knows methods, batches and the clock, and no part by name."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lt_bench.config import OptimConfig, bind
from lt_bench.data.loading import Loader
from lt_bench.data.mixing import Mixed, Mixer
from lt_bench.methods import Method
from lt_bench.optim import SCHEDULES, make_optimizer, set_learning_rate
from lt_bench.progress import Progress
from lt_bench.runtime import Runtime, generator, seed_everything

logger = logging.getLogger(__name__)

Sampler = Callable[[Tensor, Progress, torch.Generator], Tensor]

# What is kept of a logged (C,) vector: this many epochs, evenly spaced, the last among them.
CLASS_VALUES_KEPT = 20

# Streams of random numbers of one run, told apart by these tags.
ORDER, AUGMENT, DRAWS = 1, 2, 3


class NotFiniteError(RuntimeError):
    """A loss that is nan or infinite; names the epoch, the step and the terms."""


@dataclass
class History:
    """What training leaves for the record."""

    epochs: list[dict[str, Any]] = field(default_factory=list)
    classes: dict[str, dict[str, list[Any]]] = field(default_factory=dict)


def fit(
    method: Method,
    loader: Loader,
    sampler: Sampler,
    config: OptimConfig,
    seed: int,
    where: Runtime,
    on_epoch: Callable[[dict[str, Any]], None] = lambda line: None,
) -> History:
    """Train `method` for `config.epochs`; the last epoch is what counts.

    With `config.ema` the method ends with the running average of its weights.

    Order, augmentation and the losses' own draws are functions of (seed, epoch), so a run does
    not depend on what ran before it in the process.

    Args:
        on_epoch: called after each epoch with its line of the history.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    history = History()
    if config.epochs == 0:
        return history
    labels_N = loader.labels.cpu()
    total_steps = config.epochs * len(loader)
    schedule = bind("schedule", config.schedule, SCHEDULES, place="optim.schedule")
    trainable = list(method.trainable())
    own = {id(parameter) for parameter in method.backbone.parameters()}
    optimizer = make_optimizer(
        [p for p in trainable if id(p) in own],
        [p for p in trainable if id(p) not in own],
        method.without_decay,
        config,
    )
    mix = Mixer(mixup=config.mixup, cutmix=config.cutmix) if config.mixup or config.cutmix else None
    average = _average(method, config.ema) if config.ema else None
    for epoch in range(config.epochs):
        began = time.perf_counter()
        at = Progress(epoch * len(loader), total_steps, len(loader))
        order_N = sampler(labels_N, at, generator("cpu", seed, ORDER, epoch))
        batches = loader.epoch(order_N, generator(where.device, seed, AUGMENT, epoch))
        seed_everything(seed, DRAWS, epoch)
        method.train()
        meter = _Meter(len(loader), where.device)
        for index, (images, target_B) in enumerate(batches):
            progress = Progress(at.step + index, total_steps, len(loader))
            set_learning_rate(optimizer, schedule(progress))
            target: Tensor | Mixed = target_B
            if mix:
                images, target = mix(images, target_B)
            with where.autocast():
                loss, terms = method(images, target, progress)
            (loss / config.accumulate).backward()
            if (index + 1) % config.accumulate == 0 or index + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average:
                    average.update(method)
            meter.add(loss, terms)
        line = {"epoch": epoch, **meter.read(epoch), "lr": optimizer.param_groups[-1]["lr"]}
        line["seconds"] = time.perf_counter() - began
        line["images_per_second"] = len(order_N) / line["seconds"]
        history.epochs.append(line)
        if _is_kept(epoch, config.epochs):
            _keep_class_values(history, epoch, meter.vectors)
        on_epoch(line)
    if average:
        method.load_state_dict(average.module.state_dict())
    return history


def _average(method: Method, decay: float) -> Any:
    """timm's running average of weights and buffers."""
    from timm.utils import ModelEmaV3  # a second that few runs need

    return ModelEmaV3(method, decay=decay)


class _Meter:
    """Sums of an epoch on the device; one synchronisation when read."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.losses = torch.zeros(steps, device=device)
        self.sums: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        self.losses[self.steps] = loss.detach()
        self.steps += 1
        for name, value in terms.items():
            if value.ndim:
                self.vectors[name] = value
            else:
                self.sums[name] = self.sums[name] + value if name in self.sums else value

    def read(self, epoch: int) -> dict[str, Any]:
        terms = {name: total / self.steps for name, total in self.sums.items()}
        if not bool(self.losses.isfinite().all()):
            step = int((~self.losses.isfinite()).nonzero()[0])
            said = ", ".join(f"{name} {float(value):g}" for name, value in terms.items())
            raise NotFiniteError(
                f"loss is {float(self.losses[step])} at epoch {epoch}, step {step}"
                + (f" (means of the epoch: {said})" if said else "")
                + "; a lower optim.lr or optim.schedule.warmup_epochs=5 often helps"
            )
        values = {name: float(value) for name, value in terms.items()}
        return {"loss": float(self.losses.mean()), "terms": values}


def _is_kept(epoch: int, epochs: int) -> bool:
    marks = min(epochs, CLASS_VALUES_KEPT)
    return any(epoch == round((k + 1) * epochs / marks) - 1 for k in range(marks))


def _keep_class_values(history: History, epoch: int, vectors: dict[str, Tensor]) -> None:
    for name, value_C in vectors.items():
        kept = history.classes.setdefault(name, {"epochs": [], "values": []})
        kept["epochs"].append(epoch)
        kept["values"].append([float(f"{value:.4g}") for value in value_C.tolist()])
