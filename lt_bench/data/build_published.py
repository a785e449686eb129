"""`data build` of the benchmarks whose lists are their authors': found, verified and kept."""

import hashlib
import http.client
import io
import json
import tarfile
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt_bench.data import lists
from lt_bench.data.benchmarks import Benchmark, facts_of, shared_images
from lt_bench.data.build import as_json
from lt_bench.data.image_list import git_blobs, parse, read_text, verify
from lt_bench.data.lists import Item, counts_of, identity
from lt_bench.data.types import Report
from lt_bench.errors import DataError
from lt_bench.files import write_text_whole
from lt_bench.metrics import shot_groups

DOWNLOAD_SECONDS = 60


@dataclass(frozen=True)
class Origin:
    """Where the list of a split comes from, and its text."""

    place: str
    text: str


def build_published(
    benchmark: Benchmark, root: Path | None, *, folder: Path | None, download: bool
) -> Report:
    """Write `data_lists/<name>/<split>.txt` from the published lists; needs no images.

    A split whose list is not there is said and left out, the others are built. The first verified
    build of a split whose identity is not known yet adds it to `data_lists/<name>.json`.

    Args:
        folder: where the published list files lie.
        download: fetch what is not in `folder`.

    Raises:
        DataError: a list is not the published one; nothing is written then.
    """
    facts = facts_of(benchmark)
    lines: list[str] = []
    built: dict[str, list[Item]] = {}
    problems: list[str] = []
    is_complete = True
    for split in benchmark.published:
        try:
            origin = _find(benchmark, split, root, folder, download)
            built[split], said = _read(benchmark, split, origin, facts)
            lines += [f"{split}: {origin.place}, {said}", _totals(split, built[split])]
        except _NotFoundError as error:
            kept = _kept(benchmark, split, facts)
            is_complete &= kept is not None
            lines.append(kept or str(error))
        except DataError as error:
            problems += error.problems
    if problems := problems + shared_images(built):
        raise DataError(problems)
    for split, items in built.items():
        write_text_whole(
            lists.LISTS / benchmark.name / f"{split}.txt", lists.as_text(lists.by_label(items))
        )
        lines.append(f"wrote data_lists/{benchmark.name}/{split}.txt")
    if _complete_facts(facts, built):
        write_text_whole(lists.LISTS / f"{benchmark.name}.json", as_json(facts))
        lines.append(f"wrote data_lists/{benchmark.name}.json: identities that were not known yet")
    return Report(tuple(lines), ok=is_complete)


class _NotFoundError(Exception):
    """The list of a split is nowhere; says where to get it."""


def _find(
    benchmark: Benchmark, split: str, root: Path | None, folder: Path | None, download: bool
) -> Origin:
    name = benchmark.published[split]
    for place in (folder, folder / name.rpartition("_")[0]) if folder else ():
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                return Origin(str(path), read_text(path))
    if split in benchmark.annotations and (
        origin := _find_annotations(benchmark, split, root, folder)
    ):
        return origin
    if download:
        return _download(benchmark, split)
    raise _NotFoundError(
        f"{split}: not built: no {name}[.gz]"
        + (f" or {benchmark.annotations[split]}" if benchmark.annotations else "")
        + (f" in {folder}" if folder else "; give --lists DIR")
        + f"; get it from {benchmark.list_page}, or add --download"
    )


def _find_annotations(
    benchmark: Benchmark, split: str, root: Path | None, folder: Path | None
) -> Origin | None:
    """The list in the official annotations, unpacked or in their archive."""
    name = benchmark.annotations[split]
    places = [place for place in (folder, root) if place]
    places += [root / place for place in benchmark.places if root]
    for place in places:
        if (path := place / name).is_file():
            return Origin(str(path), _list_of_annotations(path.read_bytes(), str(path)))
        if (path := place / f"{name}.tar.gz").is_file():
            return _of_archive(benchmark, split, path.read_bytes(), str(path))
    return None


def _of_archive(benchmark: Benchmark, split: str, content: bytes, place: str) -> Origin:
    """The list in the annotations of an official archive, checksum verified."""
    archive = next(one for one in benchmark.archives if place.endswith(one.name))
    if (found := hashlib.md5(content).hexdigest()) != archive.md5:
        raise DataError(f"{place}: md5 {found}, {archive.md5} expected; fetch it again")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = next(m for m in tar if m.name.endswith(benchmark.annotations[split]))
        file = tar.extractfile(member)
        assert file is not None
        return Origin(place, _list_of_annotations(file.read(), place))


def _download(benchmark: Benchmark, split: str) -> Origin:
    is_archive = split in benchmark.annotations
    name = f"{benchmark.annotations[split]}.tar.gz" if is_archive else benchmark.published[split]
    url = f"{benchmark.url}/{name}"
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError
        raise DataError(
            f"{url}: not fetched: {error}; fetch it yourself and give its folder as --lists"
        ) from error
    if is_archive:
        return _of_archive(benchmark, split, content, url)
    return Origin(url, content.decode("utf-8", errors="replace"))


def _list_of_annotations(content: bytes, place: str) -> str:
    """The list in an official annotation file, in the order in which it has the images."""
    try:
        data = json.loads(content)
        label_of = {one["image_id"]: one["category_id"] for one in data["annotations"]}
        return "".join(f"{one['file_name']} {label_of[one['id']]}\n" for one in data["images"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{place}: not the official annotations: {error!r}; fetch them again"
        ) from error


def _read(
    benchmark: Benchmark, split: str, origin: Origin, facts: dict[str, Any]
) -> tuple[list[Item], str]:
    """The verified items, and against what they were verified."""
    items = parse(
        origin.text,
        place=origin.place,
        class_names=facts["class_names"],
        normalise=benchmark.normalise,
    )
    expected = facts[split]
    remedy = f"take the published list unchanged, from {benchmark.list_page}"
    verify(items, expected, place=origin.place, remedy=remedy, text=origin.text)
    if expected["identity"] is not None:
        return items, f"identity {expected['identity'][:16]} as published"
    return items, f"git blob {git_blobs(origin.text)[0][:16]} as published"


def _totals(split: str, items: Sequence[Item]) -> str:
    counts = list(Counter(label for _, label in items).values())
    said = f"{split}: {len(items):,} images, {len(counts):,} classes, {_span(counts)} per class"
    if split != "train":
        return said
    groups = "/".join(str(len(classes)) for classes in shot_groups(counts).values())
    return f"{said}, many/medium/few {groups}"


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{high:,}" if low == high else f"{high:,}..{low:,}"


def _complete_facts(facts: dict[str, Any], built: dict[str, list[Item]]) -> bool:
    """Add what a verified list tells for the first time; whether there was anything."""
    changed = False
    for split, items in built.items():
        if facts[split]["identity"] is None:
            facts[split]["identity"] = identity(items)
            facts[split]["class_counts"] = counts_of(items, len(facts["class_names"]))
            changed = True
    return changed


def _kept(benchmark: Benchmark, split: str, facts: dict[str, Any]) -> str | None:
    """Says that an earlier build left the list of this split, if it did."""
    try:
        items = lists.read_list(benchmark.name, split, facts)
    except DataError:
        return None
    return f"{_totals(split, items)}; already built"
