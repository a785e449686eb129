"""The training loop: knows methods, batches and the clock, and no part by name."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lt_bench.checkpoint import Checkpoint, State, not_usable
from lt_bench.compiled import compiled
from lt_bench.config import OptimConfig
from lt_bench.data.loading import Loader
from lt_bench.data.mixing import Mixed, Mixer
from lt_bench.errors import ConfigError, RunError
from lt_bench.methods import Method
from lt_bench.optim import SCHEDULES, make_optimizer, set_learning_rate
from lt_bench.progress import Progress
from lt_bench.runtime import (
    Runtime,
    generator,
    generator_states,
    mean_over_ranks,
    on_any_rank,
    rank,
    seed_everything,
    set_generator_states,
    world_size,
)
from lt_bench.schema import bind

logger = logging.getLogger(__name__)

Sampler = Callable[[Tensor, Progress, torch.Generator], Tensor]

# What is kept of a logged (C,) vector: this many epochs, evenly spaced, the last among them, and of
# many classes the means of ten groups, the fullest classes first.
CLASS_VALUES_KEPT = 20
MOST_CLASSES_KEPT = 1000

# A last batch of fewer images, and less than half of one, is told of: its step is as large as any.
SMALL_BATCH = 16

# Streams of random numbers of one run, told apart by these tags.
ORDER, AUGMENT, DRAWS = 1, 2, 3


class NotFiniteError(RunError):
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
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train `method` for `config.epochs`; the last epoch is what counts.

    With `config.ema` the method ends with the running average of its weights.

    Order, augmentation and the losses' own draws are functions of (seed, epoch), so a run does
    not depend on what ran before it in the process.

    Args:
        on_epoch: called after each epoch with its line of the history, and first with the lines
            of the epochs that a stopped run has done.
        checkpoint: where the run goes on from, and keeps its state.

    Raises:
        NotFiniteError: a loss is not finite.
        KeyboardInterrupt: a signal; the checkpoint holds the state.
    """
    if config.epochs == 0:
        return History()
    _heed_last_batch(loader, config.accumulate)
    labels_N = loader.labels.cpu()
    total_steps = config.epochs * len(loader)
    schedule = bind("schedule", config.schedule, SCHEDULES, place="optim.schedule")
    mix = Mixer(mixup=config.mixup, cutmix=config.cutmix) if config.mixup or config.cutmix else None
    state = _State(method, config, len(loader), where.device)
    if checkpoint:
        state.go_on_from(checkpoint)
    for line in state.history.epochs:
        on_epoch(line)
    forward = _forward(method, loader, config, where)
    for epoch in range(state.epoch, config.epochs):
        at = Progress(epoch * len(loader), total_steps, len(loader))
        order_N = sampler(labels_N, at, generator("cpu", seed, ORDER, epoch))
        draws = generator(where.device, seed, AUGMENT, epoch)
        method.train()
        if state.step == 0:  # rank 0 draws as a run by itself does
            seed_everything(seed, DRAWS, epoch, *([rank()] if rank() else []))
        for images, target_B in loader.epoch(order_N, draws, skip=state.step):
            progress = Progress(at.step + state.step, total_steps, len(loader))
            set_learning_rate(state.optimizer, schedule(progress))
            target: Tensor | Mixed = target_B
            if mix:
                images, target = mix(images, target_B)
            with where.autocast():
                loss, terms = forward(images, target, progress)
            (loss * _share(state.step, config.accumulate, loader)).backward()
            state.meter.add(loss, terms)
            if state.step % config.accumulate == 0 or state.step == len(loader):
                state.update()
                is_last = progress.step + 1 == total_steps
                may_stop = world_size() == 1 or state.step == len(loader)
                if checkpoint and may_stop and on_any_rank(checkpoint.is_due(is_last=is_last)):
                    checkpoint.keep(state.as_dict())
        on_epoch(state.end_epoch(labels_N, config.epochs))
    if state.average:
        method.load_state_dict(state.average.module.state_dict())
    return state.history


class _State:
    """All that changes while a run trains: what a checkpoint holds, and nothing else does."""

    def __init__(
        self, method: Method, config: OptimConfig, steps: int, device: torch.device
    ) -> None:
        trainable = list(method.trainable())
        own = {id(parameter) for parameter in method.backbone.parameters()}
        self.method = method
        self.optimizer = make_optimizer(
            [p for p in trainable if id(p) in own],
            [p for p in trainable if id(p) not in own],
            method.without_decay,
            config,
        )
        self.average = _average(method, config.ema) if config.ema else None
        self.history = History()
        self.epoch = 0
        self.steps, self.device = steps, device
        self.meter = _Meter(steps, device)

    @property
    def step(self) -> int:
        """Steps done in this epoch."""
        return self.meter.steps

    def update(self) -> None:
        """Take the step that the gradients ask for."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.method)

    def end_epoch(self, labels_N: Tensor, epochs: int) -> dict[str, Any]:
        """The epoch's line of the history; the next epoch begins."""
        line = {"epoch": self.epoch, **self.meter.read(self.epoch)}
        line["lr"] = self.optimizer.param_groups[-1]["lr"]
        line["seconds"] = self.meter.seconds
        line["images_per_second"] = len(labels_N) / line["seconds"]
        self.history.epochs.append(line)
        if _is_kept(self.epoch, epochs):
            _keep_class_values(self.history, self.epoch, self.meter.vectors, labels_N)
        self.epoch += 1
        self.meter = _Meter(self.steps, self.device)
        return line

    def as_dict(self) -> State:
        """Tensors and plain values, as they are after a step.

        Raises:
            NotFiniteError: nothing good would come of going on from here.
        """
        self.meter.agree(self.epoch)
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "history": vars(self.history),
            "epoch": self.epoch,
            "meter": self.meter.as_dict(),
            "generators": generator_states(self.device),
        }

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.read()
        if state is None:
            return
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.module.load_state_dict(state["average"])
            self.history = History(**state["history"])
            self.epoch = state["epoch"]
            self.meter.load(state["meter"])
            set_generator_states(self.device, state["generators"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise not_usable(checkpoint.path, "does not fit its own run") from error
        logger.info(f"going on in epoch {self.epoch + 1}, at step {self.step}: {checkpoint.path}")


def _forward(
    method: Method, loader: Loader, config: OptimConfig, where: Runtime
) -> Callable[..., Any]:
    """The method as a step calls it: itself, compiled, or over ranks."""
    if where.compiled:
        return compiled(method, where.device, loader.batch_size, adds_up=config.accumulate > 1)
    return where.over_ranks(method)


def _share(step: int, accumulate: int, loader: Loader) -> float:
    """The images of this step among those whose gradients are taken together.

    At the end of an epoch both may be fewer.
    """
    total = len(loader.labels)
    first = step - step % accumulate
    starts = (step, step + 1, first, first + accumulate)
    start, end, first_start, last_end = (min(s * loader.batch_size, total) for s in starts)
    return (end - start) / (last_end - first_start)


def _heed_last_batch(loader: Loader, accumulate: int) -> None:
    """Batch norm needs two images of every batch on every rank, and more than a few to learn."""
    total, size = len(loader.labels), loader.batch_size
    last = total % size or size
    if world_size() > 1 and last < 2 * world_size():
        raise ConfigError(
            f"optim.batch_size: {size} leaves {last} images in the last batch, for "
            f"{world_size()} ranks; choose one that leaves two for each, or fewer ranks"
        )
    is_step = (len(loader) - 1) % accumulate == 0  # by itself, not taken with those before it
    if is_step and last < min(SMALL_BATCH, size / 2) and last < total and not rank():
        sizes = sorted(range(2, 2 * size), key=lambda other: abs(other - size))
        other = next(other for other in sizes if (total % other or other) >= other / 2)
        logger.warning(
            f"optim.batch_size: {size} leaves {last} images in the last batch of an epoch, whose "
            f"step is as large as any other and costs rare classes; {other} leaves "
            f"{total % other or other}"
        )


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
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def add(self, loss: Tensor, terms: dict[str, Tensor]) -> None:
        self.losses[self.steps] = loss.detach()
        self.steps += 1
        for name, value in terms.items():
            if value.ndim:
                self.vectors[name] = value
            else:
                self.sums[name] = self.sums.get(name, 0) + value

    def read(self, epoch: int) -> dict[str, Any]:
        self.agree(epoch)
        return {"loss": float(self.losses.mean()), "terms": self._means()}

    def agree(self, epoch: int) -> None:
        """Take the means over all ranks, each of which has seen its share of every batch.

        Raises:
            NotFiniteError: they are none.
        """
        self.losses = mean_over_ranks(self.losses)
        self.sums = {name: mean_over_ranks(total) for name, total in self.sums.items()}
        if bool(self.losses.isfinite().all()):
            return
        step = int((~self.losses.isfinite()).nonzero()[0])
        said = ", ".join(f"{name} {value:g}" for name, value in self._means().items())
        raise NotFiniteError(
            f"loss is {float(self.losses[step])} in epoch {epoch + 1}, at step {step}"
            + (f" (means of the epoch: {said})" if said else "")
            + "; a lower optim.lr or optim.schedule.warmup_epochs=5 often helps"
        )

    def _means(self) -> dict[str, float]:
        return {name: float(total / self.steps) for name, total in self.sums.items()}

    def as_dict(self) -> State:
        kept = {name: getattr(self, name) for name in ("losses", "sums", "vectors", "steps")}
        return {**kept, "seconds": self.seconds}

    def load(self, state: State) -> None:
        device = self.losses.device
        self.losses.copy_(state["losses"])
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.vectors = {name: value.to(device) for name, value in state["vectors"].items()}
        self.steps = state["steps"]
        self.began -= state["seconds"]


def _is_kept(epoch: int, epochs: int) -> bool:
    marks = min(epochs, CLASS_VALUES_KEPT)
    return any(epoch == round((k + 1) * epochs / marks) - 1 for k in range(marks))


def _keep_class_values(
    history: History, epoch: int, vectors: dict[str, Tensor], labels_N: Tensor
) -> None:
    for name, value_C in vectors.items():
        if (num_classes := len(value_C)) > MOST_CLASSES_KEPT:
            count_C = torch.bincount(labels_N, minlength=num_classes)
            fullest_first = value_C.cpu()[count_C.argsort(descending=True, stable=True)]
            value_C = torch.stack([part.mean() for part in fullest_first.tensor_split(10)])
        kept = history.classes.setdefault(name, {"epochs": [], "values": []})
        kept["epochs"].append(epoch)
        kept["values"].append([float(f"{value:.4g}") for value in value_C.tolist()])
