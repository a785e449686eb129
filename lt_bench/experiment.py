"""One experiment: train, test, record; go on where a run stopped."""

import difflib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lt_bench.assembly import load_data, make_loader, make_method, prepare, refuse_unfit
from lt_bench.checkpoint import Checkpoint, load_model, not_usable, save_tensors
from lt_bench.config import (
    OptimConfig,
    RunConfig,
    gather,
    given_keys,
    in_folder,
    repetition,
    with_seed,
)
from lt_bench.data.bad_images import LEFT_OUT
from lt_bench.data.lists import published
from lt_bench.data.loading import Loader
from lt_bench.data.types import ImageFiles, LongTailData
from lt_bench.errors import ConfigError, RunError
from lt_bench.evaluate import evaluate
from lt_bench.files import owned, writing
from lt_bench.methods import Method
from lt_bench.provenance import code_at_start, code_version, environment, is_stale
from lt_bench.record import (
    ClassHistory,
    DataSummary,
    Epoch,
    Parent,
    Record,
    read,
    record_path,
    version,
    write,
)
from lt_bench.runtime import Runtime, on_any_rank, rank, wait_for_ranks, world_size
from lt_bench.samplers import SAMPLERS
from lt_bench.schema import bind
from lt_bench.train import History, fit
from lt_bench.usage import Usage

logger = logging.getLogger(__name__)

OnEpoch = Callable[[dict[str, Any]], None]


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
    # both keep what their first call finds, which the code that trains is to be
    code_at_start()
    code_version()
    # the first rank decides for all, owns the folder, tests and writes
    is_first = rank() == 0
    if on_any_rank(is_first and finished.exists() and not again):
        record = _of_these_images(read(finished), config, where)
        other = ", which is not the code here" if is_stale(record.environment) else ""
        logger.warning(
            f"{config.run_id}: on record, by code {version(record)}{other}; --again repeats it"
        )
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


def _heed_learning_rate(config: RunConfig) -> None:
    """Steps of more or fewer images at the recipe's learning rate are told of."""
    given = set(given_keys(config.overrides))
    if "optim.lr" in given or given.isdisjoint({"optim.batch_size", "optim.accumulate"}):
        return
    optim, before = config.optim, gather(config.recipe, config.overlay).tree.get("optim", {})
    size = optim.batch_size * optim.accumulate
    own = before.get("batch_size", OptimConfig.batch_size)
    own *= before.get("accumulate", OptimConfig.accumulate)
    if size != own and optim.epochs and not rank():
        logger.warning(
            f"optim.lr: {optim.lr:g} is that of steps of {own} images, these have {size}; "
            f"optim.lr={optim.lr * size / own:g} is in proportion"
        )


def _train(config: RunConfig, where: Runtime, folder: Path, on_epoch: OnEpoch) -> _Trained:
    usage = Usage(where.device, is_alone=where.jobs == world_size() == 1)
    is_skipping = where.on_bad_image == "skip"
    data = load_data(config.data, where.data_root, only_readable=is_skipping, workers=where.workers)
    method = make_method(config, data)
    refuse_unfit(method, config, data)
    _heed_learning_rate(config)
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
    record = folder / "record.json"
    if not record.exists() and folder.exists():
        with owned(folder, f"parent: {parent.run_id} is being trained"):
            pass
    if not record.exists():  # nor has it come in the meantime
        command = in_folder(parent.command, results, data_root)
        raise ConfigError(f"parent: {parent.run_id} has no record; run {command}")
    if not (folder / "model.pt").exists():
        command = repetition(parent, results, data_root)
        raise ConfigError(f"parent: {parent.run_id} has a record but no model.pt; run {command}")
    return load_model(folder / "model.pt")


def _of_these_images(record: Record, config: RunConfig, where: Runtime) -> Record:
    """A finished run's record; of images that no list verifies, only if they are those at hand.

    Raises:
        ConfigError: they are other ones.
    """
    is_listed = published(config.data.name) is not None
    is_known = is_listed and config.data.options.get("list") != "generated"
    if is_known or where.data_root is None:
        return record
    skips = where.on_bad_image == "skip"
    here = load_data(config.data, where.data_root, only_readable=skips, workers=where.workers)
    if _is_of(record, here):
        return record
    if not skips and LEFT_OUT in record.data.source:
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
        "deterministic": where.deterministic,
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
