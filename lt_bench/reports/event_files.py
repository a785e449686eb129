"""TensorBoard's event files of runs, finished or in progress (extra `tensorboard`)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lt_bench.errors import ConfigError, DataError
from lt_bench.files import writing
from lt_bench.record import read

SCALARS = ("loss", "lr", "seconds", "images_per_second")


def write_event_files(results: Path, folder: Path) -> list[Path]:
    """A folder per run under `folder`, named by its run_id, with its curves; returns them.

    A point per epoch of the loss, its terms, the learning rate and the speed, taken from
    events.jsonl or, where that is gone, from the record. Event files of before are replaced.

    Raises:
        ConfigError: tensorboard is not installed, or there is no run.
        DataError: a file of a run is damaged.
        WriteError: an event file cannot be written.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ConfigError(
            'report --tensorboard: needs tensorboard; run python -m pip install -e ".[tensorboard]"'
        ) from error
    # of a run that has both, its events
    kinds = ("record.json", "events.jsonl")
    found = {path.parent: path for kind in kinds for path in results.glob(f"runs/*/{kind}")}
    sources = [found[run] for run in sorted(found)]
    if not sources:
        raise ConfigError(f"report --tensorboard: no run in {results / 'runs'}; train one first")
    for source in sources:
        lines = _lines(source)
        now = source.stat().st_mtime - sum(line["seconds"] for line in lines)
        target = folder / source.parent.name
        with writing(target):
            target.mkdir(parents=True, exist_ok=True)
            for old in target.glob("events.out.tfevents.*"):
                old.unlink()
            writer = EventFileWriter(str(target))
            for line in lines:
                now += line["seconds"]
                values = [Summary.Value(tag=t, simple_value=v) for t, v in _scalars(line)]
                summary = Summary(value=values)
                writer.add_event(Event(wall_time=now, step=line["epoch"], summary=summary))
            writer.close()
    return [folder / source.parent.name for source in sources]


def _lines(source: Path) -> list[Mapping[str, Any]]:
    if source.name == "record.json":
        return [asdict(epoch) for epoch in read(source).history]
    try:
        # a run may be in the midst of its last line
        whole, _, _ = source.read_text(encoding="utf-8").rpartition("\n")
        lines = [json.loads(text) for text in whole.splitlines()]
        for line in lines:
            line |= {name: float(line[name]) for name in SCALARS} | {"epoch": int(line["epoch"])}
            list(_scalars(line))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{source}: damaged; delete it, or run its experiment again") from error
    return lines


def _scalars(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name in SCALARS:
        yield name, float(line[name])
    for name, value in line["terms"].items():
        yield f"terms/{name}", float(value)
