"""Whole files: what is written appears complete under its name, or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lt_bench.errors import DataError


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, renamed to `path` once it is complete and on the disk.

    Raises:
        DataError: the file cannot be written; what was there before is still there.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written: {error.strerror or error}; "
            "free some space or choose another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text under `path`, whole."""
    with whole_file(path) as file:
        file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
