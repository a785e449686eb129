"""The forms in which people have CIFAR on disk, found and read into memory."""

import hashlib
import http.client
import io
import pickle
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lt_bench.data.images import UNREADABLE
from lt_bench.data.types import Split
from lt_bench.errors import DataError


@dataclass(frozen=True)
class Family:
    """One of the two CIFAR datasets: its sizes, names and published checksums.

    `train_files` and `test_files` are (name, md5) of the archive's members; `places` are folders
    of the data root to look in besides the root itself.
    """

    name: str
    title: str
    url: str
    archive: str
    archive_md5: str
    megabytes: int
    folder: str
    train_files: tuple[tuple[str, str], ...]
    test_files: tuple[tuple[str, str], ...]
    archive_label: str
    parquet_label: str
    places: tuple[str, ...]
    class_names: tuple[str, ...]
    train_per_class: int
    test_per_class: int

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def members(self) -> tuple[tuple[str, str], ...]:
        return (*self.train_files, *self.test_files)


@dataclass(frozen=True)
class Source:
    """One form found on disk; `read` gives its training and test images.

    `is_ordered`: the images come in the order of the official archive.
    """

    name: str
    read: Callable[[], tuple[Split, Split]]
    is_ordered: bool = False


def find(family: Family, root: Path | None) -> list[Source]:
    """Every form of the dataset under the data root, the one to use first.

    The order is: official folder, official archive, parquet shards, class folders; within a form,
    the folders named after the dataset before the data root itself.
    """
    if root is None:
        raise DataError(
            f"data root: none given for {family.name}; give --data-root DIR or set LT_BENCH_DATA "
            f"to the folder that holds {_wanted(family)}, or add --download to fetch it there"
        )
    sources = [
        source
        for form in (_official_folder, _official_archive, _parquet, _class_folders)
        for folder in _folders(family, root)
        if (source := form(family, folder, _relative(folder, root))) is not None
    ]
    if not sources:
        raise DataError(
            f"data root: no {family.title} in {root}; looked for {_wanted(family)}, there and in "
            f"{', '.join(f'{place}/' for place in family.places)}; give another --data-root "
            "(or LT_BENCH_DATA), or add --download to fetch it there"
        )
    return sources


def download(family: Family, root: Path) -> None:
    """Fetch the official archive, unless it is there, and unpack it, checksums verified.

    Of one that is cut short nothing is left that would be taken for the dataset.
    """
    folder = root / family.folder
    if all(_md5(folder / name) == md5 for name, md5 in family.members):
        return
    # slow to import
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    try:
        root.mkdir(parents=True, exist_ok=True)
        is_there = check_integrity(root / family.archive, family.archive_md5)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=root) as part:
            download_and_extract_archive(
                family.url,
                root if is_there else part,
                part,
                filename=family.archive,
                md5=family.archive_md5,
            )
            folder.mkdir(exist_ok=True)
            for file in Path(part, family.folder).iterdir():
                file.replace(folder / file.name)
    # no network, no space; wrong checksum; an answer that is none
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise DataError(
            f"{family.url}: not fetched: {error}; fetch {family.archive} yourself (md5 "
            f"{family.archive_md5}) and put it into {root}"
        ) from error


def _md5(path: Path) -> str | None:
    if not path.is_file():
        return None
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _wanted(family: Family) -> str:
    return (
        f"{family.folder}/ (the official archive, unpacked), {family.archive}, parquet shards "
        "train-*.parquet and test-*.parquet, or class folders train/<class>/*.png and "
        "test/<class>/*.png"
    )


def _folders(family: Family, root: Path) -> list[Path]:
    named = [root / name for name in (family.folder, *family.places)]
    # the hub keeps the shards in one of these, the archive may be unpacked into its own name
    inner = [f / name for f in (*named, root) for name in ("data", "plain_text", f.name)]
    return [folder for folder in (*named, *inner, root) if folder.is_dir()]


def _relative(path: Path, root: Path) -> str:
    return f"{path.relative_to(root).as_posix()}/" if path != root else "the data root"


# Official archive: python 2 pickles


def _official_folder(family: Family, folder: Path, place: str) -> Source | None:
    if not any((folder / name).is_file() for name, _ in family.members):
        return None

    def member(name: str) -> bytes:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: missing; unpack {family.archive} again")
        return (folder / name).read_bytes()

    read = partial(_read_official, family, member)
    return Source(f"official archive, unpacked in {place}", read, is_ordered=True)


def _official_archive(family: Family, folder: Path, place: str) -> Source | None:
    path = folder / family.archive
    if not path.is_file():
        return None

    def read() -> tuple[Split, Split]:
        try:
            with tarfile.open(path) as archive:  # once through: it is compressed as a whole
                held = {m.name: f.read() for m in archive if (f := archive.extractfile(m))}
            return _read_official(family, lambda name: held[f"{family.folder}/{name}"])
        except KeyError as error:
            raise DataError(
                f"{path}: holds no {error.args[0]}; fetch it again (md5 {family.archive_md5})"
            ) from error
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            reason = str(error).partition(":\n")[0]  # then what each kind of compression says
            raise DataError(
                f"{path}: not readable: {reason}; fetch it again (md5 {family.archive_md5})"
            ) from error

    return Source(f"official archive {family.archive} in {place}", read, is_ordered=True)


def _read_official(family: Family, member: Callable[[str], bytes]) -> tuple[Split, Split]:
    def split(files: Sequence[tuple[str, str]]) -> Split:
        parts = [_unpickle(member(name), name, md5, family) for name, md5 in files]
        pixels = np.concatenate([part["data"] for part in parts])
        labels = [label for part in parts for label in part[family.archive_label]]
        return Split(torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.tensor(labels))

    return split(family.train_files), split(family.test_files)


def _unpickle(content: bytes, name: str, md5: str, family: Family) -> dict[str, Any]:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{family.folder}/{name}: md5 {found}, {md5} published; damaged, or not the official "
            f"file: unpack {family.archive} again (md5 {family.archive_md5})"
        )
    return pickle.loads(content, encoding="latin1")  # type: ignore[no-any-return]


# Parquet shards, as on the Hugging Face hub


def _parquet(family: Family, folder: Path, place: str) -> Source | None:
    if not any(folder.glob("train-*.parquet")) and not any(folder.glob("test-*.parquet")):
        return None
    return Source(
        f"parquet shards in {place}",
        lambda: (_read_shards(family, folder, "train"), _read_shards(family, folder, "test")),
    )


def _read_shards(family: Family, folder: Path, split: str) -> Split:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{folder}: parquet shards need pyarrow; python -m pip install 'lt-bench[parquet]'"
        ) from error

    encoded: list[bytes] = []
    labels: list[int] = []
    for path in _shards(folder, split):
        try:
            table = parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: not readable as parquet; fetch it again") from error
        image = "img" if "img" in table.column_names else "image"
        if not {image, family.parquet_label} <= set(table.column_names):
            raise DataError(
                f"{path}: columns {', '.join(table.column_names)}; img and "
                f"{family.parquet_label} expected of {family.title}"
            )
        columns = (table[name].to_pylist() for name in (image, family.parquet_label))
        for row, (cell, label) in enumerate(zip(*columns, strict=True)):
            content = cell.get("bytes") if isinstance(cell, dict) else None
            if not isinstance(content, bytes) or type(label) is not int:
                raise DataError(
                    f"{path}: row {row} has no bytes of an image and number of a class; fetch it "
                    "again"
                )
            encoded.append(content)
            labels.append(label)
    images = decode(encoded, lambda i: f"{folder}: {split} image {i}")
    return Split(images, torch.tensor(labels))


def _shards(folder: Path, split: str) -> list[Path]:
    paths = sorted(folder.glob(f"{split}-*.parquet"))
    stated = re.search(r"-of-(\d+)\.parquet$", paths[0].name) if paths else None
    number = int(stated[1]) if stated else max(len(paths), 1)
    if len(paths) != number:
        raise DataError(
            f"{folder}: {len(paths)} {split} shards, {number} expected; fetch the others of "
            f"{split}-*.parquet"
        )
    return paths


# Class folders of PNG files


def _class_folders(family: Family, folder: Path, place: str) -> Source | None:
    if not any((folder / "train" / name).is_dir() for name in family.class_names):
        return None
    return Source(
        f"class folders in {place}",
        lambda: (_read_tree(family, folder / "train"), _read_tree(family, folder / "test")),
    )


def _read_tree(family: Family, folder: Path) -> Split:
    missing = [name for name in family.class_names if not (folder / name).is_dir()]
    if missing:
        raise DataError(
            f"{folder}: no folder for {len(missing)} of {family.num_classes} classes, the first "
            f"{missing[0]}; make {folder.name}/<class>/*.png with the official class names"
        )
    paths = [sorted((folder / name).glob("*.png")) for name in family.class_names]
    flat = [path for of_class in paths for path in of_class]
    labels = [label for label, of_class in enumerate(paths) for _ in of_class]
    images = decode(flat, lambda i: str(flat[i]))
    return Split(images, torch.tensor(labels, dtype=torch.int64))


def decode(encoded: Sequence[bytes | Path], name: Callable[[int], str]) -> Tensor:
    """32x32 PNG files as one uint8 tensor (N, 3, 32, 32).

    In one thread: most of a small image's time holds the interpreter lock, and two threads that
    pass it to and fro take longer than one.

    Args:
        name: how to call the i-th file in a message.
    """
    pixels = np.empty((len(encoded), 32 * 32 * 3), dtype=np.uint8)
    for i, content in enumerate(encoded):
        try:
            file = content if isinstance(content, Path) else io.BytesIO(content)
            with Image.open(file, formats=("PNG",)) as image:
                rgb = image.convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"{name(i)}: not a readable PNG; fetch it again") from error
        if rgb.size != (32, 32):
            raise DataError(
                f"{name(i)}: {rgb.width}x{rgb.height} pixels, 32x32 expected; take the official "
                "images"
            )
        pixels[i] = np.frombuffer(rgb.tobytes(), dtype=np.uint8)
    return torch.from_numpy(pixels).view(-1, 32, 32, 3).permute(0, 3, 1, 2).contiguous()
