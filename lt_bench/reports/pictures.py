"""The figures as the page holds them, and whether they are those of its tables."""

import base64
import functools
import io
import itertools
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from lt_bench.errors import DataError
from lt_bench.reports.render import source_of_figure
from lt_bench.reports.report import Results
from lt_bench.reports.tables import Filled

# in the order in which they stand on the page
CAPTIONS = {
    "factors": "Accuracy against the imbalance factor.",
    "ranks": "Rank of each method in every section.",
    "groups": "Accuracy of the shot groups, with the standard deviation over seeds.",
    "classes": "Training images per class, and accuracy by class of each method over the first.",
    "confusion": "What the images of each shot group are taken for.",
    "weights": "Class weights that follow the training, drawn down to 0.01: by class, by time.",
    "reliability": "How often a prediction is right, by its confidence.",
    "curves": "Training loss by epoch.",
    "cost": "Accuracy against the time of a run.",
}
# Up to how many rows of a table they are on the page; larger tables link to them, those that say
# least first.
MOST_ROWS = {
    "groups": 25,
    "confusion": 25,
    "classes": 17,
    "weights": 15,
    "reliability": 10,
    "curves": 10,
}


def figures_of(table: Filled, results: Results) -> Iterator[str]:
    """The table's figures; what would make the page too large is linked instead."""
    num_rows = sum(map(len, table.rows.values()))
    links = []
    folder = results.folder / "figures"
    drawn = {path for path in folder.glob("*.png") if _table_of(path, results) is table}
    stems = sorted({path.stem.rpartition("-")[0] for path in drawn})
    for stem, kind in itertools.product(stems, CAPTIONS):
        path = folder / f"{stem}-{kind}.png"
        if path not in drawn:
            continue
        section = stem.removeprefix(table.name).removeprefix("-")
        caption = escape(f"{section}: {CAPTIONS[kind]}" if section else CAPTIONS[kind])
        if num_rows > MOST_ROWS.get(kind, num_rows):
            links.append(f'<a href="figures/{escape(path.name)}">{caption}</a>')
            continue
        yield (
            f'<figure><div class="scroll" tabindex="0"><img alt="{caption}" '
            f'src="data:image/webp;base64,{_picture(path, path.stat().st_mtime_ns)}"></div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if links:
        yield f'<p class="facts">More figures: {" ".join(links)}</p>'


@functools.lru_cache(maxsize=256)
def _picture(path: Path, _changed: int) -> str:
    """The picture in few colours, a third of the bytes and hardly a difference to the eye."""
    try:
        with Image.open(path) as image:
            few = _in_few_colours(image.convert("RGB"))
    except OSError as error:
        raise DataError(f"{path}: not readable as an image; delete it") from error
    with io.BytesIO() as file:
        few.save(file, "WEBP", lossless=True, quality=80, method=4)
        return base64.b64encode(file.getvalue()).decode()


def _in_few_colours(image: Image.Image, number: int = 24, apart: int = 12) -> Image.Image:
    """The image in its most frequent colours that differ, so that each area keeps its own."""
    counted = sorted(image.getcolors(image.width * image.height) or (), reverse=True)
    kept: list[Sequence[int]] = []
    for _, colour in counted:
        assert isinstance(colour, tuple)
        if all(max(abs(a - b) for a, b in zip(colour, c, strict=True)) > apart for c in kept):
            kept.append(colour)
        if len(kept) == number:
            break
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in kept for value in colour])
    return image.quantize(palette=palette, dither=Image.Dither.NONE).convert("RGB")


def check_figures(results: Results) -> list[str]:
    """What figures do not belong to their tables as these are now, a line each.

    By the mark that each carries: another matplotlib may draw the same in other pixels.
    """
    drifted = []
    for path in sorted((results.folder / "figures").glob("*.png")):
        table = _table_of(path, results)
        if table is None:
            drifted.append(f"{path}: no table with records draws it; delete it")
            continue
        try:
            with Image.open(path) as image:
                source = image.info.get("Source")
        except OSError:
            drifted.append(f"{path}: not readable as an image; {results.remedy}")
            continue
        if source != source_of_figure(path.stem, table, results.folder):
            drifted.append(
                f"{path}: of another figure or another state of its table; {results.remedy}"
            )
    return drifted


def _table_of(figure: Path, results: Results) -> Filled | None:
    """The table that names a figure, the longest of several whose names begin alike."""
    of = [table for table in results.filled if figure.stem.startswith(f"{table.name}-")]
    return max(of, key=lambda table: len(table.name), default=None)
