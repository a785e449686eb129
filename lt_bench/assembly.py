"""From a configuration to its parts: checks that they go together, data, batches and method."""

import copy
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lt_bench.config import SHARED_WITH_PARENT, ObjectiveConfig, RunConfig, given_keys, load
from lt_bench.data.bad_images import without_unreadable
from lt_bench.data.datasets import DATASETS
from lt_bench.data.file_loading import FileLoader
from lt_bench.data.loading import Loader, ResidentLoader
from lt_bench.data.transforms import TRANSFORMS
from lt_bench.data.types import ImageFiles, LongTailData, Split
from lt_bench.errors import ConfigError
from lt_bench.files import is_file_name
from lt_bench.losses import LOSSES
from lt_bench.methods import METHODS, Method, Parts
from lt_bench.models.backbones import BACKBONES
from lt_bench.models.heads import HEADS
from lt_bench.optim import SCHEDULES
from lt_bench.progress import START
from lt_bench.record import DataSummary
from lt_bench.runtime import Runtime, seed_everything
from lt_bench.samplers import SAMPLERS
from lt_bench.schema import Spec, Table, bind, build
from lt_bench.weighting import WEIGHTINGS, make_objective

TABLES: Mapping[str, Table] = {
    "dataset": DATASETS,
    "backbone": BACKBONES,
    "head": HEADS,
    "loss": LOSSES,
    "weighting": WEIGHTINGS,
    "transform": TRANSFORMS,
    "sampler": SAMPLERS,
    "schedule": SCHEDULES,
    "method": METHODS,
}

# Tags the stream of random numbers that initial weights come from; train.py has its own.
INITIAL_WEIGHTS = 0

# What settings of an untrained method begin with that do nothing.
OF_TRAINING = ("optim.", "sampler", "augment", "objective")

# Parts that are only asked what they refuse are built for these.
ANY_COUNTS = torch.tensor([2, 1])


def prepare(recipe: str, method: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked configuration: every part exists, every option fits, parts go together.

    Raises:
        ConfigError: every problem found, a line each.
    """
    config = load(recipe, method, overrides, TABLES)
    problems = list(_combinations(config))
    if problems:
        raise ConfigError(problems)
    return config


def load_data(
    spec: Spec, root: Path | None, *, only_readable: bool = False, workers: int = 0
) -> LongTailData:
    """The dataset a configuration names; the last one is kept, since a table repeats it.

    Args:
        only_readable: try every image, with so many `workers`, and leave out what cannot be
            read.
    """
    options = json.dumps(dict(spec.options), sort_keys=True)
    return _load_data(spec.name, options, root, workers if only_readable else None)


def make_method(config: RunConfig, data: LongTailData | DataSummary) -> Method:
    """The method with its freshly initialised network.

    The backbone is built first, so that all methods of a seed start from the same one.
    """
    seed_everything(config.seed, INITIAL_WEIGHTS)
    class_counts = torch.tensor(data.class_counts)
    backbone = build("backbone", config.backbone, BACKBONES)
    features, classes = backbone.num_features, len(data.class_counts)
    parts: dict[str, Any] = {
        "backbone": backbone,
        "head": build("head", config.head, HEADS, features, classes),
        "objective": make_objective(config.objective, class_counts),
        "class_counts": class_counts,
        "num_features": features,
    }
    if config.representation:
        place = "representation.head"
        parts["representation_head"] = build(
            "head", config.representation.head, HEADS, features, classes, place=place
        )
        parts["representation_objective"] = make_objective(
            config.representation.objective, class_counts, "representation.objective"
        )
    method: Method = build("method", config.method, METHODS, Parts(**parts))
    return method


def make_loader(
    data: LongTailData, split: Split | ImageFiles, config: RunConfig, where: Runtime
) -> Loader:
    """Batches of a split; only the training split is augmented."""
    options: dict[str, Any] = {
        "batch_size": config.optim.batch_size,
        "augment": config.augment if split is data.train else (),
        "mean": data.mean,
        "std": data.std,
        "device": where.device,
    }
    if isinstance(split, ImageFiles):
        return FileLoader(split, workers=where.workers, **options)
    return ResidentLoader(split, **options)


def refuse_unfit(method: Method, config: RunConfig, data: LongTailData) -> None:
    """Try the backbone on blank images, so that what does not fit is said, and before it is long.

    Raises:
        ConfigError: it does not take them, gives other features than it says, or cannot learn from
            a batch of one, where there is such a batch.
    """
    name, batch_size = config.backbone.name, config.optim.batch_size
    size = data.train.size if isinstance(data.train, ImageFiles) else data.train.images.shape[-1]
    images = torch.zeros(2, len(data.mean), size, size)
    said = f"backbone: {name!r} does not take images of {' x '.join(map(str, images.shape[1:]))}"
    try:
        with torch.no_grad():
            features = method.eval().backbone(images)
    except (RuntimeError, ValueError, AssertionError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{said}: {why}; choose another, or another size") from error
    if features.shape != (2, method.backbone.num_features):
        raise ConfigError(f"{said}: it gives {tuple(features.shape[1:])}; choose another")
    if 1 not in (batch_size, len(data.train) % batch_size) or not method.train().backbone.training:
        return
    try:
        with torch.no_grad():
            copy.deepcopy(method.backbone)(images[:1])
    except ValueError as error:  # torch's, of batch norms that see one value
        larger = itertools.count(batch_size + 1)
        other = next(size for size in larger if len(data.train) % size != 1)
        raise ConfigError(
            f"optim.batch_size: {batch_size} leaves a batch of one image, from which the batch "
            f"norms of {name!r} cannot learn at this size; write {other}"
        ) from error


def _combinations(config: RunConfig) -> Iterator[str]:
    """What is wrong between parts that are each right."""
    if not is_file_name(config.run_id):
        yield (
            f"recipe: {config.run_id!r}, from the names of files, cannot name a run; rename them: "
            "no dot in front, nothing that is not printable"
        )
    yield from _of_parent(config)
    yield from _of_objective(config.objective, config.head, "")
    if given := config.representation:
        yield from _of_objective(given.objective, given.head, "representation.")
    optim = config.optim
    if optim.nesterov and not optim.momentum:
        yield "optim.nesterov: has no effect without momentum; write false, or a momentum above 0"
    schedule = bind("schedule", optim.schedule, SCHEDULES, place="optim.schedule")
    try:
        schedule(START)
    except ConfigError as error:
        yield from (f"optim.schedule.{problem}" for problem in error.problems)
    name, method = config.method.name, METHODS[config.method.name]
    if not method.is_trained:
        if optim.epochs:
            yield f"optim.epochs: {name!r} takes no gradient steps; write 0"
        for key in given_keys(config.overrides):
            if key.startswith(OF_TRAINING) and key not in ("optim.epochs", "optim.batch_size"):
                yield f"{key}: has no effect on {name!r}, which is not trained; leave it out"
    if method.needs_representation and not config.representation:
        yield f"method: {name!r} needs a [representation] table with an objective"
    if config.representation and not method.needs_representation:
        yield f'representation: has no effect on {name!r}; leave it out or write method = "sdn"'


def _of_parent(config: RunConfig) -> Iterator[str]:
    """What is wrong between a method and the run it starts from, if it starts from one."""
    name, method, parent = config.method.name, METHODS[config.method.name], config.parent
    if parent is None:
        if method.needs_parent:
            yield f'method: {name!r} needs a parent, for example parent = "ce"'
        return
    if not method.needs_parent:
        yield f"parent: {parent.overlay!r} has no effect on {name!r}; leave it out"
    for part in SHARED_WITH_PARENT:
        if getattr(config, part) != getattr(parent, part):
            yield (
                f"{part}: is another one than that of parent {parent.overlay!r}; write both "
                "the same, or make it a variant of the recipe"
            )
    if method.keeps_head:
        if method.needs_head not in (None, parent.head.name):
            yield (
                f"parent: {name!r} works on a {method.needs_head!r} head, {parent.overlay!r} has "
                f"{parent.head.name!r}; write another parent"
            )
        elif config.head != parent.head:
            yield f"head: {name!r} keeps its parent's head; write head = {parent.head.name!r}"
        before = METHODS[parent.method.name]
        if before.keeps_head or not before.is_trained:
            yield (
                f"parent: {name!r} keeps a head as it was trained, {parent.overlay!r} has a "
                "changed one; write another parent"
            )
    if method.takes_off_prior:
        loss = parent.objective.loss
        if build("loss", loss, LOSSES, ANY_COUNTS).takes_off_prior:
            yield f"parent: {loss.name!r} took the prior off already; write one of another loss"


def _of_objective(objective: ObjectiveConfig, head: Spec, place: str) -> Iterator[str]:
    """What an objective's parts refuse of their options, of one another and of the head."""
    try:
        needed = make_objective(objective, ANY_COUNTS, f"{place}objective").loss.needs_head
    except ConfigError as error:
        yield from error.problems
        return
    if needed not in (None, head.name):
        loss = objective.loss.name
        yield f'{place}head: {head.name!r} does not fit {loss!r}; write {place}head = "{needed}"'


@functools.lru_cache(maxsize=1)
def _load_data(name: str, options: str, root: Path | None, trying: int | None) -> LongTailData:
    data: LongTailData = build("data", Spec(name, json.loads(options)), DATASETS, root)
    return data if trying is None else without_unreadable(data, workers=trying)
