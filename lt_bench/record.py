"""The record of a finished run: one JSON file from which every number is derived, without torch."""

import base64
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import gt, lt
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from numpy.typing import ArrayLike

from lt_bench.errors import DataError
from lt_bench.files import is_file_name, write_text_whole
from lt_bench.metrics import FEW, MANY, Bins, IntArray, Tally
from lt_bench.schema import NonNegative, Range, Reader

SCHEMA: Literal[1] = 1
# Limits that no sound record comes near, so that a hostile one cannot fill the memory.
MAX_BYTES = 64 * 2**20
MAX_IMAGES = 2**27
MAX_CLASSES = 2**16  # labels are stored as uint16

Number = Annotated[int, Range(low=0, high=2**53)]  # exact in every reader of JSON
Numbers = tuple[Number, ...]


@dataclass(frozen=True)
class ShotRule:
    """Many-shot classes have more than `many` training images, few-shot ones fewer than `few`."""

    many: Number = MANY
    few: Number = FEW


@dataclass(frozen=True)
class DataSummary:
    """What was trained and tested on: `totals` images and `identity` hash per split."""

    name: str
    class_counts: Numbers
    class_names: tuple[str, ...]
    totals: dict[str, Number]
    identity: dict[str, str]
    source: str
    shot_rule: ShotRule = ShotRule()


@dataclass(frozen=True)
class BinCounts:
    """metrics.Bins as stored."""

    count: Numbers
    confidence: tuple[NonNegative, ...]
    correct: Numbers

    @classmethod
    def of(cls, bins: Bins) -> "BinCounts":
        return cls(*(tuple(column.tolist()) for column in vars(bins).values()))

    @property
    def bins(self) -> Bins:
        return Bins(_array(self.count), np.array(self.confidence), _array(self.correct))


@dataclass(frozen=True)
class CalibrationCounts:
    """`top_label`: the predicted class of each image; `score`: every image and every class."""

    top_label: BinCounts
    score: BinCounts


@dataclass(frozen=True)
class SplitResult:
    """A split's counts per class, from which all of its scores follow.

    `labels_predicted` holds the top-1 class per image in list order (`decode_labels`); `nll` is
    the mean negative log-likelihood.
    """

    total: Numbers
    correct: Numbers
    predicted: Numbers
    top5_correct: Numbers
    labels_predicted: str
    calibration: CalibrationCounts
    nll: float

    @classmethod
    def of(
        cls,
        tally: Tally,
        *,
        top5_correct: ArrayLike,
        labels_predicted: ArrayLike,
        top_label: Bins,
        score: Bins,
        nll: float,
    ) -> "SplitResult":
        return cls(
            total=_plain(tally.total),
            correct=_plain(tally.correct),
            predicted=_plain(tally.predicted),
            top5_correct=_plain(top5_correct),
            labels_predicted=encode_labels(labels_predicted),
            calibration=CalibrationCounts(BinCounts.of(top_label), BinCounts.of(score)),
            nll=float(nll),
        )

    @property
    def tally(self) -> Tally:
        return Tally(_array(self.total), _array(self.correct), _array(self.predicted))

    def predictions(self) -> IntArray:
        """The top-1 class per image, in list order."""
        return decode_labels(self.labels_predicted, sum(self.total))


@dataclass(frozen=True)
class Epoch:
    """Means over one epoch; `lr` is the learning rate of its last step."""

    epoch: Number
    loss: float
    terms: dict[str, float]
    lr: float
    seconds: NonNegative
    images_per_second: NonNegative


@dataclass(frozen=True)
class ClassHistory:
    """A logged value per class (or per decile by count) at the epochs that were kept."""

    epochs: Numbers
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Parent:
    """The run that a second stage started from."""

    run_id: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run, one file. Times stand in `seconds` fields, speeds and `environment` alone."""

    schema: Literal[1] = SCHEMA
    run_id: str
    status: Literal["finished"] = "finished"
    recipe: str
    overlay: str
    digest: str
    seed: Number
    command: str
    parent: Parent | None = None
    config: dict[str, Any]
    environment: dict[str, Any]
    data: DataSummary
    num_parameters: Number
    peak_memory_bytes: Number | None = None  # of the GPU's allocator
    peak_resident_bytes: Number | None = None  # of the process, its workers apart
    energy_joules: NonNegative | None = None  # of the GPU's board
    seconds: NonNegative
    test: SplitResult
    val: SplitResult | None = None
    history: tuple[Epoch, ...] = ()
    class_history: dict[str, ClassHistory] = field(default_factory=dict)
    settled: dict[str, float] = field(default_factory=dict)  # chosen after training, such as tau


def write(record: Record, results: Path) -> Path:
    """Write the record under its run_id, whole, and return the file."""
    problems = _disagreements(record)
    assert not problems, problems
    path = record_path(results, record.run_id)
    write_text_whole(path, _json_text(asdict(record)) + "\n")
    return path


def record_path(results: Path, run_id: str) -> Path:
    return results / "runs" / run_id / "record.json"


def read(path: Path) -> Record:
    """The record in `path`, checked.

    Raises:
        DataError: missing, damaged, of another schema, or with counts that contradict each other.
    """
    tree = _load_json(path)
    if isinstance(tree, dict) and tree.get("schema") != SCHEMA:
        _refuse(path, f"schema {tree.get('schema')!r}, this version reads {SCHEMA}")
    reader = Reader({})
    record = reader.read(tree, Record, "record")
    problems = reader.problems or _disagreements(record)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        _refuse(path, problems[0] + more)
    return record  # type: ignore[no-any-return]


def commit(record: Record) -> str:
    """The commit that made a record, shortened."""
    found = record.environment.get("commit")
    return str(found)[:8] if found else "not known"


def version(record: Record) -> str:
    """The version of the code that made a record; of changed code with its digest, if known."""
    if not record.environment.get("dirty"):
        return commit(record)
    code = record.environment.get("code")
    return f"{commit(record)} (changed: {str(code)[:8]})" if code else f"{commit(record)} (changed)"


def read_all(results: Path) -> list[Record]:
    """Every record under `results`, by run_id.

    Raises:
        DataError: naming each file that is not a sound record of its folder's run.
    """
    records: list[Record] = []
    problems: list[str] = []
    for path in sorted((results / "runs").glob("*/record.json")):
        try:
            record = read(path)
            if record.run_id != path.parent.name:
                _refuse(path, f"holds run {record.run_id!r}, its folder names another")
            records.append(record)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return records


def encode_labels(labels: ArrayLike) -> str:
    """Class labels below 65,536 as base64 of zlib of little-endian uint16."""
    array = np.asarray(labels)
    assert not array.size or (array.min() >= 0 and array.max() < MAX_CLASSES)
    return base64.b64encode(zlib.compress(array.astype("<u2").tobytes(), 9)).decode()


def decode_labels(text: str, num_labels: int) -> IntArray:
    """The labels of `encode_labels`.

    Raises:
        DataError: the text is damaged or does not hold `num_labels` labels.
    """
    size = 2 * num_labels
    try:
        # never inflate more than is wanted: a few bytes of zlib can stand for gigabytes
        inflated = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error) as error:
        raise DataError(f"labels_predicted: damaged: {error}") from error
    if len(inflated) != size:
        raise DataError(
            f"labels_predicted: does not hold one label for each of {num_labels} images"
        )
    return np.frombuffer(inflated, "<u2").astype(np.int64)


def _load_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            _refuse(path, f"{path.stat().st_size:,} bytes, at most {MAX_BYTES:,} expected")
        tree = json.loads(path.read_text(encoding="utf-8"))
        # what could not be written again, such as 1e999 or half a surrogate pair, is not ours
        json.dumps(tree, ensure_ascii=False, allow_nan=False).encode()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such record; run its experiment first") from error
    except OSError as error:
        raise DataError(f"{path}: not readable: {error.strerror}; check its permissions") from error
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        _refuse(path, f"not JSON: {error}")
    return tree


def _refuse(path: Path, problem: str) -> NoReturn:
    shown = problem if len(problem) <= 200 else f"{problem[:200]}..."
    raise DataError(f"{path}: {shown}; restore the file, or delete its folder and run it again")


def _disagreements(record: Record) -> list[str]:
    """What contradicts itself in a record whose types are right."""
    data, num_classes = record.data, len(record.data.class_counts)
    names = f"{record.recipe}-{record.overlay}-s{record.seed}-{record.digest[:8]}"
    in_training = sum(data.class_counts)
    found = [
        (not re.fullmatch(r"[0-9a-f]{64}", record.digest), "digest", "not a sha256"),
        (not is_file_name(record.run_id), "run_id", "not a plain file name"),
        (record.run_id != names.replace(":", "."), "run_id", f"names of the run give {names!r}"),
        (not 2 <= num_classes <= MAX_CLASSES, "data.class_counts", f"{num_classes} classes"),
        (not _says_what_ran(record.config), "config", "no recipe, overlay and overrides"),
        (len(data.class_names) != num_classes, "data.class_names", "not one per class"),
        (data.totals.get("train") != in_training, "data.totals", "train is not class_counts' sum"),
        ([e.epoch for e in record.history] != [*range(len(record.history))], "history", "has gaps"),
    ]
    problems = [f"{place}: {problem}" for is_wrong, place, problem in found if is_wrong]
    for name, history in record.class_history.items():
        lengths = {len(values) for values in history.values}
        if len(history.epochs) != len(history.values) or len(lengths) != 1:
            problems.append(f"class_history.{name}: not a line of values for each epoch")
    for split, result in (("test", record.test), ("val", record.val)):
        if result and not problems:
            problems += _split_disagreements(split, result, data)
    return problems


def _says_what_ran(config: dict[str, Any]) -> bool:
    *names, overrides = (config.get(key) for key in ("recipe", "overlay", "overrides"))
    words = [*names, *(overrides if isinstance(overrides, list) else [None])]
    return all(isinstance(word, str) for word in words)


def _split_disagreements(split: str, result: SplitResult, data: DataSummary) -> list[str]:
    num_classes, num_images = len(data.class_counts), sum(result.total)
    counts = ("total", "correct", "predicted", "top5_correct")
    short = [name for name in counts if len(getattr(result, name)) != num_classes]
    if short:
        return [f"{split}.{name}: {num_classes} classes, not as many counts" for name in short]
    bins = result.calibration
    hits, num_scores = sum(result.correct), num_images * num_classes
    found = [
        (not 0 < num_images <= MAX_IMAGES, "total", f"{num_images:,} images"),
        (data.totals.get(split) != num_images, "total", f"sum differs from data.totals.{split}"),
        (any(map(gt, result.correct, result.total)), "correct", "above total"),
        (any(map(gt, result.correct, result.predicted)), "correct", "above predicted"),
        (sum(result.predicted) != num_images, "predicted", "sum differs from total's"),
        (any(map(gt, result.top5_correct, result.total)), "top5_correct", "above total"),
        (any(map(lt, result.top5_correct, result.correct)), "top5_correct", "below correct"),
        (
            not _adds_up(bins.top_label, num_images, hits),
            "calibration.top_label",
            "does not add up",
        ),
        (not _adds_up(bins.score, num_scores, num_images), "calibration.score", "does not add up"),
    ]
    problems = [f"{split}.{place}: {problem}" for is_wrong, place, problem in found if is_wrong]
    if problems:
        return problems
    try:
        predicted = np.bincount(result.predictions(), minlength=num_classes)
    except DataError as error:
        return [f"{split}.{problem}" for problem in error.problems]
    if not np.array_equal(predicted, result.predicted):
        return [f"{split}.labels_predicted: disagree with predicted"]
    return []


def _adds_up(bins: BinCounts, total: int, correct: int) -> bool:
    """Whether the bins hold `total` probabilities of at most 1, and `correct` of them right."""
    columns = list(zip(bins.count, bins.confidence, bins.correct, strict=False))
    return (
        len(bins.count) == len(bins.confidence) == len(bins.correct)
        and (sum(bins.count), sum(bins.correct)) == (total, correct)
        and all(c <= n * (1 + 1e-5) and right <= n for n, c, right in columns)
    )


def _json_text(value: Any, indent: int = 0) -> str:
    """JSON that a person can diff: lists of plain values, and whatever is short, on one line."""
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    is_nested = isinstance(value, list | tuple) and any(
        isinstance(item, dict | list | tuple) for item in value
    )
    if not (isinstance(value, dict) or is_nested) or len(flat) + indent <= 160:
        return flat
    lines = [_json_text(item, indent + 1) for item in value]
    if isinstance(value, dict):
        items = zip(lines, value.values(), strict=True)
        lines = [f"{key}: {_json_text(item, indent + 1)}" for key, item in items]
    pad = "\n" + " " * indent
    return f"{flat[0]}{pad} " + f",{pad} ".join(lines) + f"{pad}{flat[-1]}"


def _plain(counts: ArrayLike) -> Numbers:
    return tuple(int(count) for count in np.asarray(counts))


def _array(counts: Sequence[int]) -> IntArray:
    return np.array(counts, dtype=np.int64)
