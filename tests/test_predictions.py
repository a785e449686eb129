"""predict: a finished model on other images sees what it saw in its own test."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lt_bench import cli
from lt_bench.assembly import load_data, make_method, prepare
from lt_bench.checkpoint import load_model
from lt_bench.data.datasets import DATASETS, PREPROCESSING
from lt_bench.data.images import CentreWindow, FolderReader, pixels
from lt_bench.predictions import Prediction, as_csv, as_lines, predict
from lt_bench.record import read
from lt_bench.runtime import Runtime
from tests.test_data_folder import fill, train
from tests.trees import write_photo

DIGITS = ("digits_lt", "eql", ["optim.epochs=3"])


def where(results, **settings):
    return Runtime.choose("cpu", "fp32", results=results, **{"workers": 0, **settings})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos of two classes, and the results of a run on it."""
    root = tmp_path_factory.mktemp("photos")
    fill(fill(root, {"cat": 12, "zebra": 9}), {"cat": 4, "zebra": 3}, "test")
    results = tmp_path_factory.mktemp("photo_results")
    return root, results, train(root, results, "--precision", "fp32")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The test split of the digits as files, and the results of a run."""
    config = prepare(*DIGITS)
    results = tmp_path_factory.mktemp("digit_results")
    command = ["train", *DIGITS[:2], *DIGITS[2], "--precision", "fp32", "--results", str(results)]
    assert cli.main(command) == 0
    folder = tmp_path_factory.mktemp("digits")
    images = load_data(config.data, None).test.images
    for i, scan in enumerate(images):
        Image.fromarray(scan[0].numpy()).save(folder / f"{i:03}.png")
    return folder, results, config


def labels_of(predictions, class_names):
    return [class_names.index(one.best[0][0]) for one in predictions]


@pytest.mark.parametrize("workers", [0, 1])
def test_photos_of_the_test_split_are_seen_as_in_the_test(photos, workers):
    root, results, record = photos
    counted = []
    found = predict(record.run_id, root / "test", where(results, workers=workers), counted.append)
    assert [one.path for one in found] == [
        *(str(root / f"test/cat/{i}.jpg") for i in range(4)),
        *(str(root / f"test/zebra/{i}.jpg") for i in range(3)),
    ]
    assert labels_of(found, record.data.class_names) == record.test.predictions().tolist()
    assert sum(counted) == 7
    (alone,) = predict(record.run_id, root / "test/cat/2.jpg", where(results))
    assert alone.path == found[2].path
    for (name, value), (same, near) in zip(alone.best, found[2].best, strict=True):
        assert (name, value) == (same, pytest.approx(near, abs=1e-5))


def test_a_photo_is_turned_as_its_camera_says(photos, tmp_path):
    root, results, record = photos
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(root / "test/cat/2.jpg") as photo:
        photo.save(tmp_path / "upright.png")
        photo.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, upright = predict(record.run_id, tmp_path, where(results))
    assert dict(turned.best) == pytest.approx(dict(upright.best), abs=1e-6)


def test_colours_are_averaged_for_a_network_of_one_channel(digits, tmp_path):
    folder, results, config = digits
    scan = np.array(Image.open(folder / "000.png"))
    gray = scan // 3
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(np.stack([3 * gray, 0 * gray, 0 * gray], axis=2)).save(tmp_path / "red.png")
    one, other = predict(config.run_id, tmp_path, where(results))
    assert dict(one.best) == pytest.approx(dict(other.best), abs=1e-6)


def test_small_gray_images_get_the_probabilities_of_their_own_loss(digits):
    folder, results, config = digits
    record = read(results / "runs" / config.run_id / "record.json")
    found = predict(config.run_id, folder, where(results))
    assert labels_of(found, record.data.class_names) == record.test.predictions().tolist()
    # by hand: the unfolded network on the scans themselves
    data = load_data(config.data, None)
    method = make_method(config, data).eval()
    method.load_state_dict(load_model(results / "runs" / config.run_id / "model.pt"), strict=False)
    images = (data.test.images / 255 - torch.tensor(data.mean)) / torch.tensor(data.std)
    with torch.no_grad():
        probability = method.predict(images).double().sigmoid()
    expected = probability.sort(dim=1, descending=True).values[:, :5]
    values = torch.tensor([[value for _, value in one.best] for one in found])
    torch.testing.assert_close(values.double(), expected, rtol=1e-4, atol=1e-6)
    assert any(sum(row) > 1.01 for row in values.tolist())  # sigmoids are no distribution


def test_an_image_of_the_networks_size_is_taken_to_the_pixel(tmp_path):
    drawn = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "a.png")
    reader = FolderReader(tmp_path, ["a.png"])
    seen = pixels(reader, 0, CentreWindow(1.0), size=32, draw=np.random.default_rng(0))
    assert np.array_equal(seen, drawn)


def test_every_dataset_has_a_preprocessing_and_it_is_the_one_of_training(photos):
    assert PREPROCESSING.keys() == DATASETS.keys()
    root, _, _ = photos
    for name in ("digits_lt", "folder"):
        data = DATASETS[name](root)
        seen = PREPROCESSING[name]
        assert (seen.mean, seen.std) == (data.mean, data.std)
    assert PREPROCESSING["digits_lt"].size == DATASETS["digits_lt"](None).test.images.shape[2]


def test_the_table_is_short_and_the_csv_whole(photos, tmp_path, capsys):
    root, results, record = photos
    file = tmp_path / "found.csv"
    command = ["predict", record.run_id, str(root), "--results", str(results), "--csv", str(file)]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 21
    assert shown[-1] == f"and 8 more; {file} holds them all"
    with file.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2"]
    assert len(rows) == 28
    for row, line in zip(rows, shown[:20], strict=False):
        assert line.split()[:2] == [row["path"], row["class"]]
        assert float(row["probability"]) >= float(row["probability_2"])
        both = float(row["probability"]) + float(row["probability_2"])
        assert both == pytest.approx(1, abs=1e-5)
        assert f"  {float(row['probability']):.3f}  ({row['class_2']} " in line


def test_names_that_a_terminal_would_obey_are_escaped():
    odd = [Prediction("a\x1b[2J\udce9.jpg", (("cat", 0.5), ("dog, or so", 0.25)))]
    assert as_lines(odd) == ["a\\x1b[2J\\udce9.jpg  cat  0.500  (dog, or so 0.250)"]
    assert as_csv(odd).splitlines()[1] == 'a\\x1b[2J\\udce9.jpg,cat,0.5,"dog, or so",0.25'


def mistake(capsys, *argv):
    assert cli.main(["predict", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


def test_each_mistake_is_one_line(photos, digits, tmp_path, capsys):
    root, results, record = photos
    run_id, flags = record.run_id, ("--results", results)
    line = mistake(capsys, run_id.replace("-s0-", "-s1-"), root, *flags)
    assert line.endswith(f"no such record in {results}; did you mean {run_id}?")
    assert mistake(capsys, "nothing", root, *flags).endswith("run its experiment first")
    line = mistake(capsys, run_id, tmp_path / "none", *flags)
    assert line == f"{tmp_path}/none: no such file or folder; give an image or a folder of images"
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    write_photo(tmp_path / "empty" / ".hidden" / "a.jpg", seed=0)
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    line = mistake(capsys, run_id, tmp_path / "empty", *flags)
    assert (
        line == f"{tmp_path}/empty: no images below it; give a folder with .jpg, .png or the like"
    )

    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    model = copy / "runs" / run_id / "model.pt"
    shutil.copy(digits[1] / "runs" / digits[2].run_id / "model.pt", model)  # of ten classes
    line = mistake(capsys, run_id, root, "--results", copy)
    assert line == f"{model}: does not fit the network of its run; repeat its run with --again"
    model.unlink()
    line = mistake(capsys, run_id, root, "--results", copy)
    assert line.startswith(f"{model}: not there, the record alone is; run python run.py train ")
    assert line.endswith(f"seed=0 --again --results {copy}")


def test_an_unreadable_image_stops_or_is_left_out(photos, tmp_path, capsys, caplog):
    root, results, record = photos
    write_photo(tmp_path / "a.jpg", seed=0)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    flags = ("--results", results, "--workers", 0)
    line = mistake(capsys, record.run_id, tmp_path, *flags)
    assert line.startswith(f"{tmp_path}/b.jpg: not readable as an image: ")
    skip = ["--on-bad-image", "skip"]
    assert cli.main(["predict", record.run_id, str(tmp_path), *map(str, flags), *skip]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/a.jpg  ")
    assert f"left out: {tmp_path}/b.jpg: not readable" in caplog.text
    (tmp_path / "a.jpg").unlink()
    line = mistake(capsys, record.run_id, tmp_path, *flags, *skip)
    assert line.startswith(f"{tmp_path}: no image in it is readable; the first: {tmp_path}/b.jpg")
