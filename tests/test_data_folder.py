"""Anyone's own images: from a folder to a benchmark, with the odd files people have."""

import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from lt_bench import cli
from lt_bench.data.check import check
from lt_bench.data.folder import folder
from lt_bench.data.profiles import largest_counts, shares_of_most
from lt_bench.errors import ConfigError, DataError
from lt_bench.metrics import shot_groups
from lt_bench.record import read
from lt_bench.schema import Spec
from tests.trees import write_photo

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "imagenet_sample"
needs_photos = pytest.mark.skipif(not SHARED.is_dir(), reason="the sample photos are not here")

TINY = ["optim.epochs=1", "optim.batch_size=16", "backbone.name=small_conv"]
TINY += ["backbone.in_channels=3", "data.image_size=32"]


MINE = """
[data]
name = "folder"
image_size = 32
[backbone]
name = "small_conv"
in_channels = 3
[optim]
epochs = 1
batch_size = 16
lr = 0.05
schedule = "cosine"
"""


def fill(base, counts, split="train"):
    for name, count in counts.items():
        for i in range(count):
            write_photo(base / split / name / f"{i}.jpg", seed=i, label=len(name))
    return base


def problem(call, *arguments, error=DataError, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    (said,) = caught.value.problems
    return said


def train(root, results, *more, recipe="folder"):
    command = ["train", recipe, "ce", *TINY, "--data-root", str(root), "--results", str(results)]
    assert cli.main([*command, "--device", "cpu", *more]) == 0
    (path,) = results.glob("runs/*/record.json")
    return read(path)


def test_folders_with_a_test_split_are_taken_as_they_are(tmp_path):
    fill(tmp_path, {"cat": 5, "dog": 3})
    fill(tmp_path, {"cat": 2, "dog": 2}, "test")
    data = folder(tmp_path)
    assert (data.class_names, data.class_counts) == (["cat", "dog"], [5, 3])
    assert data.train.listed == [f"train/cat/{i}.jpg" for i in range(5)] + [
        f"train/dog/{i}.jpg" for i in range(3)
    ]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.val is None
    assert data.source == f"folders in {tmp_path.name}/: train/, test/"


def test_class_folders_without_a_train_folder_are_the_training_images(tmp_path):
    fill(tmp_path, {"cat": 12, "dog": 11}, ".")
    data = folder(tmp_path)
    assert data.class_counts == [10, 9]
    assert data.source.endswith("test split of 2 per class held back from train")


def test_a_test_split_is_held_back_balanced_and_apart(tmp_path):
    fill(tmp_path, {"a": 40, "b": 25, "c": 10})
    data = folder(tmp_path, test_per_class=4)
    assert Counter(data.test.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert data.class_counts == [36, 21, 6]
    assert not set(data.test.listed) & set(data.train.listed)
    assert len(set(data.test.listed) | set(data.train.listed)) == 75
    again, other = (folder(tmp_path, test_per_class=4, subset_seed=s) for s in (0, 1))
    assert again.identity == data.identity
    assert other.identity != data.identity
    # what is held back does not depend on the profile
    tailed = folder(tmp_path, test_per_class=4, profile="exponential", imbalance_factor=6)
    assert tailed.test.listed == data.test.listed
    assert tailed.class_counts == [36, 14, 6]
    assert set(tailed.train.listed) < set(data.train.listed)
    assert Counter(tailed.train.labels.tolist()) == {0: 36, 1: 14, 2: 6}


def test_a_validation_split_is_held_back_beside_the_test_split(tmp_path):
    fill(tmp_path, {"a": 20, "b": 12})
    data = folder(tmp_path, test_per_class=3, val_per_class=2)
    assert [len(split) for split in (data.train, data.val, data.test)] == [22, 4, 6]
    assert len({*data.train.listed, *data.val.listed, *data.test.listed}) == 32
    assert "test split of 3 per class held back from train; val split of 2" in data.source
    assert data.identity["test"] == folder(tmp_path, test_per_class=3).identity["test"]
    said = problem(folder, tmp_path, test_per_class=3, val_per_class=9, error=ConfigError)
    assert said.startswith("val_per_class: class 'b' has 9 images, 9 would be held back")
    fill(tmp_path, {"a": 2, "b": 2}, split="val")
    said = problem(folder, tmp_path, val_per_class=2, error=ConfigError)
    assert said == "val_per_class: 2 has no effect, since there is a val split; leave it out"


@pytest.mark.parametrize("profile", ["exponential", "step", "pareto"])
@pytest.mark.parametrize("available", [[50] * 10, [80, 3, 77, 20, 20, 9], [7, 6]])
@pytest.mark.parametrize("factor", [1, 2, 3.5, 6])
def test_profiles_are_as_large_as_the_classes_allow(profile, available, factor):
    counts = largest_counts(available, profile, factor)
    assert all(count <= limit for count, limit in zip(counts, available, strict=True))
    assert min(counts) >= 1
    # one image more of the fullest class, and some class could not follow
    fullest = max(range(len(available)), key=lambda c: available[c])
    shares = shares_of_most(len(available), profile, factor)
    order = sorted(range(len(available)), key=lambda c: -available[c])
    grown = {c: int((counts[fullest] + 1) * share) for share, c in zip(shares, order, strict=True)}
    assert any(grown[c] > available[c] for c in order)


def test_a_pareto_profile_comes_near_imagenet_lt():
    counts = largest_counts([1280] * 1000, "pareto", 256)
    groups = [len(classes) for classes in shot_groups(counts).values()]
    assert min(counts) == 5
    assert sum(counts) == pytest.approx(115_846, rel=0.06)
    assert groups == pytest.approx([385, 479, 136], abs=30)


def test_list_files_serve_as_well(tmp_path):
    fill(tmp_path, {"x y": 4, "z": 4}, "photos")
    (tmp_path / "train.txt").write_text(
        "".join(f"photos/x y/{i}.jpg 0\r\nphotos/z/{i}.jpg 1\r\n" for i in range(3))
    )
    (tmp_path / "test.txt").write_text("photos/x y/3.jpg 0\nphotos/z/3.jpg 1")
    assert folder(tmp_path).class_names == ["0", "1"]
    (tmp_path / "classes.txt").write_text("Äpfel und Birnen\nz\n", encoding="utf-8")
    data = folder(tmp_path)
    assert (data.class_names, data.class_counts) == (["Äpfel und Birnen", "z"], [3, 3])
    assert data.source == f"lists in {tmp_path.name}/: train.txt, test.txt"
    with (tmp_path / "train.txt").open("a") as file:
        file.write("../elsewhere.jpg 0\nphotos/z/0.jpg 2\n")
    with pytest.raises(DataError) as caught:
        folder(tmp_path)
    assert caught.value.problems == (
        f"{tmp_path}/train.txt:7: ../elsewhere.jpg leaves the folder of the images; remove the "
        "'..'",
        f"{tmp_path}/train.txt:8: label 2, below 2 expected; labels count from 0",
    )


def test_the_order_of_a_test_list_does_not_matter(tmp_path):
    fill(tmp_path, {"x": 3, "z": 3}, "photos")
    (tmp_path / "train.txt").write_text("photos/x/0.jpg 0\nphotos/z/0.jpg 1")
    lines = ["photos/x/1.jpg 0", "photos/z/1.jpg 1", "photos/x/2.jpg 0", "photos/z/2.jpg 1"]
    for order in (lines, lines[::-1]):
        (tmp_path / "test.txt").write_text("\n".join(order))
        data = folder(tmp_path)
        assert data.test.listed == [line[:-2] for line in sorted(lines)]
        assert data.test.labels.tolist() == [0, 0, 1, 1]


def test_an_image_listed_in_two_splits_is_refused(tmp_path):
    fill(tmp_path, {"x": 2, "z": 2}, "photos")
    (tmp_path / "train.txt").write_text("photos/x/0.jpg 0\nphotos/z/0.jpg 1")
    (tmp_path / "test.txt").write_text("photos/x/0.jpg 0\nphotos/z/1.jpg 1")
    assert problem(folder, tmp_path) == (
        "train and test: share 1 images, such as photos/x/0.jpg; list each in one of them"
    )


def test_lists_beside_folders_are_said_to_be_unused(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    (tmp_path / "train.txt").write_text("train/a/0.jpg 0\ntrain/b/0.jpg 1")
    said = folder(tmp_path).source
    assert "; train.txt not used (data.layout=lists would)" in said


def test_what_lies_beside_the_folders_that_are_read_is_said(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    fill(tmp_path, {"a": 2, "b": 2}, "validation")
    write_photo(tmp_path / "train" / "loose.jpg", seed=0, label=0)
    data = folder(tmp_path)
    assert data.source.split("; ")[:3] == [
        f"folders in {tmp_path.name}/: train/",
        "validation/ not used",
        "1 images in no class folder left out, such as train/loose.jpg",
    ]
    assert folder(tmp_path, path="train").source.split("; ")[1] == (
        "1 images in no class folder left out, such as loose.jpg"
    )


def test_a_split_without_images_is_refused(tmp_path):
    """Unsorted test images, as competitions hand them out, are no test split."""
    fill(tmp_path, {"a": 6, "b": 6})
    write_photo(tmp_path / "test" / "0.jpg", seed=0, label=0)
    said = f"{tmp_path}: test holds no images of a class; sort them as in train, or remove it"
    assert problem(folder, tmp_path) == said
    report = check(Spec("folder"), tmp_path)
    assert (report.ok, report.lines) == (False, (said,))


def test_a_test_split_without_a_readable_image_is_refused(tmp_path, capsys):
    fill(tmp_path, {"a": 6, "b": 6})
    for name in "ab":
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.jpg").write_bytes(b"no")
    command = ["train", "folder", "ce", *TINY, "--data-root", str(tmp_path)]
    command += ["--results", str(tmp_path / "results"), "--on-bad-image", "skip"]
    assert cli.main(command) == 2
    assert "folder: no image of test is readable; replace them" in capsys.readouterr().err


def test_the_check_finds_images_that_are_in_two_splits(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    fill(tmp_path, {"b": 2}, "test")
    shutil.copy(tmp_path / "train/a/5.jpg", tmp_path / "test/b/9.jpg")
    (tmp_path / "test/b/0.jpg").unlink()
    (tmp_path / "test/b/1.jpg").unlink()
    said = "note: 1 images of test are also in train under another name, such as "
    assert f"{said}train/a/5.jpg and test/b/9.jpg" in check(Spec("folder"), tmp_path).lines


def test_a_link_to_nothing_is_named_by_the_check(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    gone = tmp_path / "train" / "a" / "gone.jpg"
    gone.symlink_to(tmp_path / "nowhere.jpg")
    report = check(Spec("folder"), tmp_path)
    assert not report.ok
    assert report.lines[-1].startswith(f"{gone}: not readable as an image: ")


def test_other_images_are_not_answered_with_an_old_run(tmp_path, capsys):
    """Runs are known by their configuration, which does not say whose images they saw."""
    for place, names in (("one", "ab"), ("other", "abc")):
        fill(tmp_path / place, dict.fromkeys(names, 6))
    (tmp_path / "mine.toml").write_text(MINE)
    results = tmp_path / "results"

    def run(method, place):
        command = ["train", str(tmp_path / "mine.toml"), method, "--results", str(results)]
        return cli.main([*command, "--device", "cpu", "--data-root", str(tmp_path / place)])

    assert run("ce", "one") == 0
    assert run("ce", "one") == 0
    capsys.readouterr()
    assert run("ce", "other") == 2
    said = capsys.readouterr().err
    assert f"was run on other images than those in {tmp_path}/other; run python run.py" in said
    assert said.endswith(f"--again --results {results} --data-root {tmp_path}/other\n")
    assert run("crt", "other") == 2
    assert " was run on other images; run python run.py train" in capsys.readouterr().err
    assert run("crt", "one") == 0


def test_a_recipe_of_ones_own_is_known_by_its_file_afterwards(tmp_path, capsys):
    fill(tmp_path / "photos", dict.fromkeys("ab", 6))
    own = tmp_path / "mine.toml"
    own.write_text(MINE)
    results = tmp_path / "results"
    where = ["--results", str(results), "--device", "cpu", "--data-root", str(tmp_path / "photos")]
    assert cli.main(["train", str(own), "crt", *where]) == 2
    said = capsys.readouterr().err
    command = f"python run.py train {own} ce seed=0 --results {results} --data-root {where[-1]}"
    assert f"run {command}\n" in said
    assert cli.main(["train", str(own), "ce", *where]) == 0
    (path,) = results.glob("runs/*/record.json")
    record = read(path)
    assert record.recipe == "mine"
    assert record.command == f"python run.py train {own} ce seed=0"
    assert cli.main(["verify", record.run_id, *where]) == 0
    photos = str(tmp_path / "photos" / "train" / "a")
    assert cli.main(["predict", record.run_id, photos, *where[:4]]) == 0


def test_names_are_one_whether_composed_or_not(tmp_path):
    for form, place in (("NFC", "one"), ("NFD", "other")):
        # composed, "ä" sorts behind "z"; taken apart, before it
        fill(tmp_path / place, {unicodedata.normalize(form, "Bär"): 6, "Bz": 6, "日本 犬": 6})
    one, other = (folder(tmp_path / place) for place in ("one", "other"))
    assert one.class_names == other.class_names == ["Bz", "Bär", "日本 犬"]
    assert one.identity == other.identity
    assert train(tmp_path / "other", tmp_path / "results").data.class_names == (
        *("Bz", "Bär", "日本 犬"),
    )


def test_a_name_that_is_not_utf8_is_said(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    path = tmp_path / "train" / "a" / "0.jpg"
    path.rename(path.with_name("caf\udce9.jpg"))
    assert problem(folder, tmp_path).endswith(": its name is not UTF-8; rename it")


def test_one_file_under_two_spellings_is_one(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    lines = [f"train/{name}/{i}.jpg {label}\n" for label, name in enumerate("ab") for i in range(6)]
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "test.txt").write_text("./train/a/0.jpg 0\n")
    assert "train/a/0.jpg" in problem(folder, tmp_path, layout="lists")


def test_one_name_in_two_spellings_of_unicode_is_refused(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "café.jpg")
        shutil.copy(tmp_path / "train" / "a" / "0.jpg", tmp_path / "train" / "a" / name)
    assert problem(folder, tmp_path).endswith("there twice, composed and not; rename one")


def test_a_test_folder_without_a_train_folder_is_no_class(tmp_path):
    fill(tmp_path, {"cat": 6, "dog": 6}, split=".")
    fill(tmp_path, {"cat": 2, "dog": 2}, split="test")
    assert "test/ but no train/ beside it; put the class folders" in problem(folder, tmp_path)


def test_blank_lines_of_a_list_do_not_matter(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    lines = [f"train/{name}/{i}.jpg {label}\n" for label, name in enumerate("ab") for i in range(6)]
    (tmp_path / "train.txt").write_text("".join(lines) + "\n\n")
    assert len(folder(tmp_path, layout="lists").class_names) == 2


def test_a_name_that_is_too_long_is_one_line(tmp_path, capsys):
    command = ["data", "check", "folder", "--data-root", str(tmp_path)]
    assert cli.main([*command, f"data.path={'x' * 300}"]) == 2
    assert capsys.readouterr().err.endswith(
        "File name too long; make it readable, or give another\n"
    )


def test_files_that_are_no_images_are_said(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    (tmp_path / "train" / "a" / "notes.txt").write_text("hello")
    (tmp_path / "train" / "a" / ".DS_Store").write_text("")
    (tmp_path / "train" / "a" / "._0.jpg").write_text("of macOS")
    (tmp_path / "train" / "a" / "album.jpg").mkdir()
    shutil.copy(tmp_path / "train" / "a" / "0.jpg", tmp_path / "train" / "a" / "LOUD.JPG")
    data = folder(tmp_path)
    assert data.source.split("; ")[1] == (
        "2 that are no images left out, such as train/a/album.jpg"
    )
    assert sum(data.class_counts) + len(data.test) == 13


def test_images_in_a_folder_inside_a_class_are_not_passed_over(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6, "a/2023": 2})
    said = problem(folder, tmp_path)
    assert said == (
        f"{tmp_path}/train/a/2023: a folder of images inside class 'a'; move them up, or list "
        "them in train.txt (data.layout=lists)"
    )


def test_mistakes_are_named_with_their_remedy(tmp_path):
    assert problem(folder, None).startswith("data root: none given; give --data-root DIR")
    assert "neither train/<class>/ folders nor train.txt" in problem(folder, tmp_path)
    fill(tmp_path, {"a": 6, "b": 1})
    assert problem(folder, tmp_path, error=ConfigError).startswith(
        "test_per_class: class 'b' has 1 images, 1 would be held back and none left to train on"
    )
    fill(tmp_path, {"a": 1, "c": 1}, "test")
    assert problem(folder, tmp_path).startswith(
        f"{tmp_path}/test/c: train has no class of this name; known: a, b"
    )
    (tmp_path / "train" / "c").mkdir()
    assert "class 'c' has no training images" in problem(folder, tmp_path)
    fill(tmp_path, {"c": 2})
    found = [
        problem(folder, tmp_path, error=ConfigError, **options)
        for options in (
            {"test_per_class": 1},
            {"imbalance_factor": 10},
            {"profile": "step"},
            {"path": "../x"},
            {"profile": "exponential", "imbalance_factor": 100},
            {"subset_seed": 1},
        )
    ]
    assert [said.split(":")[0] for said in found] == [
        "test_per_class", "imbalance_factor", "imbalance_factor", "path", "imbalance_factor",
        "subset_seed",
    ]  # fmt: skip


def test_mistakes_in_lists_are_named_with_their_remedy(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    (tmp_path / "train.txt").write_text("train/a/0.jpg 1\ntrain/b/0.jpg 2")
    said = problem(folder, tmp_path, layout="lists")
    assert said == f"{tmp_path}/train.txt: the lowest label is 1; labels count from 0"
    (tmp_path / "train.txt").write_text("\n")
    said = problem(folder, tmp_path, layout="lists")
    assert said == f"{tmp_path}: train holds no image; add some"


@needs_photos
def test_the_sample_photos_run_as_a_benchmark_of_ones_own(tmp_path):
    photos = sorted(SHARED.iterdir())
    for i, photo in enumerate(photos):
        place = tmp_path / "data" / "mine" / "train" / f"class {i % 4}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
    own = tmp_path / "mine.toml"
    text = (Path(__file__).parents[1] / "configs" / "folder.toml").read_text(encoding="utf-8")
    own.write_text(text.replace('name = "folder"', 'name = "folder"\npath = "mine"'))
    options = ["data.profile=exponential", "data.imbalance_factor=6", "data.test_per_class=6"]
    record = train(tmp_path / "data", tmp_path / "results", *options, recipe=str(own))
    assert record.recipe == "mine"
    assert record.data.class_counts == (24, 13, 7, 4)
    assert record.data.totals == {"train": 48, "test": 24}


@needs_photos
def test_a_truncated_photo_stops_the_run_or_is_left_out_and_said(tmp_path, capsys):
    for i, photo in enumerate(sorted(SHARED.iterdir())[:24]):
        place = tmp_path / "data" / "train" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place / f"{i:02}.jpg")
    bad = tmp_path / "data" / "train" / "b" / "05.jpg"
    bad.write_bytes(bad.read_bytes()[:5000])
    command = ["train", "folder", "ce", *TINY, "--data-root", str(tmp_path / "data")]
    assert cli.main([*command, "--results", str(tmp_path / "stopped")]) == 2
    assert f"{bad}: not readable as an image: " in capsys.readouterr().err
    whole = folder(tmp_path / "data")
    record = train(tmp_path / "data", tmp_path / "results", "--on-bad-image", "skip")
    assert record.data.source.endswith("; 1 unreadable of train left out: train/b/05.jpg")
    assert record.data.class_counts == (10, 9)
    assert record.data.totals == {"train": 19, "test": 4}
    assert record.data.identity["train"] != whole.identity["train"]
    assert record.data.identity["test"] == whole.identity["test"]
    capsys.readouterr()
    assert cli.main([*command, "--results", str(tmp_path / "results")]) == 2
    assert "was run without images that could not be read; give --on-bad-image skip" in (
        capsys.readouterr().err
    )
    command += ["--results", str(tmp_path / "results"), "--on-bad-image", "skip"]
    assert cli.main(command) == 0  # on record, of the same images


def test_a_class_whose_last_image_is_unreadable_is_named(tmp_path, capsys):
    fill(tmp_path, {"a": 6, "b": 2})
    fill(tmp_path, {"a": 1, "b": 1}, "test")
    for i in range(2):
        (tmp_path / "train" / "b" / f"{i}.jpg").write_bytes(b"no")
    command = ["train", "folder", "ce", *TINY, "--data-root", str(tmp_path)]
    command += ["--results", str(tmp_path / "results"), "--on-bad-image", "skip"]
    assert cli.main(command) == 2
    assert "folder: no image of class b is readable; replace them" in capsys.readouterr().err


def test_odd_files_train_together(tmp_path):
    fill(tmp_path, {"a": 6, "b": 6})
    photo = Image.open(tmp_path / "train" / "a" / "0.jpg")
    odd = tmp_path / "train" / "b"
    photo.convert("CMYK").save(odd / "cmyk.jpg")
    photo.convert("P").save(odd / "palette.png")
    photo.convert("LA").save(odd / "alpha.png")
    photo.save(odd / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    photo.convert("I;16").save(odd / "deep.png")
    record = train(tmp_path, tmp_path / "results", "data.test_per_class=2")
    assert sum(record.data.class_counts) == 13
    assert check(Spec("folder"), tmp_path).ok


def test_a_batch_of_one_image_is_refused_where_batch_norm_cannot_take_it(tmp_path, capsys):
    fill(fill(tmp_path, {"x": 9, "z": 8}), {"x": 1, "z": 1}, "test")
    command = ["train", "folder", "ce", "data.image_size=32", "optim.epochs=1", "--device", "cpu"]
    command += ["--data-root", str(tmp_path), "--results", str(tmp_path / "results")]
    assert cli.main([*command, "optim.batch_size=16"]) == 2
    assert capsys.readouterr().err == (
        "optim.batch_size: 16 leaves a batch of one image, from which the batch norms of 'timm' "
        "cannot learn at this size; write 17\n"
    )
    assert cli.main([*command, *TINY, "optim.batch_size=16"]) == 0  # maps of more than one value
