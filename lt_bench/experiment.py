"""The composition root: the only module that knows all the others, and runs one experiment."""

import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lt_bench.config import RunConfig, Spec, Table, bind, build, load
from lt_bench.data.bad_images import without_unreadable
from lt_bench.data.datasets import DATASETS
from lt_bench.data.file_loading import FileLoader
from lt_bench.data.loading import Loader, ResidentLoader
from lt_bench.data.transforms import TRANSFORMS
from lt_bench.data.types import ImageFiles, LongTailData, Split
from lt_bench.errors import ConfigError
from lt_bench.evaluate import evaluate
from lt_bench.files import whole_file
from lt_bench.losses import LOSSES
from lt_bench.methods import METHODS, Method, Parts
from lt_bench.models.backbones import BACKBONES
from lt_bench.models.heads import HEADS
from lt_bench.optim import SCHEDULES
from lt_bench.record import ClassHistory, DataSummary, Epoch, Parent, Record, environment, write
from lt_bench.runtime import Runtime, seed_everything
from lt_bench.samplers import SAMPLERS
from lt_bench.train import History, fit
from lt_bench.weighting import WEIGHTINGS, make_objective

logger = logging.getLogger(__name__)

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

OnEpoch = Callable[[dict[str, Any]], None]


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


def run(config: RunConfig, where: Runtime, on_epoch: OnEpoch = lambda _: None) -> Record:
    """Train, evaluate and record one experiment; the record and the model lie in its run folder.

    Raises:
        UserError: the data is missing or wrong, or a part refuses its options.
        NotFiniteError: training diverged; the events so far are kept.
    """
    began = time.perf_counter()
    folder = where.results / "runs" / config.run_id
    data = load_data(config.data, where.data_root)
    if where.on_bad_image == "skip":
        data = without_unreadable(data, workers=where.workers)
    method = make_method(config, data)
    if config.parent:
        method.load_parent(parent_state(config.parent, where.results))
    method = where.place(method)
    sampler = bind("sampler", config.sampler, SAMPLERS)
    with _events(folder) as write_event:

        def report(line: dict[str, Any]) -> None:
            write_event(line)
            on_epoch(line)

        loader = make_loader(data, data.train, config, where)
        history = fit(method, loader, sampler, config.optim, config.seed, where, report)
    method.eval()
    val_loader = make_loader(data, data.val, config, where) if data.val else None
    with torch.no_grad(), where.autocast():
        settled = method.settle(loader, val_loader)
    test = evaluate(method, make_loader(data, data.test, config, where), data.num_classes, where)
    val = evaluate(method, val_loader, data.num_classes, where) if val_loader else None
    with whole_file(folder / "model.pt") as file:
        torch.save(method.model_state(), file)
    record = Record(
        run_id=config.run_id,
        recipe=config.recipe,
        overlay=config.overlay,
        digest=config.digest,
        seed=config.seed,
        command=config.command,
        config=config.as_dict(),
        environment=environment(
            where.describe(), where.precision, deterministic=where.deterministic
        ),
        data=_summary(data),
        test=test,
        val=val,
        settled=settled,
        history=tuple(Epoch(**line) for line in history.epochs),
        class_history=_class_history(history),
        seconds=time.perf_counter() - began,
        num_parameters=sum(p.numel() for p in method.parameters()),
        peak_memory_bytes=where.peak_memory_bytes(),
        parent=Parent(config.parent.run_id, config.parent.digest) if config.parent else None,
    )
    write(record, where.results)
    return record


def load_data(spec: Spec, root: Path | None) -> LongTailData:
    """The dataset a configuration names; the last one is kept, since a table repeats it."""
    return _load_data(spec.name, json.dumps(dict(spec.options), sort_keys=True), root)


def parent_state(parent: RunConfig, results: Path) -> dict[str, torch.Tensor]:
    """The model that the parent's run left.

    Raises:
        ConfigError: the parent has not run, or its model is gone; the message is the command.
    """
    folder = results / "runs" / parent.run_id
    if not (folder / "record.json").exists():
        raise ConfigError(f"parent: {parent.run_id} has no record; run {parent.command}")
    if not (folder / "model.pt").exists():
        raise ConfigError(
            f"parent: {parent.run_id} has a record but no model.pt; run {parent.command} --again"
        )
    state: dict[str, torch.Tensor] = torch.load(
        folder / "model.pt", map_location="cpu", weights_only=True
    )
    return state


def make_method(config: RunConfig, data: LongTailData) -> Method:
    """The method with its freshly initialised network.

    The backbone is built first, so that all methods of a seed start from the same one.
    """
    seed_everything(config.seed, INITIAL_WEIGHTS)
    class_counts = torch.tensor(data.class_counts)
    backbone = build("backbone", config.backbone, BACKBONES)
    features, classes = backbone.num_features, data.num_classes
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


def _combinations(config: RunConfig) -> Iterator[str]:
    """What is wrong between parts that are each right."""
    name, method = config.method.name, METHODS[config.method.name]
    if method.needs_parent and not config.parent:
        yield f'method: {name!r} needs a parent, for example parent = "ce"'
    if config.parent and not method.needs_parent:
        yield f"parent: {config.parent.overlay!r} has no effect on {name!r}; leave it out"
    if config.parent and method.keeps_head and config.head != config.parent.head:
        yield (f"head: {name!r} keeps its parent's head; write head = {config.parent.head.name!r}")
    if not method.is_trained and config.optim.epochs:
        yield f"optim.epochs: {name!r} takes no gradient steps; write 0"
    if method.needs_representation and not config.representation:
        yield f"method: {name!r} needs a [representation] table with an objective"
    if config.representation and not method.needs_representation:
        yield f'representation: has no effect on {name!r}; leave it out or write method = "sdn"'


@functools.lru_cache(maxsize=1)
def _load_data(name: str, options: str, root: Path | None) -> LongTailData:
    data: LongTailData = build("data", Spec(name, json.loads(options)), DATASETS, root)
    return data


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
        "channels_last": True,
    }
    if isinstance(split, ImageFiles):
        return FileLoader(split, workers=where.workers, **options)
    return ResidentLoader(split, **options)


@contextmanager
def _events(folder: Path) -> Iterator[OnEpoch]:
    """A line per finished epoch in events.jsonl, readable while the run goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "events.jsonl").open("w", encoding="utf-8") as file:

        def write_event(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()

        yield write_event


def _summary(data: LongTailData) -> DataSummary:
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return DataSummary(
        name=data.name,
        class_counts=tuple(data.class_counts),
        class_names=tuple(data.class_names),
        totals={name: len(split) for name, split in splits.items() if split is not None},
        identity=dict(data.identity),
        source=data.source,
    )


def _class_history(history: History) -> dict[str, ClassHistory]:
    return {
        name: ClassHistory(tuple(kept["epochs"]), tuple(map(tuple, kept["values"])))
        for name, kept in history.classes.items()
    }
