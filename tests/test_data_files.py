"""Benchmarks whose images lie in files: every layout trains, whatever the number of workers."""

import json
import multiprocessing
import os
import shutil
import signal

import pytest

from lt_bench import cli
from lt_bench.data import file_loading, lists
from lt_bench.data.benchmarks import BENCHMARKS
from lt_bench.data.datasets import DATASETS
from lt_bench.errors import ConfigError, DataError
from lt_bench.record import read
from tests import trees

TINY = [
    "optim.epochs=2",
    "optim.batch_size=4",
    "backbone.name=small_conv",
    "backbone.in_channels=3",
    "data.image_size=32",
]


def train(recipe, root, results, *more):
    """One tiny run through the command line; its record."""
    command = ["train", recipe, "ce", *TINY, "--data-root", str(root), "--results", str(results)]
    assert cli.main([*command, "--device", "cpu", "--precision", "fp32", *more]) == 0
    (path,) = results.glob("runs/*/record.json")
    return read(path)


def problems(name, root, **options):
    with pytest.raises(DataError) as caught:
        DATASETS[name](root, **options)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("name", "layout", "place"), trees.FORMS, ids=lambda value: getattr(value, "name", value)
)
def test_every_layout_trains_through_its_recipe(name, layout, place, tmp_path, mini_lists):
    trees.write_tree(name, layout, tmp_path / "data" / place)
    record = train(name, tmp_path / "data", tmp_path / "results", "--workers", "0")
    assert record.data.class_counts == trees.TRAIN_COUNTS
    assert record.data.source.startswith(
        f"{layout.name} in {f'{place}/' if place else 'the data root'}: "
    )
    splits = trees.items(name)
    assert record.data.identity == {split: lists.identity(i) for split, i in splits.items()}
    assert record.data.totals == {split: len(i) for split, i in splits.items()}
    assert record.test.tally.total.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_losses_are_the_same_to_the_bit_with_any_number_of_workers(name, tmp_path, mini_lists):
    trees.write_tree(name, BENCHMARKS[name].layouts[0], tmp_path / "data")
    losses, predicted = set(), set()
    for workers in ("0", "1", "2"):
        record = train(name, tmp_path / "data", tmp_path / workers, "--workers", workers)
        assert record.environment["workers"] == int(workers)
        losses.add(tuple(epoch.loss for epoch in record.history))
        predicted.add(record.test.labels_predicted)
    assert len(losses) == len(predicted) == 1
    (of_epochs,) = losses
    assert len(set(of_epochs)) == 2  # it did learn


def test_the_published_recipes_own_network_trains(tmp_path, mini_lists):
    trees.write_tree("imagenet_lt", BENCHMARKS["imagenet_lt"].layouts[0], tmp_path / "data")
    command = ["train", "imagenet_lt:eql", "ce", "optim.epochs=1", "optim.batch_size=8"]
    command += ["data.image_size=64", "--device", "cpu", "--workers", "0"]
    command += ["--data-root", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    assert cli.main(command) == 0
    (path,) = tmp_path.glob("results/runs/*/record.json")
    assert read(path).num_parameters == 4_905_792 + 512 * 3 + 3


def test_a_choice_between_layouts_is_said_and_can_be_made(tmp_path, mini_lists):
    for layout in BENCHMARKS["places_lt"].layouts[:2]:
        trees.write_tree("places_lt", layout, tmp_path / "places365")
    easy, official = "train/, val/", "data_256/, val_256/"
    assert DATASETS["places_lt"](tmp_path).source == (
        f"easy_format in places365/: {easy}; also there, not used: data_256 in places365/: "
        f"{official}"
    )
    chosen = DATASETS["places_lt"](tmp_path, layout="data_256")
    assert chosen.source == f"data_256 in places365/: {official}"
    assert chosen.train.reader.paths[-1].startswith("data_256/z/zen_garden/")
    assert "data_256/c/church/indoor/00000100.jpg" in chosen.train.reader.paths


def test_missing_lists_and_images_are_all_said_at_once(tmp_path, mini_lists):
    (mini_lists / "places_lt" / "val.txt").unlink()
    found = problems("places_lt", tmp_path)
    assert found[0].startswith(
        "data_lists/places_lt/val.txt: missing; run python run.py data build"
    )
    assert found[1].startswith(f"data root: no Places365-Standard in {tmp_path}; looked for easy_")
    assert found[2] == "to see what is needed: python run.py data check places_lt"


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_image_is_named(name, tmp_path, mini_lists):
    written = trees.write_tree(name, BENCHMARKS[name].layouts[0], tmp_path)
    written[2].unlink()
    found = problems(name, tmp_path)
    path = written[2].relative_to(tmp_path)
    assert found[0] == (
        f"train: 1 of 11 listed images are not in {tmp_path}: {path}; unpack the official archive "
        "there once more"
    )


def test_a_half_complete_tree_says_what_is_missing(tmp_path, mini_lists):
    written = trees.write_tree("places_lt", BENCHMARKS["places_lt"].layouts[1], tmp_path)
    for path in written:
        if "val_256" in path.parts:
            path.unlink()
    (tmp_path / "val_256").rmdir()
    assert problems("places_lt", tmp_path)[0] == (
        "data root: data_256 in the data root: data_256/ but no val_256/ beside it; unpack that "
        "part there"
    )


def test_a_list_that_data_build_has_not_verified_is_refused(tmp_path, mini_lists):
    """The lists are not in the repository: one laid there by hand is not the published one."""
    path = mini_lists / "imagenet_lt.json"
    facts = json.loads(path.read_text())
    facts["train"]["identity"] = None
    path.write_text(json.dumps(facts))
    trees.write_tree("imagenet_lt", BENCHMARKS["imagenet_lt"].layouts[1], tmp_path)
    with pytest.raises(DataError, match=r"imagenet_lt/train.txt: there, but not verified by data"):
        DATASETS["imagenet_lt"](tmp_path)


def test_a_list_changed_after_it_was_built_is_refused(tmp_path, mini_lists):
    path = mini_lists / "imagenet_lt" / "train.txt"
    path.write_text(path.read_text().replace("_0.JPEG", "_9.JPEG", 1), encoding="utf-8")
    assert problems("imagenet_lt", tmp_path)[0].startswith(
        "data_lists/imagenet_lt/train.txt: 11 lines, sha256 "
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_damaged_image_stops_the_run_and_is_named(workers, tmp_path, mini_lists, capsys):
    written = trees.write_tree("places_lt", BENCHMARKS["places_lt"].layouts[0], tmp_path)
    content = written[0].read_bytes()
    written[0].write_bytes(content[: len(content) // 2])
    command = ["train", "places_lt", "ce", *TINY, "--data-root", str(tmp_path)]
    command += ["--results", str(tmp_path / "results"), "--workers", workers]
    assert cli.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not readable" in line]
    assert line.startswith(f"{written[0]}: not readable as an image: ")
    assert "--on-bad-image skip" in line


def test_a_dead_worker_is_named_with_its_image(tmp_path, mini_lists, capsys, monkeypatch):
    written = trees.write_tree("places_lt", BENCHMARKS["places_lt"].layouts[0], tmp_path)
    read_pixels = file_loading.pixels

    def deadly(reader, index, *arguments, **options):
        if multiprocessing.parent_process() and index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_pixels(reader, index, *arguments, **options)

    monkeypatch.setattr(file_loading, "pixels", deadly)
    command = ["train", "places_lt", "ce", *TINY, "--data-root", str(tmp_path)]
    command += ["--results", str(tmp_path / "results"), "--workers", "2"]
    assert cli.main(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "ended here" in line]
    assert any(path.name in line for path in written)
    assert "--workers 0" in line


def lines_of(root, *more, recipe="places_lt", status=2):
    """What `data check` prints, and that it exits as it should."""
    command = ["data", "check", recipe, *more]
    assert cli.main(command + (["--data-root", str(root)] if root else [])) == status


def test_check_of_nothing_says_what_to_fetch(tmp_path, mini_lists, capsys):
    shutil.rmtree(mini_lists / "places_lt")
    lines_of(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "official source: Places365-Standard, http://places2.csail.mit.edu/download.html"
    )
    assert (
        "  val_256.tar, about 501 MB, md5 e27b17d8d44f4af9a78502beb927f808: with val_256/"
        in printed
    )
    assert printed[6:9] == [
        f"data_lists/places_lt/{split}.txt: missing; run python run.py data build places_lt "
        "--lists DIR (or --download)"
        for split in ("train", "val", "test")
    ]
    assert printed[9].startswith(f"data root: no Places365-Standard in {tmp_path}; looked for ")
    assert len(printed) == 10


def test_check_of_half_of_it_says_what_is_there(tmp_path, mini_lists, capsys):
    written = trees.write_tree("places_lt", BENCHMARKS["places_lt"].layouts[1], tmp_path / "places")
    shutil.rmtree(tmp_path / "places" / "val_256")
    (tmp_path / "val_256.tar").write_bytes(b"")
    (mini_lists / "places_lt" / "val.txt").unlink()
    assert written
    lines_of(tmp_path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[6:] == [
        "list of train: 11 images, as published",
        "list of test: 3 images, as published",
        "there: data_256 in places/: data_256/; not there: val_256/",
        "there: val_256.tar; unpack it unless that is done",
        "data_lists/places_lt/val.txt: missing; run python run.py data build places_lt --lists DIR "
        "(or --download)",
        "data root: data_256 in places/: data_256/ but no val_256/ beside it; unpack that part "
        "there",
    ]


@pytest.mark.parametrize("recipe", BENCHMARKS)
def test_check_of_all_of_it_says_that_a_run_can_start(recipe, tmp_path, mini_lists, capsys):
    layout = BENCHMARKS[recipe].layouts[0]
    trees.write_tree(recipe, layout, tmp_path)
    lines_of(tmp_path, "--decode", recipe=recipe, status=0)
    printed = capsys.readouterr().out.splitlines()
    validation = "" if recipe == "inat2018" else "3 validation images; "
    assert (
        f"{recipe}: 11 training images, 6..2 per class, many/medium/few 0/0/3; {validation}"
        "3 test images"
    ) in printed
    assert "train: all 11 images tried, 0 not readable" in printed
    assert "test: all 3 images tried, 0 not readable" in printed
    assert printed[-1] == "a run can start"


def test_check_finds_absent_and_unreadable_images(tmp_path, mini_lists, capsys):
    written = trees.write_tree("imagenet_lt", BENCHMARKS["imagenet_lt"].layouts[1], tmp_path)
    train, val = written[0], written[11]
    train.write_bytes(b"no")
    val.write_bytes(val.read_bytes()[:300])
    lines_of(tmp_path, recipe="imagenet_lt", status=0)
    capsys.readouterr()
    lines_of(tmp_path, "--decode", "--workers", "2", recipe="imagenet_lt")
    printed = capsys.readouterr().out.splitlines()
    assert "train: all 11 images tried, 1 not readable" in printed
    assert [line.split(":")[0] for line in printed[-2:]] == [str(train), str(val)]
    train.unlink()
    lines_of(tmp_path, recipe="imagenet_lt")
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith(
            f"train: 1 of 11 listed images are not in {tmp_path}: {train.relative_to(tmp_path)}; "
        )
    )


def test_check_without_a_data_root_asks_for_one(mini_lists, capsys, monkeypatch):
    monkeypatch.delenv("LT_BENCH_DATA", raising=False)
    lines_of(None, recipe="inat2018")
    assert capsys.readouterr().out.splitlines()[-1] == (
        "data root: none given for iNaturalist 2018; give --data-root DIR or set LT_BENCH_DATA"
    )


def grown(tmp_path, counts=(40, 12, 25)):
    """A miniature Places365 with more training images than any list has."""
    trees.write_tree("places_lt", trees.PLACES[1], tmp_path)
    for label, count in enumerate(counts):
        for number in range(50, 50 + count - trees.TRAIN_COUNTS[label]):
            path = trees.canonical("places_lt", "train", label, number)
            file = trees.PLACES[1].locate(path, trees.CLASSES["places_lt"][label])
            trees.write_photo(tmp_path / file, seed=number, label=label)
    return tmp_path


def test_a_generated_list_has_its_own_name_and_identity_and_no_image_of_another_split(
    tmp_path, mini_lists
):
    root = grown(tmp_path)
    (mini_lists / "places_lt" / "train.txt").unlink()  # not needed

    def generated(**options):
        return DATASETS["places_lt"](root, list="generated", **options)

    data = generated(imbalance_factor=10)
    assert data.name == "places_lt_generated"
    assert data.class_counts == [40, 4, 16]
    assert [len(data.val), len(data.test)] == [3, 3]
    listed = set(data.train.listed)
    assert len(listed) == len(data.train) == 60
    assert not listed & (set(data.val.listed) | set(data.test.listed))
    assert generated(imbalance_factor=10).identity == data.identity
    assert generated(imbalance_factor=10, subset_seed=1).identity != data.identity
    smaller = generated(imbalance_factor=20, profile="exponential")
    assert smaller.class_counts == [40, 2, 8]
    assert set(smaller.train.listed) < listed  # the order in which images are taken is one
    record = train("places_lt", root, tmp_path / "results", "data.list=generated",
                   "data.imbalance_factor=10", "--workers", "0")  # fmt: skip
    assert record.data.name == "places_lt_generated"


def test_options_of_a_generated_list_are_refused_for_the_published_one(tmp_path, mini_lists):
    with pytest.raises(ConfigError) as caught:
        DATASETS["imagenet_lt"](tmp_path, profile="pareto", subset_seed=0)
    assert caught.value.problems == tuple(
        f"{name}: has no effect on the published list; write list = 'generated', or leave it out"
        for name in ("profile", "subset_seed")
    )
    with pytest.raises(ConfigError, match="layout: a pack holds no more than a list"):
        DATASETS["imagenet_lt"](tmp_path, list="generated", layout="pack")


def test_check_names_one_layout_where_two_share_what_is_there(tmp_path, mini_lists, capsys):
    trees.write_tree("places_lt", trees.PLACES[1], tmp_path)
    lines_of(tmp_path, status=0)
    there = [line for line in capsys.readouterr().out.splitlines() if line.startswith("there: ")]
    assert there == ["there: data_256 in the data root: data_256/, val_256/"]
    shutil.rmtree(tmp_path / "data_256")
    lines_of(tmp_path)
    printed = capsys.readouterr().out
    assert "there: data_256 in the data root: val_256/; not there: data_256/" in printed
    assert "data_256_standard" not in printed
