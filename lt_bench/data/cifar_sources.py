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

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lt_bench.data.images import UNREADABLE
from lt_bench.data.types import Split
from lt_bench.errors import DataError

Parse = Callable[[bytes], tuple[NDArray[np.uint8], list[int]]]


def pickled(label: str) -> Parse:
    """Reads a member of the python version, whose labels are under the name `label`."""

    def parse(content: bytes) -> tuple[NDArray[np.uint8], list[int]]:
        held = pickle.loads(content, encoding="latin1")
        return held["data"], held[label]

    return parse


def binary(label_bytes: int) -> Parse:
    """Reads a member of the binary version; the last byte before an image is its class."""

    def parse(content: bytes) -> tuple[NDArray[np.uint8], list[int]]:
        rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, label_bytes + 3 * 32 * 32)
        return rows[:, label_bytes:], rows[:, label_bytes - 1].tolist()

    return parse


@dataclass(frozen=True)
class Archive:
    """One version in which a dataset is published, with checksums; all have its images' order.

    `train_files` and `test_files` are (name, md5) of the members, which `parse` reads: pixels
    (N, 3072), channels first, and labels.
    """

    version: str
    url: str
    md5: str
    folder: str
    train_files: tuple[tuple[str, str], ...]
    test_files: tuple[tuple[str, str], ...]
    parse: Parse

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def members(self) -> tuple[tuple[str, str], ...]:
        return (*self.train_files, *self.test_files)


@dataclass(frozen=True)
class Family:
    """One of the two CIFAR datasets: its names, sizes and archives, the one to fetch first.

    `places` are folders of the data root to look in besides the root itself.
    """

    name: str
    title: str
    megabytes: int
    archives: tuple[Archive, ...]
    parquet_label: str
    places: tuple[str, ...]
    class_names: tuple[str, ...]
    train_per_class: int
    test_per_class: int

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


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

    The order is: each archive, unpacked, then packed; parquet shards; class folders. Within a
    form, the folders named after the dataset come before the data root itself.
    """
    if root is None:
        raise DataError(
            f"data root: none given for {family.name}; give --data-root DIR or set LT_BENCH_DATA "
            f"to the folder that holds {_wanted(family)}, or add --download to fetch it there"
        )
    official = (
        partial(form, archive)
        for archive in family.archives
        for form in (_official_folder, _official_archive)
    )
    sources = [
        source
        for form in (*official, partial(_parquet, family), partial(_class_folders, family))
        for folder in _folders(family, root)
        if (source := form(folder, _relative(folder, root))) is not None
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
    archive = family.archives[0]
    folder = root / archive.folder
    if all(_md5(folder / name) == md5 for name, md5 in archive.members):
        return
    # slow to import
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    try:
        root.mkdir(parents=True, exist_ok=True)
        is_there = check_integrity(root / archive.name, archive.md5)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=root) as part:
            download_and_extract_archive(
                archive.url,
                root if is_there else part,
                part,
                filename=archive.name,
                md5=archive.md5,
            )
            folder.mkdir(exist_ok=True)
            for file in Path(part, archive.folder).iterdir():
                file.replace(folder / file.name)
    # no network, no space; wrong checksum; an answer that is none
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise DataError(
            f"{archive.url}: not fetched: {error}; fetch {archive.name} yourself (md5 "
            f"{archive.md5}) and put it into {root}"
        ) from error


def _md5(path: Path) -> str | None:
    if not path.is_file():
        return None
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _wanted(family: Family) -> str:
    official = ", ".join(f"{one.folder}/ or {one.name}" for one in family.archives)
    return (
        f"an official archive, unpacked or not ({official}), parquet shards train-*.parquet and "
        "test-*.parquet, or class folders train/<class>/*.png and test/<class>/*.png"
    )


def _folders(family: Family, root: Path) -> list[Path]:
    unpacked = (archive.folder for archive in family.archives)
    named = [root / name for name in (*unpacked, *family.places)]
    # the hub keeps the shards in one of these, the archive may be unpacked into its own name
    inner = [f / name for f in (*named, root) for name in ("data", "plain_text", f.name)]
    return [folder for folder in (*named, *inner, root) if folder.is_dir()]


def _relative(path: Path, root: Path) -> str:
    return f"{path.relative_to(root).as_posix()}/" if path != root else "the data root"


# Official archives


def _official_folder(archive: Archive, folder: Path, place: str) -> Source | None:
    if not any((folder / name).is_file() for name, _ in archive.members):
        return None

    def member(name: str) -> bytes:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: missing; unpack {archive.name} again")
        return (folder / name).read_bytes()

    read = partial(_read_official, archive, member)
    return Source(f"official {archive.version}, unpacked in {place}", read, is_ordered=True)


def _official_archive(archive: Archive, folder: Path, place: str) -> Source | None:
    path = folder / archive.name
    if not path.is_file():
        return None

    def read() -> tuple[Split, Split]:
        try:
            with tarfile.open(path) as file:  # once through: it is compressed as a whole
                held = {m.name: f.read() for m in file if (f := file.extractfile(m))}
            return _read_official(archive, lambda name: held[f"{archive.folder}/{name}"])
        except KeyError as error:
            raise DataError(
                f"{path}: holds no {error.args[0]}; fetch it again (md5 {archive.md5})"
            ) from error
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            reason = str(error).partition(":\n")[0]  # then what each kind of compression says
            raise DataError(
                f"{path}: not readable: {reason}; fetch it again (md5 {archive.md5})"
            ) from error

    return Source(f"official {archive.version} {archive.name} in {place}", read, is_ordered=True)


def _read_official(archive: Archive, member: Callable[[str], bytes]) -> tuple[Split, Split]:
    def split(files: Sequence[tuple[str, str]]) -> Split:
        parts = [archive.parse(_verified(member(name), name, md5, archive)) for name, md5 in files]
        pixels = np.concatenate([pixels for pixels, _ in parts])
        labels = [label for _, of_part in parts for label in of_part]
        return Split(torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.tensor(labels))

    return split(archive.train_files), split(archive.test_files)


def _verified(content: bytes, name: str, md5: str, archive: Archive) -> bytes:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(
            f"{archive.folder}/{name}: md5 {found}, {md5} published; damaged, or not the official "
            f"file: unpack {archive.name} again (md5 {archive.md5})"
        )
    return content


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
