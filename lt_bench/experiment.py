"""The composition root: the only module that knows all the others, and runs one experiment."""

import difflib
import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lt_bench.checkpoint import (
    Checkpoint,
    code_version,
    load_model,
    not_usable,
    save_tensors,
)
from lt_bench.config import ObjectiveConfig, RunConfig, in_folder, load, repetition, with_seed
from lt_bench.data.bad_images import LEFT_OUT, without_unreadable
from lt_bench.data.datasets import DATASETS
from lt_bench.data.file_loading import FileLoader
from lt_bench.data.lists import published
from lt_bench.data.loading import Loader, ResidentLoader
from lt_bench.data.transforms import TRANSFORMS
from lt_bench.data.types import ImageFiles, LongTailData, Split
from lt_bench.errors import ConfigError, RunError
from lt_bench.evaluate import evaluate
from lt_bench.files import owned, writing
from lt_bench.losses import LOSSES
from lt_bench.methods import METHODS, Method, Parts
from lt_bench.models.backbones import BACKBONES
from lt_bench.models.heads import HEADS
from lt_bench.optim import SCHEDULES
from lt_bench.progress import START
from lt_bench.record import (
    ClassHistory,
    DataSummary,
    Epoch,
    Parent,
    Record,
    code_at_start,
    environment,
    read,
    record_path,
    version,
    write,
)
from lt_bench.runtime import (
    Runtime,
    on_any_rank,
    rank,
    seed_everything,
    wait_for_ranks,
    world_size,
)
from lt_bench.samplers import SAMPLERS
from lt_bench.schema import Spec, Table, bind, build
from lt_bench.train import History, fit
from lt_bench.usage import Usage
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

# Parts that are only asked what they refuse are built for these.
ANY_COUNTS = torch.tensor([2, 1])

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


def run(
    config: RunConfig, where: Runtime, on_epoch: OnEpoch = lambda _: None, *, again: bool = False
) -> Record:
    """Train, evaluate and record one experiment; the record and the model lie in its run folder.

    A stopped run goes on where it stood; a finished one is returned as it is, unless the images
    of one's own that are at hand are not those it saw.

    Args:
        on_epoch: called with the line of each finished epoch; in a run that goes on, also with
            those it had finished before.
        again: repeat a finished run, and start a stopped one over (but not a stopped repetition).

    Raises:
        UserError: the data is missing or wrong, or a part refuses its options.
        BusyError: another process is at work on this run.
        RunError: training diverged, or the memory does not suffice; the checkpoint is kept.
        KeyboardInterrupt: a signal; the same call goes on.
    """
    folder = where.results / "runs" / config.run_id
    finished, checkpoint = folder / "record.json", folder / "checkpoint.pt"
    code_at_start()
    # the first rank decides for all, owns the folder, tests and writes
    is_first = rank() == 0
    if on_any_rank(is_first and finished.exists() and not again):
        record = _of_these_images(read(finished), config, where)
        logger.warning(f"{config.run_id}: on record, by code {version(record)}; --again repeats it")
        return record
    with owned(folder, f"{config.run_id}: is being trained") if is_first else nullcontext():
        if is_first and again and not _is_newer(checkpoint, finished):
            checkpoint.unlink(missing_ok=True)
        # by another process, in the meantime
        if not on_any_rank(is_first and finished.exists() and not again):
            trained = _train(config, where, folder, on_epoch)
            if is_first:
                write(_tested(config, where, folder, trained), where.results)
                checkpoint.unlink(missing_ok=True)  # only now, so that a kill before loses nothing
        wait_for_ranks()
    return read(finished)


def recorded(run_id: str, results: Path) -> tuple[Record, RunConfig]:
    """A finished run's record, and its configuration from the files as they are now.

    Raises:
        ConfigError: there is no such run, or the files have changed since.
        DataError: its record is damaged.
    """
    known = [path.parent.name for path in (results / "runs").glob("*/record.json")]
    if run_id not in known and (near := difflib.get_close_matches(run_id, known, n=1)):
        raise ConfigError(f"{run_id}: no such record in {results}; did you mean {near[0]}?")
    record = read(record_path(results, run_id))
    config = prepare(*(record.config[key] for key in ("recipe", "overlay", "overrides")))
    config = with_seed(config, record.seed)
    if config.run_id != record.run_id:
        raise ConfigError(
            f"{record.run_id}: its configuration has changed since and is now {config.run_id}; "
            f"check out commit {record.environment.get('commit')}, or run it again"
        )
    return record, config


@dataclass(frozen=True)
class _Trained:
    data: LongTailData
    method: Method
    loader: Loader
    history: History
    checkpoint: Checkpoint


def _train(config: RunConfig, where: Runtime, folder: Path, on_epoch: OnEpoch) -> _Trained:
    usage = Usage(where.device, is_alone=where.jobs == world_size() == 1)
    data = load_data(config.data, where.data_root)
    if where.on_bad_image == "skip":
        data = without_unreadable(data, workers=where.workers)
    method = make_method(config, data)
    _refuse_unfit(method, config.backbone.name, data)
    if config.parent:
        _load_parent(method, config.parent, data, where)
    sampler = bind("sampler", config.sampler, SAMPLERS)
    checkpoint = Checkpoint(
        folder / "checkpoint.pt", _made_by(config, data, where), where.checkpoint_seconds, usage
    )
    with _enough_memory(config, where), checkpoint.on_signals():
        method = where.place(method)
        loader = make_loader(data, data.train, config, where)
        report = on_epoch if rank() else _events(folder, on_epoch)
        history = fit(method, loader, sampler, config.optim, config.seed, where, report, checkpoint)
    return _Trained(data, method.eval(), loader, history, checkpoint)


def _tested(config: RunConfig, where: Runtime, folder: Path, trained: _Trained) -> Record:
    data, method, checkpoint = trained.data, trained.method, trained.checkpoint
    with _enough_memory(config, where):
        val_loader = make_loader(data, data.val, config, where) if data.val else None
        with torch.no_grad(), where.autocast():
            settled = method.settle(trained.loader, val_loader)
        test_loader = make_loader(data, data.test, config, where)
        test = evaluate(method, test_loader, data.num_classes, where)
        val = evaluate(method, val_loader, data.num_classes, where) if val_loader else None
    save_tensors(folder / "model.pt", method.model_state())
    return Record(
        run_id=config.run_id,
        recipe=config.names[0],
        overlay=config.names[1],
        digest=config.digest,
        seed=config.seed,
        command=config.command,
        config=config.as_dict(),
        environment=environment(
            where.describe(),
            where.precision,
            compiled=where.compiled,
            ranks=world_size(),
            jobs=where.jobs,
            deterministic=where.deterministic,
            may_differ=where.may_differ(),
            times_resumed=checkpoint.times_resumed,
            **({"workers": where.workers} if isinstance(data.train, ImageFiles) else {}),
        ),
        data=_summary(data),
        test=test,
        val=val,
        settled=settled,
        history=tuple(Epoch(**line) for line in trained.history.epochs),
        class_history=_class_history(trained.history),
        seconds=checkpoint.seconds,
        num_parameters=sum(p.numel() for p in method.parameters()),
        **checkpoint.usage.as_dict(),
        parent=Parent(config.parent.run_id, config.parent.digest) if config.parent else None,
    )


def load_data(spec: Spec, root: Path | None) -> LongTailData:
    """The dataset a configuration names; the last one is kept, since a table repeats it."""
    return _load_data(spec.name, json.dumps(dict(spec.options), sort_keys=True), root)


def parent_state(
    parent: RunConfig, results: Path, data_root: Path | None = None
) -> dict[str, torch.Tensor]:
    """The model that the parent's run left.

    Raises:
        BusyError: the parent is being trained.
        ConfigError: the parent has not run, or its model is gone; the message is the command.
        DataError: its model is damaged.
    """
    folder = results / "runs" / parent.run_id
    if not (folder / "record.json").exists():
        if folder.exists():
            with owned(folder, f"parent: {parent.run_id} is being trained"):
                pass
        if not (folder / "record.json").exists():  # which may have come in the meantime
            command = in_folder(parent.command, results, data_root)
            raise ConfigError(f"parent: {parent.run_id} has no record; run {command}")
    if not (folder / "model.pt").exists():
        command = repetition(parent, results, data_root)
        raise ConfigError(f"parent: {parent.run_id} has a record but no model.pt; run {command}")
    return load_model(folder / "model.pt")


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


def _combinations(config: RunConfig) -> Iterator[str]:
    """What is wrong between parts that are each right."""
    name, method = config.method.name, METHODS[config.method.name]
    if method.needs_parent and not config.parent:
        yield f'method: {name!r} needs a parent, for example parent = "ce"'
    if config.parent and not method.needs_parent:
        yield f"parent: {config.parent.overlay!r} has no effect on {name!r}; leave it out"
    needed, parent = method.needs_head, config.parent
    if parent and method.keeps_head and needed not in (None, parent.head.name):
        yield (
            f"parent: {name!r} works on a {needed!r} head, {parent.overlay!r} has "
            f"{parent.head.name!r}; write another parent"
        )
    elif parent and method.keeps_head and config.head != parent.head:
        yield f"head: {name!r} keeps its parent's head; write head = {parent.head.name!r}"
    if parent and method.takes_off_prior:
        loss = parent.objective.loss
        if build("loss", loss, LOSSES, ANY_COUNTS).takes_off_prior:
            yield f"parent: {loss.name!r} took the prior off already; write one of another loss"
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
    if not method.is_trained and optim.epochs:
        yield f"optim.epochs: {name!r} takes no gradient steps; write 0"
    if method.needs_representation and not config.representation:
        yield f"method: {name!r} needs a [representation] table with an objective"
    if config.representation and not method.needs_representation:
        yield f'representation: has no effect on {name!r}; leave it out or write method = "sdn"'


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


def _refuse_unfit(method: Method, name: str, data: LongTailData) -> None:
    """Try the backbone on blank images, so that what does not fit is said, and before it is long.

    Raises:
        ConfigError: it does not take them, or gives other features than it says.
    """
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
    }
    if isinstance(split, ImageFiles):
        return FileLoader(split, workers=where.workers, **options)
    return ResidentLoader(split, **options)


def _of_these_images(record: Record, config: RunConfig, where: Runtime) -> Record:
    """A finished run's record; of images that no list verifies, only if they are those at hand.

    Raises:
        ConfigError: they are other ones.
    """
    is_listed = published(config.data.name) is not None
    is_known = is_listed and config.data.options.get("list") != "generated"
    if is_known or where.data_root is None or where.on_bad_image == "skip":
        return record
    if _is_of(record, load_data(config.data, where.data_root)):
        return record
    if LEFT_OUT in record.data.source:
        raise ConfigError(
            f"{config.run_id}: was run without images that could not be read; give --on-bad-image "
            "skip as then, or, of other images, another --results"
        )
    raise ConfigError(
        f"{config.run_id}: was run on other images than those in {where.data_root}; run "
        f"{repetition(config, where.results, where.data_root)}"
    )


def _is_of(record: Record, data: LongTailData) -> bool:
    return record.data.identity == dict(data.identity)


def _load_parent(method: Method, parent: RunConfig, data: LongTailData, where: Runtime) -> None:
    """Give the method what its parent learned, from the same images.

    Raises:
        ConfigError: the parent saw other images.
        DataError: its model is damaged.
    """
    state = parent_state(parent, where.results, where.data_root)
    if not _is_of(read(record_path(where.results, parent.run_id)), data):
        command = repetition(parent, where.results, where.data_root)
        raise ConfigError(f"parent: {parent.run_id} was run on other images; run {command}")
    try:
        method.load_parent(state)
    except RuntimeError as error:
        path = where.results / "runs" / parent.run_id / "model.pt"
        raise not_usable(path, "does not fit the network of its run") from error


def _is_newer(checkpoint: Path, finished: Path) -> bool:
    """Whether the checkpoint is of a repetition that was stopped, not of the run on record."""
    if not (checkpoint.exists() and finished.exists()):
        return False
    return checkpoint.stat().st_mtime_ns > finished.stat().st_mtime_ns


def _made_by(config: RunConfig, data: LongTailData, where: Runtime) -> dict[str, Any]:
    """What two parts of a run must share for its numbers to be those of one."""
    return {
        "digest": config.digest,
        "seed": config.seed,
        "data": dict(data.identity),
        "device": where.device.type,
        "precision": where.precision,
        "compiled": where.compiled,
        "ranks": world_size(),
        "torch": torch.__version__.split("+")[0],
        "code": code_version(),
    }


@contextmanager
def _enough_memory(config: RunConfig, where: Runtime) -> Iterator[None]:
    """Say what to do when the memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        size, accumulate = config.optim.batch_size, config.optim.accumulate
        remedy = "a smaller backbone or smaller images"
        if size > 1:
            halves = f"optim.batch_size={size // 2} optim.accumulate={2 * accumulate}"
            remedy = f"{halves} needs about half, but is another experiment to the tables"
        raise RunError(
            f"out of memory at optim.batch_size {size} on {where.describe()}; {remedy}"
        ) from error


def _events(folder: Path, on_epoch: OnEpoch) -> OnEpoch:
    """A line per finished epoch in events.jsonl, readable while the run goes on."""
    path = folder / "events.jsonl"
    with writing(path):
        path.write_text("", encoding="utf-8")

    def report(line: dict[str, Any]) -> None:
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        on_epoch(line)

    return report


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
