"""Two gloo processes equal one: a batch split over ranks teaches what the whole batch teaches.

DistributedDataParallel averages gradients over ranks, so a rank's gradient halved must be the
whole batch's gradient at that rank's samples. One pair of processes serves all entries.
"""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from lt_bench import cli, runtime
from lt_bench import train as training
from lt_bench.assembly import prepare
from lt_bench.config import ROOT, OptimConfig
from lt_bench.data.file_loading import FileLoader
from lt_bench.data.images import FolderReader
from lt_bench.data.loading import ResidentLoader
from lt_bench.data.types import ImageFiles, Split
from lt_bench.errors import ConfigError
from lt_bench.experiment import run
from lt_bench.files import owned
from lt_bench.methods import METHODS
from lt_bench.progress import Progress
from lt_bench.record import read
from lt_bench.runtime import Runtime, sum_over_ranks, world_size
from lt_bench.samplers import instance
from lt_bench.schema import Spec
from lt_bench.train import fit
from lt_bench.weighting import reduce
from tests import trees
from tests.conformance import (
    NUM_CLASSES,
    OBJECTIVES,
    batch,
    images_of,
    method_of,
    objective_id,
    objective_of,
)

ENTRIES = [
    *OBJECTIVES,
    (Spec("ldam"), Spec("effective_number", {"start": 0.8}), "weighted_mean"),
    (Spec("seesaw"), Spec("recall"), "weighted_mean"),
]
TRAINED = [name for name, method in METHODS.items() if method.is_trained]
# which batch, and how many of its samples the first rank has: unequal, as in a last batch
STEPS = (("ordinary", 5), ("all wrong", 2), ("one class", 7), ("ordinary", 0))


def learn(entry, rank: int | None) -> dict[str, Tensor]:
    """Values and gradients of some steps and the state after them, on the whole batch or a part."""
    objective = objective_of(*entry)
    result = {}
    for i, (kind, of_first) in enumerate(STEPS):
        part = (slice(None), slice(of_first), slice(of_first, None))[
            0 if rank is None else rank + 1
        ]
        logits, target = batch(kind)
        draw = torch.rand(logits.shape, generator=torch.Generator().manual_seed(i))[part]
        logits, target = logits[part].requires_grad_(), target[part]
        if entry[0] and entry[0].name == "seql":
            loss = objective.loss(logits, target, uniform_BC=draw)
            value = reduce(loss, torch.ones_like(loss), "mean")
        else:
            value = objective(logits, target, Progress(70 + 5 * i, 100))
        value.backward()
        result[f"value {i}"], result[f"gradient {i}"] = value.detach(), logits.grad
    return result | objective.state_dict()


def learn_method(name: str, rank: int | None) -> dict[str, Tensor]:
    """The loss and the gradients of a method's step on the whole batch or a rank's part of it."""
    method = method_of(name).train()
    images, target = images_of("ordinary", method)
    part = (slice(None), slice(5), slice(5, None))[0 if rank is None else rank + 1]
    loss, _ = method(images[part], target[part], Progress(70, 100))
    loss.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


def train(name: str) -> dict[str, Tensor]:
    """The losses of a few epochs and the state after them; on several ranks each has its share."""
    method = method_of(name)
    method.backbone.insert(0, nn.Flatten())
    drawn = torch.Generator().manual_seed(5)
    pixels = torch.randint(256, (40, 1, 2, 2), dtype=torch.uint8, generator=drawn)
    split = Split(pixels, torch.randint(NUM_CLASSES, (40,), generator=drawn))
    loader = ResidentLoader(
        split,
        batch_size=12,
        augment=(Spec("crop", {"padding": 1}), Spec("flip")),
        mean=[0.5],
        std=[0.25],
        device="cpu",
    )
    optim = OptimConfig(epochs=3, lr=0.1, momentum=0.9)
    history = fit(method, loader, instance, optim, 0, Runtime(torch.device("cpu"), "fp32"))
    losses = torch.tensor([epoch["loss"] for epoch in history.epochs])
    return {"losses": losses, **method.state_dict()}


def learn_as_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    results = [learn(entry, rank) for entry in ENTRIES]
    results += [learn_method(name, rank) for name in TRAINED]
    results += [train(name) for name in TRAINED]
    ranks = sum_over_ranks(torch.tensor([1.0, rank]))
    torch.save((results, ranks, world_size()), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(learn_as_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_sums_run_over_both_ranks(both):
    for _, ranks, size in both:
        assert ranks.tolist() == [2, 1]
        assert size == 2
    assert world_size() == 1


@pytest.mark.parametrize("index", range(len(ENTRIES)), ids=[objective_id(e) for e in ENTRIES])
def test_split_batch_equals_whole(both, index):
    entry = ENTRIES[index]
    whole = learn(entry, None)
    first, second = (results[index] for results, _, _ in both)
    joined = {}
    for name, value in first.items():
        if name.startswith("value"):
            joined[name] = (value + second[name]) / 2
        elif name.startswith("gradient"):
            joined[name] = torch.cat([value, second[name]]) / 2
        else:
            assert torch.equal(value, second[name]), f"{name} differs between the ranks"
            joined[name] = value
    same = all(torch.allclose(joined[name], whole[name], rtol=1e-5, atol=1e-7) for name in whole)
    # a loss of the whole batch has each rank's part as a batch of its own, and says so
    assert same is not objective_of(*entry).loss.per_rank


@pytest.mark.parametrize("name", TRAINED)
def test_methods_split_over_ranks_equal_whole(both, name):
    whole = learn_method(name, None)
    index = len(ENTRIES) + TRAINED.index(name)
    first, second = (results[index] for results, _, _ in both)
    assert first.keys() == whole.keys()
    assert len(whole) > 1
    for key, value in whole.items():
        torch.testing.assert_close((first[key] + second[key]) / 2, value)


@pytest.mark.parametrize("name", TRAINED)
def test_training_over_ranks_equals_training_on_one(both, name):
    whole = train(name)
    index = len(ENTRIES) + len(TRAINED) + TRAINED.index(name)
    for results, _, _ in both:
        assert results[index].keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(results[index][key], value)


@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_images_from_files_join_to_the_batch(ranks, tmp_path, monkeypatch):
    paths = [f"{i}.jpg" for i in range(14)]
    for i, path in enumerate(paths):
        trees.write_photo(tmp_path / path, seed=i)
    split = ImageFiles(FolderReader(tmp_path, paths), paths, torch.arange(14), size=16)
    loader = FileLoader(
        split,
        batch_size=5,
        augment=(Spec("random_resized_crop"), Spec("flip")),
        mean=[0.5] * 3,
        std=[0.25] * 3,
        device="cpu",
    )
    order_N = torch.randperm(14, generator=torch.Generator().manual_seed(0))

    def epoch(skip: int) -> list[tuple[Tensor, Tensor]]:
        return list(loader.epoch(order_N, torch.Generator().manual_seed(1), skip=skip))

    whole = epoch(skip=1)
    monkeypatch.setattr(runtime, "world_size", lambda: ranks)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr(runtime, "rank", lambda rank=rank: rank)
        shares.append(epoch(skip=1))
    assert [len(labels) for _, labels in whole] == [5, 4]
    for together, *parts in zip(whole, *shares, strict=True):
        for wanted, *found in zip(together, *parts, strict=True):
            assert torch.equal(torch.cat(found), wanted)


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "run.py"]
    return subprocess.run(
        [sys.executable, *command, *arguments], cwd=ROOT, capture_output=True, text=True
    )


def test_one_run_on_two_ranks_is_one_record(tmp_path):
    run = ["train", "digits_lt", "ce", "optim.epochs=2", "--results", str(tmp_path)]
    done = torchrun(*run, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("digits_lt ce seed 0:") == 1
    assert done.stderr.count("epoch 2/2") == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert read(folder / "record.json").environment["ranks"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "events.jsonl",
        "model.pt",
        "record.json",
    ]
    again = torchrun(*run, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert "epoch" not in again.stderr


def test_ranks_do_not_put_off_what_another_process_trains(tmp_path):
    """The first rank would go on to the next run, and the others would join it in the wrong one."""
    (tmp_path / "two.toml").write_text(
        'title = "x"\nrecipes = ["digits_lt"]\nmethods = ["ce"]\nseeds = [0, 1]\n'
        'overrides = ["optim.epochs=1"]'
    )
    first = prepare("digits_lt", "ce", ["optim.epochs=1"])
    table = ["table", str(tmp_path / "two.toml"), "--results", str(tmp_path), "--device", "cpu"]
    with owned(tmp_path / "runs" / first.run_id, "x"):
        done = torchrun(*table)
    assert done.returncode != 0
    assert f"{first.run_id}: is being trained by process" in done.stderr
    assert not list(tmp_path.glob("runs/*/record.json"))


@pytest.mark.parametrize("flags", [["--compile"], ["--jobs", "2", "--seeds", "0", "1"]])
def test_flags_for_one_rank_are_refused(flags, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "world_size", lambda: 2)
    assert cli.main(["train", "digits_lt", "ce", "--device", "cpu", *flags]) == 2
    said = capsys.readouterr().err
    assert said == f"{flags[0]}: not with several ranks of one run; leave it out\n"


@pytest.mark.parametrize("argv", [["bench"], ["report"], ["show", "digits_lt", "ce"]])
def test_what_several_ranks_do_not_do_is_refused(argv, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(argv) == 2
    said = capsys.readouterr().err
    assert said == f"{argv[0]}: is not done by several ranks; run it without torchrun\n"


def test_half_of_what_torchrun_sets_is_refused(monkeypatch, capsys):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "first")):
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "digits_lt", "ce", "--device", "cpu"]) == 2
    assert capsys.readouterr().err == (
        "environment: WORLD_SIZE asks for several ranks, but not as torchrun sets them: "
        "LOCAL_RANK, MASTER_PORT, MASTER_ADDR; start with torchrun, or unset WORLD_SIZE\n"
    )


def test_a_rank_without_two_images_of_every_batch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "world_size", lambda: 2)
    config = prepare("digits_lt", "ce", ["optim.batch_size=36"])
    with pytest.raises(ConfigError, match="36 leaves 2 images in the last batch, for 2 ranks; "):
        run(config, Runtime(torch.device("cpu"), "fp32", results=tmp_path))
