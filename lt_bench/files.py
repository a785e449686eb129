"""Whole files, and folders with one owner.

What is written appears complete under its name, or not at all. A folder that a process owns is
closed to the others until that process lets go or ends.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lt_bench.errors import BusyError, WriteError

PART = ".part-"  # how the names of half-written files begin


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into one plain line.

    Raises:
        WriteError: `path` cannot be written.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space or choose another folder" if is_full else "choose another folder"
        raise WriteError(
            f"{path}: cannot be written: {error.strerror or error}; {remedy}"
        ) from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, renamed to `path` once it is complete and on the disk.

    Raises:
        WriteError: the file cannot be written; what was there before is still there.
    """
    part = path.parent / f"{PART}{secrets.token_hex(4)}.{path.name}"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def is_file_name(text: str) -> bool:
    """Whether a file can have this name everywhere and be seen under it."""
    return Path(text).name == text and text.isprintable() and not text.startswith(".")


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text under `path`, whole."""
    with whole_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def owned(folder: Path, what: str) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go when the process ends, however it ends.

    What a killed owner left half-written is removed, and the folder itself if it ends up empty.

    Raises:
        BusyError: another process holds it.
        WriteError: the folder cannot be written.
    """
    path = folder / "lock"
    with writing(path):
        try:
            file = _locked(path)
        except BlockingIOError as error:
            raise BusyError(f"{what} by {_owner(path)}", path) from error
    try:
        with writing(path):
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            for part in folder.glob(f"{PART}*"):
                part.unlink()
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            folder.rmdir()


def wait_for(lock: Path) -> None:
    """Return once no process holds this lock."""
    with contextlib.suppress(FileNotFoundError), lock.open("r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)


def _locked(path: Path) -> IO[str]:
    """The lock file, locked and empty.

    A record lock, since worker processes must not inherit it: they may outlive a killed owner.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # its last owner has just removed the empty folder
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # its last owner may have removed it between our opening and our locking
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    file.truncate(0)
                    return file
        except BaseException:
            file.close()
            raise
        file.close()


def _owner(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8", errors="replace") or "another process"
    except FileNotFoundError:
        return "a process that has just ended"


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
