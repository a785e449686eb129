"""Records of runs that never ran, for tests of what is made from records."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from lt_bench.config import RunConfig
from lt_bench.metrics import SCORE_BINS, TOP_LABEL_BINS, Bins, Tally
from lt_bench.record import (
    ClassHistory,
    DataSummary,
    Epoch,
    Parent,
    Record,
    SplitResult,
    read_all,
    write,
)
from lt_bench.reports import report, tables

RECIPE = """
[data]
name = "digits_lt"
imbalance_factor = 50
[backbone]
name = "small_conv"
[optim]
epochs = 4
lr = 0.05
[variants.short.optim]
epochs = 2
"""
SDN = """
method = "sdn"
[representation.objective]
weighting = "recall"
[objective]
weighting = "effective_number"
"""
TABLE = """
title = "A | table"
recipes = ["small"]
methods = ["ce", "cb", "mine"]
seeds = [0, 1]
"""


def long_tail(largest: int, imbalance_factor: float, num_classes: int) -> list[int]:
    falls = imbalance_factor ** (-np.arange(num_classes) / (num_classes - 1))
    return [int(largest * fall) for fall in falls]


def split_result(correct: Sequence[int], total: Sequence[int]) -> SplitResult:
    """A split where `correct` of each class's `total` images are right, the rest the next class."""
    num_classes = len(total)
    labels = np.repeat(np.arange(num_classes), total)
    is_right = np.concatenate(
        [np.arange(all_of) < right for right, all_of in zip(correct, total, strict=True)]
    )
    predicted = np.where(is_right, labels, (labels + 1) % num_classes)
    probabilities = np.full((len(labels), num_classes), 0.4 / (num_classes - 1))
    probabilities[np.arange(len(labels)), predicted] = 0.6
    return SplitResult.of(
        Tally.of(labels, predicted, num_classes),
        top5_correct=np.asarray(total),
        labels_predicted=predicted,
        **calibration_of(probabilities, labels),
        nll=-np.log(probabilities[np.arange(len(labels)), labels]).mean(),
    )


def calibration_of(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Bins]:
    """The bins of a split's probabilities, by numpy's histogram."""
    is_label = labels[:, None] == np.arange(probabilities.shape[1])
    sure, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = {}
    for name, values, right, number in (
        ("top_label", sure, is_right, TOP_LABEL_BINS),
        ("score", probabilities.ravel(), is_label.ravel(), SCORE_BINS),
    ):
        edges = np.arange(number + 1) / number
        count, correct = (np.histogram(v, edges)[0] for v in (values, values[right]))
        found[name] = Bins(count, np.histogram(values, edges, weights=values)[0], correct)
    return found


def make_record(
    config: RunConfig,
    *,
    class_counts: Sequence[int] = (200, 100, 20, 19),
    correct: Sequence[int] = (9, 8, 5, 2),
    total: Sequence[int] = (10, 10, 10, 10),
    seconds: float = 10.0,
    weights: Sequence[Sequence[float]] | np.ndarray = (),
    val: Sequence[int] = (),
    **environment: object,
) -> Record:
    """A sound record of `config`; `weights` are class weights at evenly spaced epochs, `val` the
    images of a validation split that are right, of ten of each class.
    """
    epochs = config.optim.epochs
    kept = [round((k + 1) * epochs / len(weights)) - 1 for k in range(len(weights))]
    history = ClassHistory(tuple(kept), tuple(tuple(map(float, line)) for line in weights))
    machine = {"commit": "0" * 40, "dirty": False, "device": "NVIDIA H200", "precision": "bf16"}
    return Record(
        run_id=config.run_id,
        recipe=config.recipe,
        overlay=config.overlay,
        digest=config.digest,
        seed=config.seed,
        command=config.command,
        parent=Parent(config.parent.run_id, config.parent.digest) if config.parent else None,
        config=config.as_dict(),
        environment={**machine, **environment},
        data=DataSummary(
            name=config.data.name,
            class_counts=tuple(class_counts),
            class_names=tuple(f"class {label}" for label in range(len(class_counts))),
            totals={"train": sum(class_counts), "test": sum(total)}
            | ({"val": 10 * len(val)} if val else {}),
            identity={"train": "1" * 64, "test": "2" * 64},
            source="synthetic",
        ),
        num_parameters=460_000,
        peak_memory_bytes=2**28,
        peak_resident_bytes=2**30,
        energy_joules=5000.0,
        seconds=seconds,
        test=split_result(correct, total),
        val=split_result(val, [10] * len(val)) if val else None,
        history=tuple(
            Epoch(epoch, 1.0, {}, config.optim.lr, seconds / epochs, 1000.0)
            for epoch in range(epochs)
        ),
        class_history={"class_weight": history} if len(weights) else {},
    )


def changed(record: Record, **test: object) -> Record:
    """The record with other fields in its test split."""
    return replace(record, test=replace(record.test, **test))


def fill_with(results, name="table", **options):
    """Records for every cell of a table, one more image of the last class right per seed."""
    for run in report.cells(name):
        right = (9, 8, 5, 2 + run.seed)
        write(make_record(run, **{"correct": right, **options}), results)


def rows(markdown: str) -> dict[str, list[str]]:
    """The cells of the Markdown tables above the differences, by the first of each line."""
    text = markdown.partition("\nDifference")[0]
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def table_frame(results: Path) -> pd.DataFrame:
    """What the test table makes of the records there."""
    return tables.frame(report.fill("table", read_all(results)))
