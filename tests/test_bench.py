"""Benchmarks: each runs in a small setting and says what it should; how fast is not tested."""

import json
import math
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from lt_bench import cli, compiled
from lt_bench.bench import conventional, memory, startup
from lt_bench.bench.arrays import our_scores
from lt_bench.bench.measure import Result, Row, side_by_side, table
from lt_bench.bench.suite import BENCHMARKS, run
from lt_bench.evaluate import evaluate
from lt_bench.losses import LOSSES
from lt_bench.runtime import Runtime, usable_cores

WHERE = Runtime(torch.device("cpu"), "bf16")
SMALL = {
    "step": {"rounds": 1, "steps": 1, "depth": 8},
    "augment": {"rounds": 2, "batches": 1},
    "input": {"rounds": 1, "images": 3, "batches": 1},
    "losses": {"rounds": 1, "shapes": ((8, 20), (8, 1000))},
    "eval": {"rounds": 1, "images": 200, "depth": 8},
    "metrics": {"rounds": 2, "images": 60, "num_classes": 20},
    "startup": {"rounds": 1},
    "memory": {
        "cifar": ["backbone.depth=8"],
        "jpeg": ["backbone.model=resnet10t", "data.image_size=64"],
    },
}
ROWS = {
    "step": [
        ("epoch, bf16", "speedup"),
        ("forward + backward of an epoch, bf16", "share"),
        ("epoch, fp32", "speedup"),
        ("forward + backward of an epoch, fp32", "share"),
        ("optimiser step", "speedup"),
    ],
    "augment": [("crop, flip, normalise 128 images", "speedup")],
    "input": [
        ("500x375 JPEG from files", "rate"),
        ("500x375 JPEG from jpeg pack", "rate"),
        ("500x375 JPEG from uint8 pack", "rate"),
        ("32x32 kept on the device", "rate"),
    ],
    "losses": [
        (f"{name} ({num_samples}, {num_classes})", "cost")
        for num_samples, num_classes in SMALL["losses"]["shapes"]
        for name in [*LOSSES, "recall"]
    ],
    "eval": [
        ("test pass, bf16", "speedup"),
        ("folded batch norm, bf16", "speedup"),
        ("test pass, fp32", "speedup"),
        ("folded batch norm, fp32", "speedup"),
    ],
    "metrics": [("logits to scores", "speedup")],
    "startup": [
        ("run.py --help", "value"),
        ("run.py report, no records", "value"),
        ("import lt_bench.experiment beside import torch", "cost"),
    ],
    "memory": [
        ("CIFAR run", "value"),
        ("JPEG run", "value"),
        (f"JPEG run and its {usable_cores()} workers", "value"),
    ],
}


def test_every_benchmark_has_a_small_setting():
    assert list(BENCHMARKS) == list(SMALL) == list(ROWS)


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_measures_its_rows(name, monkeypatch):
    # the commands themselves are run by other tests
    monkeypatch.setattr(startup, "_command", lambda *arguments: lambda: None)
    threads = torch.get_num_threads()
    # whole runs, which take minutes where bf16 is emulated
    where = replace(WHERE, precision="fp32") if name == "memory" else WHERE
    result = BENCHMARKS[name](where, **SMALL[name])
    assert torch.get_num_threads() == threads
    assert [(row.what, row.kind) for row in result.rows] == ROWS[name]
    for row in result.rows:
        for spread in row.spreads.values():
            assert spread is None or 0 < spread.min <= spread.median <= spread.max < math.inf
        assert (row.ratio is None) == (row.kind == "value")
        assert (row.is_met is None) == (row.goal is None)


def test_a_compiled_epoch_is_measured_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    result = BENCHMARKS["step"](replace(WHERE, compiled=True), **SMALL["step"])
    rows = [(row.what, row.kind) for row in result.rows]
    assert rows == [*ROWS["step"][:-1], ("epoch, bf16 compiled", "speedup"), ROWS["step"][-1]]


def test_ratios_are_taken_round_by_round_and_in_the_direction_of_their_kind():
    ours, conventional, limit = [1.0, 2.0, 4.0], [4.0, 4.0, 4.0], [0.5, 1.5, 4.0]

    def ratio(kind, **goal):
        row = Row("", kind, ours, conventional=conventional, limit=limit, **goal)
        ratio = row.spreads["ratio"]
        return ratio and (ratio.median, ratio.min, ratio.max), row.is_met

    assert ratio("speedup", goal=2.0) == ((2.0, 1.0, 4.0), True)
    assert ratio("speedup", goal=2.1) == ((2.0, 1.0, 4.0), False)
    assert ratio("rate", goal=0.4) == ((0.5, 0.25, 1.0), True)
    assert ratio("cost", goal=0.5) == ((0.5, 0.25, 1.0), True)
    assert ratio("cost", goal=0.4) == ((0.5, 0.25, 1.0), False)
    assert ratio("share") == ((0.75, 0.5, 1.0), None)
    assert ratio("value", goal=2.0) == (None, True)
    assert ratio("value", goal=1.9) == (None, False)


def test_rounds_are_interleaved_after_a_first_call_of_each():
    calls = []
    taken = side_by_side(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=3,
        least_seconds=0.0,
    )
    assert {name: len(series) for name, series in taken.items()} == {"a": 3, "b": 3}
    assert calls == ["a", "b"] * 4


def test_short_calls_are_repeated_within_a_round():
    calls = []
    side_by_side({"a": lambda: calls.append(1)}, rounds=2, least_seconds=0.001)
    assert len(calls) > 20


def test_the_table_shows_each_side_in_a_unit_that_fits():
    rows = [
        Row("step", "speedup", [0.5, 0.4, 0.6], conventional=[1.0, 1.0, 1.5], goal=2.0),
        Row("share", "share", [2.0], limit=[1.96], goal=0.98),
        Row("loss", "cost", [3e-5], conventional=[1e-5], goal=2.4),
        Row("help", "value", [0.75], goal=0.5),
        Row("read", "rate", [1200.0], conventional=[600.0], unit="images/s"),
    ]
    head, _, *lines = table(rows)
    assert head.split() == ["ours", "conventional", "limit", "ratio", "goal"]
    assert [" ".join(line.split()) for line in lines] == [
        "step 500 ms (400..600) 1 s (1..1.5) 2.50 x (2.00..2.50) >= 2 x, met",
        "share 2 s (2..2) 1.96 s (1.96..1.96) 98.0 % (98.0..98.0) >= 98 %, met",
        "loss 30 us (30..30) 10 us (10..10) 3.00 x (3.00..3.00) <= 2.4 x, missed",
        "help 750 ms (750..750) <= 0.5 s, missed",
        "read 1200 images/s (1200..1200) 600 images/s (600..600) 2.00 x (2.00..2.00)",
    ]


def test_both_ways_to_score_agree():
    counts = [200, 150, 60, 20, 19, 3, 1]
    labels_N = np.arange(70) % 7
    logits_NC = torch.rand(70, 7, generator=torch.Generator().manual_seed(0))
    logits_NC[torch.arange(0, 70, 2), torch.from_numpy(labels_N[::2])] += 1
    theirs = conventional.scores(logits_NC, labels_N, np.repeat(np.arange(7), counts))
    assert our_scores(logits_NC, labels_N, counts) == pytest.approx(theirs)


def test_both_test_passes_find_the_same_class_accuracies():
    from lt_bench.bench import training

    where = Runtime(torch.device("cpu"), "fp32")
    split = training._images([3] * 100)
    method = training._method(where, depth=8)
    ours = evaluate(method, training._loader(split, where, augmented=False), 100, where)
    network = torch.nn.Sequential(method.backbone, method.head)
    images = conventional.PilImages(
        split, conventional.plain_transform(training.MEAN, training.STD)
    )
    loader = conventional.loader(images, batch_size=100, device=where.device)
    theirs = conventional.evaluate(network, loader, 100, where.device)
    assert (np.asarray(ours.tally.correct) / 3).tolist() == theirs.tolist()
    assert 0 < sum(theirs) < 100


def test_the_conventional_loop_learns():
    from lt_bench.bench import training

    split = training._images([5] * 10)
    network = training._plain_network(depth=8)
    images = conventional.PilImages(
        split, conventional.plain_transform(training.MEAN, training.STD)
    )
    loader = conventional.loader(images, batch_size=50, device=WHERE.device, num_drawn=50)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = [conventional.train_epoch(network, loader, optimizer, WHERE.device) for _ in range(8)]
    assert losses[-1] < losses[0] / 2


@pytest.fixture
def quick(monkeypatch):
    """Benchmarks that are there at once."""
    row = Row("row", "speedup", [1.0], conventional=[3.0], goal=2.0)
    for name in BENCHMARKS:
        monkeypatch.setitem(BENCHMARKS, name, lambda where, n=name: Result(f"as {n} does", [row]))


def test_json_holds_the_machine_and_what_was_printed(quick, tmp_path):
    said = []
    found = run(["losses", "step"], WHERE, tmp_path / "bench.json", said.append)
    written = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert written == found
    assert list(written["benchmarks"]) == ["losses", "step"]
    once = {"median": 1.0, "min": 1.0, "max": 1.0}
    assert written["benchmarks"]["step"] == {
        "setting": "as step does",
        "rows": [
            {
                "what": "row",
                "kind": "speedup",
                "ours": once,
                "conventional": dict.fromkeys(once, 3.0),
                "limit": None,
                "ratio": dict.fromkeys(once, 3.0),
                "goal": 2.0,
                "unit": "s",
                "is_met": True,
            }
        ],
    }
    machine = written["machine"]
    assert machine["precision"] == "bf16"
    assert machine["threads"] == torch.get_num_threads()
    assert machine["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert machine["cpu"] in said[0]
    assert "losses: as losses does" in said[1]
    assert ">= 2 x, met" in said[2]


def test_the_verb_runs_all_or_the_named_and_refuses_others(quick, tmp_path, capsys):
    assert cli.main(["bench", "--device", "cpu", "--json", str(tmp_path / "all.json")]) == 0
    written = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert list(written["benchmarks"]) == list(BENCHMARKS)
    capsys.readouterr()
    assert cli.main(["bench", "augment", "--precision", "fp32"]) == 0
    out = capsys.readouterr().out
    assert "augment: as augment does" in out
    assert "step:" not in out
    assert cli.main(["bench", "stp"]) == 2
    error = capsys.readouterr().err
    assert error == f"bench: unknown 'stp'; write one of {', '.join(BENCHMARKS)}, or none for all\n"
    assert cli.main(["bench", "losses", "--compile"]) == 2
    error = capsys.readouterr().err
    assert error == "--compile: has an effect on bench step alone; leave it out\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_peak_of_a_process_and_of_those_it_starts():
    def takes(mib):
        return f"held = b'1' * ({mib} * 2**20); import time; time.sleep(1); del held"

    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {takes(100)!r}]); "
    alone, together = memory._peaks("-c", child + takes(200))
    assert 200 < alone < 260
    # one after the other: the child has ended when its parent takes the most
    assert alone <= together < 260
    both = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {takes(100)!r}]); "
    alone, together = memory._peaks("-c", both + takes(200) + "; p.wait()")
    assert 200 < alone < 260
    assert 300 < together < 380
    with pytest.raises(RuntimeError, match="no such thing"):
        memory._peaks("-c", "raise SystemExit('no such thing')")


def test_an_interrupted_look_at_a_process_ends_it(monkeypatch):
    started = []

    def interrupt(process, *_):
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        memory._peaks("-c", "import time; time.sleep(60)")
    (process,) = started
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
