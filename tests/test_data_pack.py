"""Packs: the same images in one file, whole or not at all, taken up where they were left."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lt_bench import cli
from lt_bench.data import lists, pack
from lt_bench.data.datasets import DATASETS
from lt_bench.data.images import CentreWindow, pixels
from lt_bench.data.pack import pack_path, read_pack, write_pack
from lt_bench.errors import BusyError, DataError, WriteError
from lt_bench.record import read
from tests import trees
from tests.test_data_files import TINY, train
from tests.test_data_folder import fill
from tests.trees import write_photo

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "imagenet_sample"

pytest.importorskip("pyarrow", reason="packs need the extra parquet")


@pytest.fixture
def places(tmp_path, mini_lists):
    trees.write_tree("places_lt", trees.PLACES[1], tmp_path)
    return DATASETS["places_lt"](tmp_path)


def packed(data, root, form="jpeg", workers=1, **options):
    path = pack_path(root, data.name)
    said = {"dataset": data.name, "class_names": data.class_names, "source": data.source}
    return path, write_pack(data.files, path, **said, form=form, workers=workers, **options)


def view(split, index, size):
    draw = np.random.default_rng(0)
    return pixels(split.reader, index, CentreWindow(), size=size, draw=draw)


@pytest.mark.parametrize("name", trees.CLASSES)
@pytest.mark.parametrize("form", ["jpeg", "uint8"])
def test_a_benchmark_trains_from_its_pack_with_the_numbers_of_its_files(
    name, form, tmp_path, mini_lists
):
    """The tiny photos are no larger than needed, so packing keeps every pixel."""
    layout = next(form[1] for form in trees.FORMS if form[0] == name)
    trees.write_tree(name, layout, tmp_path / "data")
    command = ["data", "pack", name, "data.image_size=40", "--data-root", str(tmp_path / "data")]
    assert cli.main([*command, "--format", form, "--workers", "2"]) == 0
    losses = set()
    for kind, workers in (("auto", "0"), ("pack", "0"), ("pack", "2")):
        results = tmp_path / f"{kind}{workers}"
        more = [f"data.layout={kind}", "--workers", workers]
        record = train(name, tmp_path / "data", results, *more)
        losses.add(tuple(epoch.loss for epoch in record.history))
    assert len(losses) == 1
    assert record.data.source.startswith(f"{name}.pack (short side at most 46, ")
    assert record.data.identity == {s: lists.identity(i) for s, i in trees.items(name).items()}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the sample photos are not here")
def test_photos_are_packed_at_the_size_at_which_they_are_seen(tmp_path):
    for i, photo in enumerate(sorted(SHARED.iterdir())[:16]):
        place = tmp_path / "train" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
    files = DATASETS["folder"](tmp_path)
    sizes = {}
    for form in ("uint8", "jpeg"):
        path, _ = packed(files, tmp_path, form)
        sizes[form] = path.stat().st_size
        data = DATASETS["folder"](tmp_path, layout="pack")
        assert data.identity == files.identity
        assert torch.equal(data.train.labels, files.train.labels)
        for i in range(4):
            exact, found = view(files.train, i, 224), view(data.train, i, 224)
            assert min(data.train.reader.open(i).size) <= 256
            if form == "uint8":
                assert np.array_equal(exact, found)
            else:
                assert np.abs(exact.astype(float) - found).mean() < 4
        path.unlink()
    assert sizes["jpeg"] < sizes["uint8"] / 3


def test_two_at_one_pack_do_not_meet(places, tmp_path):
    path = pack_path(tmp_path, "places_lt")
    hold = (
        "import sys; from pathlib import Path; from lt_bench.files import owned\n"
        "with owned(Path(sys.argv[1]), 'x'): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / ".places_lt.pack.part")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=rf"pack: is being made by process {other.pid}"):
            packed(places, tmp_path)
        other.stdin.close()
    packed(places, tmp_path)
    assert path.is_file()


def test_a_full_disk_ends_a_pack_in_one_line(places, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack, "_append", full)
    with pytest.raises(WriteError, match=r"places_lt.pack: cannot be written: No space left"):
        packed(places, tmp_path)
    assert not pack_path(tmp_path, "places_lt").exists()


def test_a_pack_is_whole_or_not_there_and_is_taken_up_again(places, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "ROWS", 4)
    tried = []

    def stop_at_nine(number):
        tried.append(number)
        if sum(tried) >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(places, tmp_path, on_packed=stop_at_nine)
    path = pack_path(tmp_path, "places_lt")
    assert not path.exists()
    part = tmp_path / ".places_lt.pack.part" / "rows"
    with part.open("r+b") as file:  # as a crash may leave it: half of the second batch
        file.truncate(part.stat().st_size - 100)
    _, report = packed(places, tmp_path)
    assert report.lines[0].startswith(f"{path}: 17 images, 4 of them by an earlier run, ")
    assert not part.parent.exists()
    resumed = path.read_bytes()
    path.unlink()
    packed(places, tmp_path)
    assert path.read_bytes() == resumed
    assert packed(places, tmp_path)[1].lines[0].startswith(f"{path}: already there")


def test_what_another_pack_left_is_not_taken_up(places, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "ROWS", 4)

    def stop(number):
        if number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packed(places, tmp_path, "uint8", on_packed=stop)
    _, report = packed(places, tmp_path, "jpeg")
    assert "earlier" not in report.lines[0]


def test_damaged_packs_are_refused(places, tmp_path):
    path, _ = packed(places, tmp_path)
    whole = path.read_bytes()

    def said(content):
        path.write_bytes(content)
        pack._opened.cache_clear()
        with pytest.raises(DataError) as caught:
            read_pack(path, 224)
        return caught.value.problems[0].removeprefix(f"{path}: ")

    assert said(whole[:-100]).startswith("not readable as a pack: ")
    assert said(b"").startswith("not readable as a pack: ")
    assert said(b"\0" * 64 + whole[-8:]).startswith("not readable as a pack: ")
    listed = places.files["train"].listed[0].encode()
    assert said(whole.replace(listed, b"\xff" * len(listed))).startswith("not readable as a pack: ")
    other = said(whole.replace(listed, listed[:-5] + b"9.jpg"))
    assert other.startswith("not readable as a pack: its rows are not those that were packed; remo")
    assert said(whole.replace(b"pack", b"sack")).startswith("not read")
    path.unlink()
    with pytest.raises(DataError, match="no such pack; make it with python run.py data pack"):
        read_pack(path, 224)


def test_a_pack_without_a_listed_image_is_refused(places, tmp_path):
    path, _ = packed(places, tmp_path)
    with pytest.raises(DataError, match="1 of 2 listed images are not in this pack, the first b"):
        read_pack(path, 224).reader([("train/airfield/00000000.jpg", 0), ("b", 0)])


def test_a_damaged_image_stops_packing_and_is_named(tmp_path, mini_lists, capsys):
    written = trees.write_tree("places_lt", trees.PLACES[0], tmp_path)
    written[3].write_bytes(written[3].read_bytes()[:200])
    assert cli.main(["data", "pack", "places_lt", "--data-root", str(tmp_path)]) == 2
    assert f"{written[3]}: not readable as an image: " in capsys.readouterr().err
    assert not list(tmp_path.glob("*.pack"))


@pytest.mark.parametrize("form", ["jpeg", "uint8"])
def test_a_damaged_image_is_left_out_of_a_pack_and_then_of_a_run(
    form, tmp_path, mini_lists, capsys
):
    written = trees.write_tree("places_lt", trees.PLACES[0], tmp_path)
    written[1].write_bytes(b"")
    root = ["--data-root", str(tmp_path)]
    skip = ["--on-bad-image", "skip"]
    assert cli.main(["data", "pack", "places_lt", "--format", form, *root, *skip]) == 0
    listed = written[1].relative_to(tmp_path).as_posix()
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"1 not readable and left out, the first {listed}; a run needs --on-bad-image skip"
    )
    command = ["train", "places_lt", "ce", *TINY, "data.layout=pack", *root]
    command += ["--results", str(tmp_path / "results")]
    assert cli.main(command) == 2
    assert f"places_lt.pack, {listed}: not readable as an image: it was not when it was packed" in (
        capsys.readouterr().err
    )
    assert cli.main([*command, *skip]) == 0
    (path,) = (tmp_path / "results").glob("runs/*/record.json")
    assert read(path).data.source.endswith(f"; 1 unreadable of train left out: {listed}")


def test_images_left_out_of_a_pack_are_not_taken_for_one_another(tmp_path, capsys):
    fill(tmp_path, {"a": 3, "b": 3})
    for name in ("a", "b"):
        write_photo(tmp_path / "test" / name / "1.jpg", seed=9, label=0)
    for place in ("train/a/0.jpg", "test/b/0.jpg"):
        (tmp_path / place).write_bytes(place.encode())
    command = ["folder", "--data-root", str(tmp_path)]
    assert cli.main(["data", "pack", *command, "--on-bad-image", "skip"]) == 0
    assert cli.main(["data", "check", *command, "data.layout=pack"]) == 0
    assert "under another name" not in capsys.readouterr().out


def test_stored_pixels_are_not_decoded_in_another_way(tmp_path, capsys):
    fill(tmp_path, {"a": 3, "b": 3})
    command = ["folder", "--data-root", str(tmp_path), "data.decode=scaled"]
    assert cli.main(["data", "pack", *command, "--format", "uint8"]) == 0
    assert cli.main(["data", "check", *command, "data.layout=pack"]) == 2
    said = f"data.decode: 'scaled' has no effect on the pixels in {tmp_path}/folder.pack; leave it "
    assert said in capsys.readouterr().err


def test_skipping_bad_images_has_no_effect_on_other_actions(tmp_path, capsys):
    command = ["data", "check", "folder", "--data-root", str(tmp_path), "--on-bad-image", "skip"]
    assert cli.main(command) == 2
    assert "--on-bad-image: has no effect on data check; leave it out" in capsys.readouterr().err


def test_ones_own_folder_is_packed_and_checked(tmp_path, capsys):
    fill(tmp_path / "mine", {"Bär": 8, "b": 7})
    options = ["data.path=mine", "data.image_size=32", "--data-root", str(tmp_path)]
    assert cli.main(["data", "pack", "folder", *options]) == 0
    shutil.rmtree(tmp_path / "mine" / "train")
    assert cli.main(["data", "check", "folder", "data.layout=pack", *options, "--decode"]) == 0
    printed = capsys.readouterr().out
    assert "found: folder.pack (short side at most 37, JPEG quality 90, from folders in mine/" in (
        printed
    )
    command = ["train", "folder", "ce", *TINY, "data.layout=pack", *options]
    assert cli.main([*command, "--results", str(tmp_path / "results")]) == 0
    (record,) = (tmp_path / "results").glob("runs/*/record.json")
    assert read(record).data.class_names == ("Bär", "b")


CHOICES = [
    ["data.test_per_class=3", "data.val_per_class=2", "data.subset_seed=1"],
    ["data.profile=step", "data.imbalance_factor=4"],
    [],
]


def test_a_pack_of_ones_own_folder_serves_every_choice_of_its_images(tmp_path, capsys):
    """Whatever was chosen when it was made: the same images as from the files."""
    fill(tmp_path, {"a": 20, "b": 20, "c": 20})
    root = ["data.image_size=32", "--data-root", str(tmp_path)]
    assert cli.main(["data", "pack", "folder", *root, *CHOICES[1]]) == 0
    capsys.readouterr()
    for choice in CHOICES:
        assert cli.main(["data", "check", "folder", *root, *choice]) == 0
        from_files = capsys.readouterr().out.splitlines()[1:]
        assert cli.main(["data", "check", "folder", "data.layout=pack", *root, *choice]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == from_files
        assert sum(line.startswith("identity of ") for line in from_files) >= 2


def test_small_datasets_have_nothing_to_pack(tmp_path, capsys):
    assert cli.main(["data", "pack", "digits_lt", "--data-root", str(tmp_path)]) == 2
    assert "digits_lt: its images are kept in memory; there is nothing to pack" in (
        capsys.readouterr().err
    )


def test_an_image_that_was_replaced_is_packed_anew(tmp_path, capsys):
    fill(tmp_path, {"a": 6, "b": 6})
    command = ["data", "pack", "folder", "data.image_size=32", "--data-root", str(tmp_path)]
    assert cli.main(command) == cli.main(command) == 0
    assert "already there" in capsys.readouterr().out
    (tmp_path / "train" / "a" / "0.jpg").write_bytes(
        (tmp_path / "train" / "b" / "5.jpg").read_bytes() + b"\0"
    )
    assert cli.main(command) == 0
    assert "already there" not in capsys.readouterr().out


def test_an_image_too_long_for_jpeg_is_packed_all_the_same(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    Image.new("RGB", (3, 66_000), (9, 9, 9)).save(tmp_path / "train" / "a" / "0.png")
    command = ["data", "pack", "folder", "data.image_size=32", "--data-root", str(tmp_path)]
    assert cli.main(command) == 0


def test_a_pack_that_is_too_small_or_packed_already_is_refused(places, tmp_path, capsys):
    path, _ = packed(places, tmp_path)
    with pytest.raises(DataError, match="packed at a short side of 256, 439 needed for image_size"):
        DATASETS["places_lt"](tmp_path, layout="pack", image_size=384)
    again = ["data", "pack", "places_lt", "data.layout=pack", "--data-root", str(tmp_path)]
    assert cli.main(again) == 2
    assert "data.layout: a pack is not packed again; leave it out" in capsys.readouterr().err
    assert path.is_file()
