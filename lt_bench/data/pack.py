"""Packs: all images of a dataset, at the size at which they are needed, in one file.

A pack is an Arrow stream (pyarrow, the extra "parquet"), memory-mapped: a row for each image with
its split, canonical path, label, size and bytes. It grows under another name, a batch of rows at a
time, in a folder that one process owns, and appears under its own when it is complete; what an
interrupted `data pack` left there is used.
"""

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from PIL import Image

from lt_bench.data.images import (
    CentreWindow,
    Decoded,
    EncodedImage,
    ImageReader,
    Stored,
    resized,
    unreadable_as,
    with_short_side,
)
from lt_bench.data.lists import Item, identity
from lt_bench.data.types import ImageFiles, Report
from lt_bench.errors import ConfigError, DataError
from lt_bench.files import owned, writing

Format = Literal["jpeg", "uint8"]
ROWS = 256  # at a time
QUALITY = 90
MAX_JPEG = 65_500  # pixels along a side
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"

Entry = tuple[str, int]  # the split of an image, and its position there
OnPacked = Callable[[int], object]


@dataclass(frozen=True)
class PackReader:
    """The images at some rows of a pack; every process maps the file for itself."""

    path: Path
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return f"{self.path}, {_opened(self.path)['path'][self.rows[index]]}"

    def open(self, index: int) -> Stored:
        pack, row, stored = _opened(self.path), self.rows[index], self._stored(index)
        if not len(stored):
            raise ValueError("it was not when it was packed")
        if pack.schema.metadata[b"format"] == b"jpeg":
            return EncodedImage(stored)
        shape = (pack["height"][row].as_py(), pack["width"][row].as_py(), 3)
        return Decoded(np.frombuffer(stored, dtype=np.uint8).reshape(shape))

    def num_bytes(self, index: int) -> int:
        return len(self._stored(index))

    def content(self, index: int) -> bytes:
        return self._stored(index).to_pybytes()  # type: ignore[no-any-return]

    def only(self, indices: Sequence[int]) -> "PackReader":
        return replace(self, rows=[self.rows[i] for i in indices])

    def _stored(self, index: int) -> Any:
        return _opened(self.path)["image"][self.rows[index]].as_buffer()


@dataclass(frozen=True)
class Pack:
    """A complete pack: its items by split, the row of each path, and what it says of itself."""

    path: Path
    items: Mapping[str, Sequence[Item]]
    row_of: Mapping[str, int]
    class_names: Sequence[str]
    source: str

    def reader(self, listed: Sequence[Item]) -> PackReader:
        """The images of these items.

        Raises:
            DataError: one is not in the pack.
        """
        missing = [path for path, _ in listed if path not in self.row_of]
        if missing:
            raise DataError(
                f"{self.path}: {len(missing):,} of {len(listed):,} listed images are not in this "
                f"pack, the first {missing[0]}; remove it and run data pack again"
            )
        return PackReader(self.path, [self.row_of[path] for path, _ in listed])


def pack_path(base: Path, name: str) -> Path:
    return base / f"{name}.pack"


def read_pack(path: Path, image_size: int, decode: str = "exact") -> Pack:
    """Open a pack and verify that it is whole, and large enough for images of this size.

    Raises:
        ConfigError: its pixels are not to be decoded as asked for.
        DataError: there is none, or it is incomplete or damaged, or its images would have to grow.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such pack; make it with python run.py data pack")
    table = _opened(path)
    items: dict[str, list[Item]] = {}
    row_of = {}
    try:
        said = json.loads(table.schema.metadata[b"pack"])
        columns = (table[name].to_pylist() for name in ("split", "path", "label"))
        for row, (split, image, label) in enumerate(zip(*columns, strict=True)):
            items.setdefault(split, []).append((image, label))
            row_of[image] = row
        if {split: identity(listed) for split, listed in items.items()} != said["identity"]:
            raise ValueError("its rows are not those that were packed")
        whole = Pack(path, items, row_of, said["class_names"], f"{path.name} ({_describe(said)})")
        least = said["short_side"]
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    if least < (needed := short_side(image_size)):
        raise DataError(
            f"{path}: packed at a short side of {least}, {needed} needed for "
            f"image_size {image_size}; remove it and run data pack again"
        )
    if said["format"] == "uint8" and decode != "exact":
        raise ConfigError(f"decode: {decode!r} has no effect on the pixels in {path}; leave it out")
    return whole


def write_pack(
    files: Mapping[str, ImageFiles],
    path: Path,
    *,
    dataset: str,
    class_names: Sequence[str],
    source: str,
    form: Format,
    workers: int,
    on_bad_image: str = "stop",
    on_packed: OnPacked = lambda number: None,
) -> Report:
    """Pack these splits of a dataset, going on from what an interrupted run left.

    JPEG files that are no larger than needed are kept as they are. Images become smaller only:
    the short side is 8/7 of the size at which they are seen.

    Args:
        on_bad_image: "stop" at one that cannot be read, or "skip" it: its row stays empty, so
            that the pack holds what is listed, and a run over it stops or skips in its turn.
        on_packed: called with the number of images packed since the last call.

    Raises:
        DataError: an image cannot be read; everything packed so far is kept.
        BusyError: another process is making the same pack.
        WriteError: the disk is full, or the folder may not be written.
    """
    said = {
        "dataset": dataset,
        **_contents(files, form),
        "class_names": list(class_names),
        "source": source,
    }
    schema = _schema(said)
    if path.is_file() and _opened(path).schema.metadata == schema.metadata:
        return Report((f"{path}: already there, {_describe(said)}", *_left_out(path)), ok=True)
    encode = partial(
        _encode, files, short=said["short_side"], form=form, is_skipped=on_bad_image == "skip"
    )
    folder = path.with_name(f".{path.name}.part")
    part = folder / "rows"
    with owned(folder, f"{path}: is being made"), writing(path):
        done = _resume(part, schema)
        on_packed(done)
        with part.open("ab" if done else "wb") as file, ThreadPoolExecutor(max(1, workers)) as pool:
            if not done:
                file.write(schema.serialize())
            for entries in _batches(files, done):
                _append(file, _rows(schema, files, entries, list(pool.map(encode, entries))))
                on_packed(len(entries))
            _append(file, END_OF_STREAM)
        part.replace(path)
    _opened.cache_clear()
    began = f", {done:,} of them by an earlier run" if done else ""
    first = f"{path}: {said['images']:,} images{began}, {path.stat().st_size / 1e6:,.1f} MB"
    return Report((f"{first}, {_describe(said)}", *_left_out(path)), ok=True)


def _contents(files: Mapping[str, ImageFiles], form: Format) -> dict[str, Any]:
    """What tells this pack from one of other images, or of the same in another form."""
    splits = files.values()
    return {
        "format": form,
        "quality": QUALITY if form == "jpeg" else None,
        "short_side": short_side(files["train"].size),
        "images": sum(map(len, splits)),
        "bytes": sum(_num_bytes(split.reader, i) for split in splits for i in range(len(split))),
        "identity": {name: identity(split.items) for name, split in files.items()},
    }


def _num_bytes(reader: ImageReader, index: int) -> int:
    """By which a replaced image is noticed; none of one that cannot be read at all."""
    try:
        return reader.num_bytes(index)
    except OSError:
        return 0


def _left_out(path: Path) -> list[str]:
    """A line on the images of a pack that could not be read, if there are any."""
    table = _opened(path)
    missing = [i for i, width in enumerate(table["width"].to_pylist()) if not width]
    if not missing:
        return []
    return [
        f"{len(missing):,} not readable and left out, the first {table['path'][missing[0]]}; "
        "a run needs --on-bad-image skip"
    ]


def short_side(image_size: int) -> int:
    """Of the images in a pack: what evaluation resizes to before it cuts out the middle."""
    return round(image_size * CentreWindow.scale)


def _batches(files: Mapping[str, ImageFiles], done: int) -> Iterator[list[Entry]]:
    """The images that are still to be packed, a batch at a time."""
    entries = [(name, i) for name, split in files.items() for i in range(len(split))]
    for at in range(done, len(entries), ROWS):
        yield entries[at : at + ROWS]


def _append(file: IO[bytes], content: Any) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _describe(said: Mapping[str, Any]) -> str:
    form = f"JPEG quality {said['quality']}" if said["format"] == "jpeg" else "uint8 pixels"
    return f"short side at most {said['short_side']}, {form}, from {said['source']}"


def _encode(
    files: Mapping[str, ImageFiles], entry: Entry, *, short: int, form: Format, is_skipped: bool
) -> tuple[bytes, int, int]:
    """An image as it is packed, its width and its height; nothing if it cannot be read."""
    reader, index = files[entry[0]].reader, entry[1]
    try:
        with unreadable_as(reader, index):
            stored = reader.open(index)
            pixels = stored.pixels()  # refuses a damaged file
    except DataError:
        if is_skipped:
            return b"", 0, 0
        raise
    is_small = min(stored.size) <= short
    if form == "jpeg" and is_small and stored.is_jpeg:
        return reader.content(index), *stored.size
    if not is_small:
        pixels = resized(pixels, with_short_side(*stored.size, short))
    height, width = pixels.shape[:2]
    if form == "uint8":
        return pixels.tobytes(), width, height
    stream = io.BytesIO()
    kind = "JPEG" if max(height, width) <= MAX_JPEG else "PNG"
    Image.fromarray(pixels).save(stream, kind, quality=QUALITY)
    return stream.getvalue(), width, height


def _schema(said: Mapping[str, Any]) -> Any:
    arrow = _arrow()
    return arrow.schema(
        [
            ("split", arrow.string()),
            ("path", arrow.string()),
            ("label", arrow.int32()),
            ("width", arrow.int32()),
            ("height", arrow.int32()),
            ("image", arrow.large_binary()),
        ],
        metadata={"pack": json.dumps(said), "format": said["format"]},
    )


def _rows(
    schema: Any,
    files: Mapping[str, ImageFiles],
    batch: Sequence[Entry],
    encoded: Sequence[tuple[bytes, int, int]],
) -> Any:
    """A batch of rows as it is written to the file."""
    images, widths, heights = zip(*encoded, strict=True)
    columns = [
        [name for name, _ in batch],
        [files[name].listed[i] for name, i in batch],
        [int(files[name].labels[i]) for name, i in batch],
        widths,
        heights,
        images,
    ]
    arrow = _arrow()
    arrays = [arrow.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return arrow.record_batch(arrays, schema=schema).serialize()


def _resume(part: Path, schema: Any) -> int:
    """The rows that an interrupted run of the same pack left; a torn last batch is cut off."""
    if not part.is_file():
        return 0
    arrow = _arrow()
    rows, good = 0, 0
    with arrow.memory_map(str(part)) as source:
        try:
            reader = arrow.ipc.open_stream(source)
            if reader.schema.metadata != schema.metadata:
                return 0
            for batch in reader:
                rows, good = rows + len(batch), source.tell()
        except (arrow.ArrowInvalid, OSError):
            pass  # torn here
    if rows:
        os.truncate(part, good)
    return rows


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise DataError(
            "pyarrow: not installed, and packs need it; python -m pip install 'lt-bench[parquet]'"
        ) from error
    return pyarrow


@lru_cache(maxsize=4)
def _opened(path: Path) -> Any:
    """The rows of a pack, mapped into memory."""
    arrow = _arrow()
    try:
        table = arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
        table.validate(full=True)
    except (arrow.ArrowException, OSError, ValueError) as error:  # a path that is not UTF-8, too
        raise _damaged(path, error) from error
    return table


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not readable as a pack: {error}; remove it and run data pack again")
