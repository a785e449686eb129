"""A finished model on other images. B batch, C classes, K best classes."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lt_bench.assembly import make_method
from lt_bench.checkpoint import load_model, not_usable
from lt_bench.config import RunConfig, repetition
from lt_bench.data.bad_images import unreadable
from lt_bench.data.datasets import PREPROCESSING, Preprocessing
from lt_bench.data.file_loading import FileLoader
from lt_bench.data.images import CentreWindow, FolderReader, is_image_name
from lt_bench.data.types import ImageFiles
from lt_bench.errors import ConfigError, DataError, printable
from lt_bench.evaluate import folded_backbone
from lt_bench.experiment import recorded
from lt_bench.methods import Method
from lt_bench.record import Record
from lt_bench.runtime import Runtime

logger = logging.getLogger(__name__)

BEST = 5
LINES_SHOWN = 20


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image with their probabilities, the predicted one first."""

    path: str
    best: tuple[tuple[str, float], ...]


@torch.no_grad()
def predict(
    run_id: str, path: Path, where: Runtime, on_seen: Callable[[int], object] = lambda _: None
) -> list[Prediction]:
    """What the model of a finished run sees in an image, or in every image below a folder.

    Images are cut and resized as for the run's own test, photos turned as their camera says. For
    networks of small images the short side is resized and the middle square taken; for one channel
    colours are averaged.

    Args:
        on_seen: called with the number of images predicted since the last call.

    Raises:
        UserError: there is no such run, model or image, or an image cannot be read.
    """
    record, config = recorded(run_id, where.results)
    method = where.place(_trained(record, config, where.results)).eval()
    seen = PREPROCESSING[config.data.name]
    files = _files(path, config, seen, where)
    loader = FileLoader(
        files,
        batch_size=config.optim.batch_size,
        augment=(),
        mean=_of_three_channels(seen.mean),
        std=_of_three_channels(seen.std),
        device=where.device,
        workers=where.workers,
    )
    names = [printable(name) for name in record.data.class_names]
    found: list[tuple[tuple[str, float], ...]] = []
    with folded_backbone(method):
        for images, _ in loader.plain():
            if len(seen.mean) == 1:
                images = images.mean(dim=1, keepdim=True)
            with where.autocast():
                logits_BC = method.predict(images)
            logits_BC = logits_BC.double()
            best_BK = logits_BC.topk(min(BEST, len(names)), dim=1).indices
            probability_BK = method.probabilities(logits_BC).gather(1, best_BK)
            for best, probabilities in zip(best_BK.tolist(), probability_BK.tolist(), strict=True):
                found.append(
                    tuple(zip((names[label] for label in best), probabilities, strict=True))
                )
            on_seen(len(images))
    return [Prediction(files.reader.name(i), best) for i, best in enumerate(found)]


def as_lines(predictions: Sequence[Prediction], csv_file: Path | None = None) -> list[str]:
    """A line per image for people; of many the first ones, the others being in `csv_file`."""
    shown = predictions[:LINES_SHOWN]
    paths = [printable(one.path) for one in shown]
    names = [one.best[0][0] for one in shown]
    wide, broad = max(map(len, paths)), max(map(len, names))
    lines = []
    for path, name, one in zip(paths, names, shown, strict=True):
        others = ", ".join(f"{other} {value:.3f}" for other, value in one.best[1:])
        lines.append(f"{path:<{wide}}  {name:<{broad}}  {one.best[0][1]:.3f}  ({others})")
    if more := len(predictions) - len(shown):
        lines.append(f"and {more:,} more; {csv_file or '--csv FILE'} holds them all")
    return lines


def as_csv(predictions: Sequence[Prediction]) -> str:
    """A row per image: its path, then class and probability, best first."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    places = [f"_{place}" if place > 1 else "" for place in range(1, len(predictions[0].best) + 1)]
    rows.writerow(
        ["path", *(name + place for place in places for name in ("class", "probability"))]
    )
    for one in predictions:
        pairs = ((name, f"{value:.6g}") for name, value in one.best)
        rows.writerow([printable(one.path), *(cell for pair in pairs for cell in pair)])
    return text.getvalue()


def _trained(record: Record, config: RunConfig, results: Path) -> Method:
    """The method with the weights that its run left."""
    path = results / "runs" / config.run_id / "model.pt"
    if not path.exists():
        raise ConfigError(
            f"{path}: not there, the record alone is; run {repetition(config, results)}"
        )
    if "pretrained" in config.backbone.options:  # which would be fetched, and then overwritten
        options = {**config.backbone.options, "pretrained": False}
        config = replace(config, backbone=replace(config.backbone, options=options))
    method = make_method(config, record.data)
    state = load_model(path)
    try:
        method.load_model_state(state)
    except RuntimeError as error:
        raise not_usable(path, "does not fit the network of its run") from error
    return method


def _files(path: Path, config: RunConfig, seen: Preprocessing, where: Runtime) -> ImageFiles:
    base, names = _names(path)
    options = config.data.options
    files = ImageFiles(
        FolderReader(base, names, is_turned=True),
        names,
        torch.zeros(len(names), dtype=torch.int64),
        seen.size or options.get("image_size", ImageFiles.size),
        options.get("decode") == "scaled",
        CentreWindow(1.0) if seen.size else CentreWindow(),
    )
    if where.on_bad_image == "stop":
        return files
    bad = unreadable(files.reader, workers=where.workers)
    if len(bad) == len(files):
        raise DataError(f"{path}: no image in it is readable; the first: {bad[0]}")
    for problem in bad.values():
        logger.warning(f"left out: {problem.partition(';')[0]}")
    return files.only([i for i in range(len(files)) if i not in bad])


def _names(path: Path) -> tuple[Path, list[str]]:
    """A folder, and the images below it that are meant."""
    if path.is_file():
        return path.parent, [path.name]
    if not path.is_dir():
        raise ConfigError(f"{path}: no such file or folder; give an image or a folder of images")
    below = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    names = sorted(
        file.as_posix()
        for file in below
        if is_image_name(file) and not any(part.startswith(".") for part in file.parts)
    )
    if not names:
        raise ConfigError(f"{path}: no images below it; give a folder with .jpg, .png or the like")
    return path, names


def _of_three_channels(values: Sequence[float]) -> Sequence[float]:
    return values if len(values) == 3 else [*values] * 3
