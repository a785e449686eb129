"""CIFAR-LT from each form people have on disk: the same split, or a refusal that helps."""

import dataclasses
import hashlib
import io
import random
import struct
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from lt_bench.data import cifar, cifar_sources, lists
from lt_bench.data.build import build_lists
from lt_bench.data.check import check
from lt_bench.data.cifar import CIFAR10, CIFAR100, Choice, download_cifar, long_tailed
from lt_bench.data.datasets import DATASETS
from lt_bench.data.lists import items_of
from lt_bench.data.profiles import ldam_positions
from lt_bench.data.types import Split
from lt_bench.errors import ConfigError, DataError
from lt_bench.schema import Spec

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
needs_cifar100 = pytest.mark.skipif(
    not (SHARED / "cifar100").is_dir(), reason="no shared/data/cifar100"
)
FORMS = ("folder", "archive", "binary", "parquet", "tree")


# A small CIFAR-10 in the forms of the real one


@pytest.fixture
def small(monkeypatch, tmp_path):
    """4 classes of 12 training and 3 test images under the name cifar10_lt, and no lists yet."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(4), 15))
    is_test = np.zeros(60, dtype=bool)
    for label in range(4):
        is_test[np.flatnonzero(labels == label)[::5]] = True
    splits = {
        "train": Split(torch.from_numpy(pixels[~is_test]), torch.from_numpy(labels[~is_test])),
        "test": Split(torch.from_numpy(pixels[is_test]), torch.from_numpy(labels[is_test])),
    }
    contents = {}
    archives = []
    for archive, end, write in zip(
        CIFAR10.archives, ("", ".bin"), (as_batch, as_rows), strict=True
    ):
        members = {
            f"data_batch_1{end}": write(splits["train"], slice(0, 20)),
            f"data_batch_2{end}": write(splits["train"], slice(20, 48)),
            f"test_batch{end}": write(splits["test"], slice(None)),
        }
        contents |= members
        *train, test = ((name, hashlib.md5(held).hexdigest()) for name, held in members.items())
        archives.append(dataclasses.replace(archive, train_files=tuple(train), test_files=(test,)))
    family = dataclasses.replace(
        CIFAR10,
        archives=tuple(archives),
        class_names=("airplane", "automobile", "bird", "cat"),
        train_per_class=12,
        test_per_class=3,
    )
    monkeypatch.setitem(cifar.FAMILIES, "cifar10_lt", family)
    monkeypatch.setattr(cifar, "CIFAR10", family)
    monkeypatch.setattr(lists, "LISTS", tmp_path / "data_lists")
    return Small(family, splits, contents)


@dataclasses.dataclass
class Small:
    family: cifar_sources.Family
    splits: dict[str, Split]
    contents: dict[str, bytes]

    @property
    def archive(self) -> cifar_sources.Archive:
        return self.family.archives[0]

    def write(self, root: Path, form: str) -> Path:
        root.mkdir(exist_ok=True)
        if form in ("folder", "binary"):
            archive = self.family.archives[form == "binary"]
            folder = root / archive.folder
            folder.mkdir()
            for name, _ in archive.members:
                (folder / name).write_bytes(self.contents[name])
        elif form == "archive":
            with tarfile.open(root / self.archive.name, "w:gz") as file:
                for name in self.contents.keys() & dict(self.archive.members).keys():
                    member = tarfile.TarInfo(f"{self.archive.folder}/{name}")
                    member.size = len(self.contents[name])
                    file.addfile(member, io.BytesIO(self.contents[name]))
        elif form == "parquet":
            # another order than the archive's, in two shards
            order = np.random.default_rng(2).permutation(48)
            for i, part in enumerate((order[:30], order[30:])):
                self._shard(root / f"cifar10/train-0000{i}-of-00002.parquet", "train", part)
            self._shard(root / "cifar10/test-00000-of-00001.parquet", "test", np.arange(12))
        else:
            for split, held in self.splits.items():
                for i, label in enumerate(held.labels.tolist()):
                    folder = root / split / self.family.class_names[label]
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{i}.png").write_bytes(as_png(held.images[i]))
        return root

    def _shard(self, path: Path, split: str, part: np.ndarray) -> None:
        held = self.splits[split]
        path.parent.mkdir(exist_ok=True)
        images = [{"bytes": as_png(held.images[i]), "path": f"{i}.png"} for i in part]
        columns = {"img": images, "label": held.labels[part].tolist()}
        parquet.write_table(pyarrow.table(columns), path)


def as_png(image_CHW: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def as_batch(split: Split, part: slice) -> bytes:
    """A member of the archive as python 2 and the numpy of its day pickled it."""
    pixels = split.images[part].reshape(-1, 3072).numpy()
    labels = split.labels[part].tolist()
    return (
        b"\x80\x02}("
        + (string("batch_label") + string("a batch"))
        + (string("labels") + b"](" + b"".join(map(number, labels)) + b"e")
        + (string("data") + array(pixels))
        + b"u."
    )


def as_rows(split: Split, part: slice) -> bytes:
    """A member of the binary archive: for each image a byte of its label, then its pixels."""
    labels = split.labels[part].to(torch.uint8)[:, None]
    return torch.cat([labels, split.images[part].flatten(1)], dim=1).numpy().tobytes()


def string(text: str) -> bytes:
    return b"U" + bytes([len(text)]) + text.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def array(pixels: np.ndarray) -> bytes:
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + (
        number(0) + b"\x85" + string("b") + b"\x87R"
    )
    dtype = b"cnumpy\ndtype\n" + string("u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + string("|") + b"NNN" + number(-1) * 2 + number(0) + b"tb"
    shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
    content = b"T" + struct.pack("<i", pixels.size) + pixels.tobytes()
    return empty + b"(" + number(1) + shape + dtype + b"\x89" + content + b"tb"


def cifar10(root, **options):
    return DATASETS["cifar10_lt"](root, **{"imbalance_factor": 4, **options})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("has_lists", [False, True])
def test_every_form_gives_the_same_split_in_the_same_order(small, tmp_path, form, has_lists):
    expected = cifar10(small.write(tmp_path / "expected", "folder"))
    if has_lists:
        build_lists("cifar10_lt", tmp_path / "expected")
    data = cifar10(small.write(tmp_path / "data", form))
    assert data.identity == expected.identity
    assert data.class_counts == [12, 7, 4, 3]
    for split, other in ((data.train, expected.train), (data.test, expected.test)):
        assert torch.equal(split.images, other.images)
        assert torch.equal(split.labels, other.labels)
    assert set(items_of(data.train)) <= set(items_of(small.splits["train"]))
    assert sorted(items_of(data.test)) == sorted(items_of(small.splits["test"]))


@pytest.mark.parametrize("form", FORMS)
def test_the_data_root_may_be_the_folder_itself(small, tmp_path, form):
    root = small.write(tmp_path / "data", form)
    inside = {
        "folder": root / "cifar-10-batches-py",
        "binary": root / "cifar-10-batches-bin",
        "parquet": root / "cifar10",
    }.get(form, root)
    assert cifar10(inside).identity == cifar10(root).identity


def test_the_first_of_several_forms_is_used_and_the_others_are_named(small, tmp_path):
    for form in FORMS:
        small.write(tmp_path / "data", form)
    assert cifar10(tmp_path / "data").source == (
        "official archive, unpacked in cifar-10-batches-py/"
        "; also there, not used: official archive cifar-10-python.tar.gz in the data root"
        "; also there, not used: official binary archive, unpacked in cifar-10-batches-bin/"
        "; also there, not used: parquet shards in cifar10/"
        "; also there, not used: class folders in the data root"
    )


def test_smaller_factors_contain_larger_ones_and_seeds_differ(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    held = [set(items_of(cifar10(root, imbalance_factor=f).train)) for f in (12, 4, 2, 1)]
    assert all(a < b for a, b in zip(held, held[1:], strict=False))
    assert cifar10(root, subset_seed=1).identity["train"] != cifar10(root).identity["train"]
    assert cifar10(root, subset_seed=1).identity["test"] == cifar10(root).identity["test"]


def test_another_subset_seed_needs_no_more_images_than_its_own(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    build_lists("cifar10_lt", root)
    wanted = cifar10(root, subset_seed=3)
    kept = {image for image, _ in items_of(wanted.train)}
    drop_training_images(root, kept)
    assert cifar10(root, subset_seed=3).identity == wanted.identity
    with pytest.raises(DataError, match=r"cifar10_lt from class folders in the data root, train: "):
        cifar10(root)


def drop_training_images(root: Path, kept: set[str]) -> None:
    for path in (root / "train").rglob("*.png"):
        pixels = np.asarray(Image.open(path)).tobytes()
        if hashlib.sha256(pixels).hexdigest()[:16] not in kept:
            path.unlink()


def test_no_global_seed_changes_the_subset(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    identities = []
    for seed in (0, 1):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        identities.append(cifar10(root).identity)
    assert identities[0] == identities[1]


@pytest.mark.parametrize("form", ["archive", "binary"])
def test_ldam_subset_follows_places_in_the_official_archive(small, tmp_path, form):
    data = cifar10(small.write(tmp_path / "data", form), subset="ldam")
    train = small.splits["train"]
    expected = []
    for label, positions in enumerate(ldam_positions([12, 7, 4, 3], 0, available=12)):
        of_class = [i for i, c in enumerate(train.labels.tolist()) if c == label]
        expected += [of_class[p] for p in positions]
    assert torch.equal(data.train.images, train.images[expected])
    assert torch.equal(data.train.labels, train.labels[expected])


def test_held_back_images_are_those_a_profile_takes_last(small, tmp_path):
    root = small.write(tmp_path / "data", "archive")
    usual, data = cifar10(root), cifar10(root, val_per_class=2)
    assert usual.val is None
    assert usual.class_counts == [12, 7, 4, 3]
    assert data.class_counts == [10, 7, 4, 3]  # of 12 images two are held back
    train, val = set(items_of(data.train)), set(items_of(data.val))
    assert data.val.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert train < set(items_of(usual.train))
    assert not train & val
    assert data.identity["test"] == usual.identity["test"]
    assert set(data.identity) == {"train", "val", "test"}
    with pytest.raises(ConfigError, match="val_per_class: 12 leaves class 0, of 12 images, none"):
        cifar10(root, val_per_class=12)
    with pytest.raises(ConfigError, match="val_per_class: has no effect on subset 'ldam'"):
        cifar10(root, val_per_class=2, subset="ldam")


@pytest.mark.parametrize("form", ["parquet", "tree"])
def test_ldam_subset_is_refused_where_the_order_is_lost(small, tmp_path, form):
    root = small.write(tmp_path / "data", form)
    with pytest.raises(DataError, match=r"data.subset: 'ldam' .*cifar-10-batches-py/ \(--download"):
        cifar10(root, subset="ldam")


# What is refused, and how


def test_no_data_root_is_one_problem_that_names_every_form_and_both_flags():
    with pytest.raises(DataError) as raised:
        DATASETS["cifar100_lt"](None)
    (problem,) = raised.value.problems
    for said in (
        "data root: none given",
        "--data-root",
        "LT_BENCH_DATA",
        "--download",
        "cifar-100-python/",
        "cifar-100-python.tar.gz",
        "train-*.parquet",
        "train/<class>/*.png",
    ):
        assert said in problem


def test_an_empty_data_root_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data root: no CIFAR-100 in .* add --download"):
        DATASETS["cifar100_lt"](tmp_path)


@pytest.mark.parametrize(
    ("column", "cells"),
    [("label", [None, 1]), ("label", ["a", "b"]), ("img", [b"x", b"y"]), ("img", [None, None])],
)
def test_shards_of_other_types_are_refused(small, tmp_path, column, cells):
    root = small.write(tmp_path / "data", "parquet")
    images = [{"bytes": b"x", "path": "x.png"}] * 2
    path = root / "cifar10" / "train-00000-of-00002.parquet"
    columns = {"img": images, "label": [0, 1], column: cells}
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(DataError, match=r"train-00000\S+: row 0 has no bytes of an image"):
        cifar10(root)


def test_a_damaged_official_file_is_never_unpickled(small, tmp_path, monkeypatch):
    root = small.write(tmp_path / "data", "folder")
    path = root / small.archive.folder / "data_batch_1"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(cifar_sources, "pickle", None)
    with pytest.raises(DataError, match=r"data_batch_1: md5 \w+, \w+ published; damaged"):
        cifar10(root)


def test_the_class_of_cifar100s_binary_archive_is_the_second_byte():
    rows = torch.arange(2 * 3074).view(2, 3074).to(torch.uint8)
    pixels, labels = CIFAR100.archives[1].parse(rows.numpy().tobytes())
    assert labels == rows[:, 1].tolist()
    assert torch.equal(torch.tensor(pixels), rows[:, 2:])


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch"])
def test_a_missing_official_file_is_named(small, tmp_path, name):
    root = small.write(tmp_path / "data", "folder")
    (root / small.archive.folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: missing; unpack cifar-10-python.tar.gz again"):
        cifar10(root)


def test_a_truncated_archive_is_refused(small, tmp_path):
    path = small.write(tmp_path / "data", "archive") / small.archive.name
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"tar.gz: not readable: .*; fetch it again \(md5"):
        cifar10(path.parent)


def test_an_archive_without_a_member_is_refused(small, tmp_path):
    del small.contents["test_batch"]
    root = small.write(tmp_path / "data", "archive")
    with pytest.raises(
        DataError, match=r"tar.gz: holds no cifar-10-batches-py/test_batch; fetch it again"
    ):
        cifar10(root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train-00001-of-00002.parquet", "1 train shards, 2 expected; fetch the others"),
        ("test-00000-of-00001.parquet", "0 test shards, 1 expected; fetch the others"),
    ],
)
def test_a_missing_shard_is_refused(small, tmp_path, name, message):
    root = small.write(tmp_path / "data", "parquet")
    (root / "cifar10" / name).unlink()
    with pytest.raises(DataError, match=message):
        cifar10(root)


def test_a_broken_shard_and_another_datasets_shard_are_refused(small, tmp_path):
    root = small.write(tmp_path / "data", "parquet")
    path = root / "cifar10" / "train-00000-of-00002.parquet"
    with pytest.raises(DataError, match="columns img, label; img and fine_label expected of CIFAR"):
        DATASETS["cifar100_lt"](root / "cifar10")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"train-00000-of-00002.parquet: not readable as parquet"):
        cifar10(root)


def test_parquet_without_pyarrow_names_the_extra(small, tmp_path, monkeypatch):
    root = small.write(tmp_path / "data", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'lt-bench\[parquet\]'"):
        cifar10(root)


def test_images_that_are_not_the_official_ones_are_refused(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    path = next((root / "test" / "cat").glob("*.png"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"{path.name}: not a readable PNG; fetch it again"):
        cifar10(root)
    Image.new("RGB", (31, 32)).save(path)
    with pytest.raises(DataError, match=rf"{path.name}: 31x32 pixels, 32x32 expected"):
        cifar10(root)


def test_a_missing_class_folder_is_named(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    (root / "test" / "bird").rename(root / "test" / "Bird 2")
    with pytest.raises(DataError, match="no folder for 1 of 4 classes, the first bird"):
        cifar10(root)


def test_without_lists_an_incomplete_source_is_refused(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    next((root / "train" / "bird").glob("*.png")).unlink()
    with pytest.raises(DataError, match=r"train: 11 images with label 2, 12 expected"):
        cifar10(root)


def test_an_image_under_another_label_is_refused_by_the_list(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    build_lists("cifar10_lt", root)
    path = next((root / "test" / "bird").glob("*.png"))
    path.rename(root / "test" / "cat" / path.name)
    with pytest.raises(DataError, match=r"test: 1 of 12 listed .* label 2 \(there with label 3\)"):
        cifar10(root)


# Lists


@pytest.fixture
def listed(small, tmp_path):
    root = small.write(tmp_path / "data", "tree")
    build_lists("cifar10_lt", root)
    return root, tmp_path / "data_lists" / "cifar10_lt" / "train.txt"


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: ["0" * 16 + lines[0][16:], *lines[1:]],
        lambda lines: [lines[0][:-1] + "1", *lines[1:]],
        lambda lines: lines[:-1],
        lambda lines: [lines[1], lines[0], *lines[2:]],
        lambda lines: [*lines[:6], "oops", *lines[7:]],
    ],
    ids=["image", "label", "truncated", "order", "no label"],
)
def test_a_changed_list_is_refused(listed, change):
    root, path = listed
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(
        DataError, match=r"train.txt: 4[78] lines, .* expected.*; restore it, or run"
    ):
        cifar10(root)


def test_line_ends_and_the_last_newline_do_not_matter(listed):
    root, path = listed
    expected = cifar10(root).identity
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")[:-2])
    assert cifar10(root).identity == expected


def test_a_missing_list_and_an_unreadable_json_are_refused(listed):
    root, path = listed
    path.unlink()
    with pytest.raises(DataError, match=r"train.txt: missing; restore it, or run python run.py"):
        cifar10(root)
    path.parent.with_suffix(".json").write_text("{")
    with pytest.raises(DataError, match=r"cifar10_lt.json: not readable as JSON"):
        cifar10(root)


def test_building_again_refuses_other_images(listed, small, tmp_path):
    root, path = listed
    build_lists("cifar10_lt", root)
    before = path.read_bytes()
    small.splits["train"].images[0, 0, 0, 0] ^= 1
    other = small.write(tmp_path / "other", "tree")
    with pytest.raises(DataError, match=r"cifar10_lt train: identity \w+ of the images in class"):
        build_lists("cifar10_lt", other)
    assert path.read_bytes() == before


# data check and the download


def test_check_says_what_to_fetch_when_nothing_is_there(tmp_path):
    report = check(Spec("cifar10_lt"), tmp_path)
    assert not report.ok
    assert "cifar-10-python.tar.gz" in report.lines[0]
    assert CIFAR10.archives[0].md5 in report.lines[0]
    assert "no CIFAR-10 in" in report.lines[-1]


def test_check_counts_against_the_lists(listed):
    root, _ = listed
    report = check(Spec("cifar10_lt", {"imbalance_factor": 4}), root)
    assert report.ok
    assert "train: 48 of 48 different listed images there, 0 that are not listed" in report.lines
    wanted = {image for image, _ in items_of(cifar10(root).train)}
    drop_training_images(root, wanted)
    report = check(Spec("cifar10_lt", {"imbalance_factor": 4}), root)
    assert report.ok
    assert "train: 26 of 48 different listed images there, 0 that are not listed" in report.lines
    assert not check(Spec("cifar10_lt", {"imbalance_factor": 1}), root).ok


def test_download_fetches_the_official_archive_once(small, tmp_path, monkeypatch):
    calls = []

    def fetch(url, root, extract_root, *, filename, md5):
        calls.append((url, filename, md5))
        small.write(Path(extract_root), "folder")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    root = tmp_path / "new"
    for _ in range(2):
        download_cifar("cifar10_lt", root)
    official = CIFAR10.archives[0]
    assert calls == [(official.url, official.name, official.md5)]
    assert cifar10(root).source == "official archive, unpacked in cifar-10-batches-py/"


class _Served(BaseHTTPRequestHandler):
    """Sends a part of what there is, as if all of it were to come."""

    content, sent = b"", 0

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: self.sent])

    def log_message(self, *_):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchvision's, of tarfile's filters
def test_a_download_leaves_all_or_nothing(small, tmp_path, monkeypatch):
    (archive,) = small.write(tmp_path / "served", "archive").iterdir()
    _Served.content = archive.read_bytes()
    server = HTTPServer(("127.0.0.1", 0), _Served)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    official = dataclasses.replace(
        small.archive,
        url=f"http://127.0.0.1:{server.server_port}/{archive.name}",
        md5=hashlib.md5(_Served.content).hexdigest(),
    )
    family = dataclasses.replace(small.family, archives=(official,))
    monkeypatch.setitem(cifar.FAMILIES, "cifar10_lt", family)
    root = small.write(tmp_path / "root", "parquet")
    there = sorted(root.iterdir())

    _Served.sent = 3
    with pytest.raises(DataError, match=r"not fetched: .*; fetch cifar-10-python.tar.gz yourself"):
        download_cifar("cifar10_lt", root)
    assert sorted(root.iterdir()) == there
    assert cifar10(root).source == "parquet shards in cifar10/"

    small.write(root, "folder")
    (root / official.folder / "test_batch").write_bytes(b"cut short")
    _Served.sent = len(_Served.content)
    download_cifar("cifar10_lt", root)
    server.shutdown()
    server.server_close()
    assert sorted(root.iterdir()) == sorted([*there, root / official.folder])
    assert cifar10(root).source.startswith("official archive, unpacked in cifar-10-batches-py/;")


def test_a_failed_download_says_what_to_fetch_by_hand(tmp_path, monkeypatch):
    def fetch(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", fetch)
    with pytest.raises(DataError, match=r"not fetched: no route to host; fetch cifar-100-python"):
        download_cifar("cifar100_lt", tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(DataError, match="nothing is fetched for digits_lt; leave it out"):
        download_cifar("digits_lt", tmp_path)
    with pytest.raises(DataError, match="--download: no data root; give --data-root"):
        download_cifar("cifar100_lt", None)


# The real CIFAR-100


@pytest.fixture(scope="module")
def cifar100():
    source = cifar_sources.find(CIFAR100, SHARED)[0]
    return source, *source.read()


@needs_cifar100
def test_cifar100_gives_the_committed_splits(cifar100):
    facts = lists.published("cifar100_lt")
    totals = {10: 19_573, 20: 15_907, 50: 12_608, 100: 10_847, 200: 9_502}
    for factor, total in totals.items():
        data = long_tailed(CIFAR100, Choice(imbalance_factor=factor), *cifar100)
        assert len(data.train) == sum(data.class_counts) == total
        assert torch.bincount(data.train.labels).tolist() == data.class_counts
        assert data.identity["train"] == facts["profiles"][f"exponential-{factor}"]["identity"]
        assert data.identity["test"] == facts["test"]["identity"]


@needs_cifar100
def test_cifar100_lists_are_what_the_images_give(cifar100, tmp_path, monkeypatch):
    committed = lists.LISTS
    source, train, test = cifar100
    held = dataclasses.replace(source, read=lambda: (train, test))
    monkeypatch.setattr(cifar_sources, "find", lambda family, root: [held])
    monkeypatch.setattr(lists, "LISTS", tmp_path)
    build_lists("cifar100_lt", SHARED)
    for name in ("cifar100_lt.json", "cifar100_lt/train.txt", "cifar100_lt/test.txt"):
        assert (tmp_path / name).read_bytes() == (committed / name).read_bytes()


@needs_cifar100
def test_cifar100_repeats_are_known_and_pass(cifar100, monkeypatch):
    source, train, test = cifar100
    held = dataclasses.replace(source, read=lambda: (train, test))
    monkeypatch.setattr(cifar_sources, "find", lambda family, root: [held])
    report = check(Spec("cifar100_lt"), SHARED)
    assert report.ok
    assert (
        "repeats, as in the original: train images repeated 14, of them under two labels 9, "
        "test images in train 10" in report.lines
    )


@pytest.mark.slow  # the small CIFAR says the same
@needs_cifar100
def test_png_folders_of_the_needed_images_alone_give_the_same_split(cifar100, tmp_path):
    expected = long_tailed(CIFAR100, Choice(imbalance_factor=200), *cifar100)
    for name, split in (("train", expected.train), ("test", expected.test)):
        for label, class_name in enumerate(CIFAR100.class_names):
            (tmp_path / name / class_name).mkdir(parents=True)
            for i in torch.nonzero(split.labels == label).flatten().tolist():
                image = Image.fromarray(split.images[i].permute(1, 2, 0).numpy())
                image.save(tmp_path / name / class_name / f"{i}.png", compress_level=0)
    data = DATASETS["cifar100_lt"](tmp_path, imbalance_factor=200)
    assert data.source == "class folders in the data root"
    assert data.identity == expected.identity
    assert torch.equal(data.train.images, expected.train.images)
    assert torch.equal(data.test.images, expected.test.images)
