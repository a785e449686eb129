"""Published lists of image paths: parsed, normalised and verified.

Repositories publish a list for the folder layout they use themselves. Every path is brought to one
canonical form first, so that all layouts of a split have one identity.
"""

import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lt_bench.data.lists import Item, identity
from lt_bench.errors import DataError

# The canonical path, and the class that the path as given names (None if it names none).
Canonical = tuple[str, str | None]
Normalise = Callable[[str], Canonical | None]

PROBLEMS_SHOWN = 5
MAX_DIGITS = 5  # of a label; records hold at most 65,536 classes


def read_text(path: Path) -> str:
    """The text of a list file, gzipped or plain."""
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as a list: {error}; fetch it again") from error


def parse(text: str, *, place: str, class_names: Sequence[str], normalise: Normalise) -> list[Item]:
    """The (canonical path, label) items of "path label" lines.

    Line ends, blank lines and a missing last newline do not matter.

    Raises:
        DataError: the first few lines that are wrong, each with its number.
    """
    items: list[Item] = []
    problems: list[str] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        path, _, label_text = line.strip().rpartition(" ")
        if not label_text:
            continue
        found = normalise(path)
        problem = _problem(path, label_text, found, class_names)
        if problem is None and found is not None:
            first = line_of.setdefault(found[0], number)
            if first == number:
                items.append((found[0], int(label_text)))
            else:
                problem = f"{path} is listed a second time, first in line {first}; remove one"
        if problem is not None:
            problems.append(f"{place}:{number}: {problem}")
    if problems:
        hidden = len(problems) - PROBLEMS_SHOWN
        more = [f"{place}: {hidden:,} more lines like these"] if hidden > 0 else []
        raise DataError(problems[:PROBLEMS_SHOWN] + more)
    return items


def verify(
    items: Sequence[Item],
    expected: Mapping[str, Any],
    *,
    place: str,
    remedy: str,
    text: str | None = None,
) -> None:
    """Refuse a list that is not the published one.

    Args:
        expected: number of `images`; `class_counts`, `identity` and `git_blob` where known.
        text: the list as published, to compare with `git_blob` where no identity is known yet.
    """
    if len(items) != expected["images"]:
        raise DataError(
            f"{place}: {len(items):,} images, {expected['images']:,} expected; {remedy}"
        )
    counts = Counter(label for _, label in items)
    for label, count in enumerate(expected.get("class_counts") or ()):
        if counts[label] != count:
            raise DataError(
                f"{place}: class {label} has {counts[label]:,} images, {count:,} expected; {remedy}"
            )
    if expected["identity"] is not None:
        if (found := identity(items)) != expected["identity"]:
            raise DataError(
                f"{place}: identity {found[:16]}, {expected['identity'][:16]} expected, so a path "
                f"or a label is not the published one; {remedy}"
            )
    elif text is not None and expected["git_blob"] not in (blobs := git_blobs(text)):
        raise DataError(
            f"{place}: git blob {blobs[0][:16]}, {expected['git_blob'][:16]} expected, so a line "
            f"or the order is not the published one; {remedy}"
        )


def git_blobs(text: str) -> tuple[str, str]:
    """Git's names of the text with LF line ends, with a last newline and without."""
    with_newline = "".join(f"{line}\n" for line in text.splitlines()).encode()
    return _blob(with_newline), _blob(with_newline.removesuffix(b"\n"))


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def _problem(
    path: str, label: str, found: Canonical | None, class_names: Sequence[str]
) -> str | None:
    """What is wrong with one line, with the remedy; None if nothing is."""
    if not path or not (label.isascii() and label.isdecimal()):
        return f"{f'{path} {label}'.strip()[:100]!r} is not a path and its label; write path label"
    if path.startswith("/") or path[1:3] in (":/", ":\\"):
        return f"{path} is absolute; write it relative to the folder of the images"
    if ".." in path.replace("\\", "/").split("/"):
        return f"{path} leaves the folder of the images; remove the '..'"
    if len(label) > MAX_DIGITS or int(label) >= len(class_names):
        return f"label {label[:20]}, below {len(class_names)} expected; labels count from 0"
    if found is None:
        return f"{path} is in no layout of this dataset; take the published list unchanged"
    name = class_names[int(label)]
    if found[1] not in (None, name):
        return (
            f"label {label} is class {name}, but {path} is of class {found[1]}; "
            "take the published list unchanged"
        )
    return None
