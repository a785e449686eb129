"""Published path lists: normalised to one identity, verified, refused with place and remedy."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from lt_bench.data import lists
from lt_bench.data.benchmarks import BENCHMARKS, IMAGENET_LT, INAT_2018, PLACES_LT
from lt_bench.data.build_published import build_published
from lt_bench.data.image_list import git_blobs, parse, read_text, verify
from lt_bench.data.layouts import imagenet_path, inat_path, places_path
from lt_bench.data.lists import identity, read_list
from lt_bench.errors import DataError

SHARED = Path(__file__).parents[1].parent / "shared" / "lists"
needs_lists = pytest.mark.skipif(not SHARED.is_dir(), reason="the published lists are not here")

CLASSES = ("airfield", "church-indoor", "zoo")
GOOD = (
    "train/airfield/00000001.jpg 0\ntrain/church-indoor/00000002.jpg 1\n"
    "train/airfield/00000003.jpg 0\n"
)


def read(text, normalise=places_path):
    return parse(text, place="list.txt", class_names=CLASSES, normalise=normalise)


def problems(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    return list(caught.value.problems)


@pytest.fixture
def own_lists(tmp_path, monkeypatch):
    """A copy of the committed facts, to build lists beside."""
    folder = tmp_path / "data_lists"
    folder.mkdir()
    for name in BENCHMARKS:
        shutil.copy(lists.LISTS / f"{name}.json", folder)
    monkeypatch.setattr(lists, "LISTS", folder)
    return folder


def as_data_256(text: str) -> str:
    """The list family of the official archive: class folders by letter, nested; flat val."""
    lines = []
    for line in text.splitlines():
        part, name, file = line.split("/")
        if part == "val":
            lines.append(f"val_256/{file}")
        else:
            lines.append(f"data_256/{name[0]}/{name.replace('-', '/')}/{file}")
    return "\n".join(lines) + "\n"


@needs_lists
def test_both_list_families_of_places_build_to_one_identity(tmp_path, own_lists):
    other = tmp_path / "data_256"
    other.mkdir()
    for name in PLACES_LT.published.values():
        text = as_data_256(read_text(SHARED / f"{name}.gz"))
        (other / name).write_text(text, encoding="utf-8")
    assert (other / "Places_LT_train.txt").read_text().startswith("data_256/a/airfield/00004851")
    written = []
    for folder in (SHARED, other):
        report = build_published(PLACES_LT, None, folder=folder, download=False)
        assert report.ok
        assert (
            "train: 62,500 images, 365 classes, 4,980..5 per class, many/medium/few 131/163/71"
            in report.lines
        )
        written.append((own_lists / "places_lt" / "train.txt").read_bytes())
    assert written[0] == written[1]


@needs_lists
@pytest.mark.parametrize(
    ("benchmark", "splits", "total"),
    [(IMAGENET_LT, ("val", "test"), 70_000), (INAT_2018, ("test",), 24_426)],
)
def test_the_published_lists_at_hand_build_and_the_others_are_named(
    benchmark, splits, total, own_lists
):
    report = build_published(benchmark, None, folder=SHARED, download=False)
    assert not report.ok
    (missing,) = [line for line in report.lines if "not built" in line]
    assert missing.startswith(f"train: not built: no {benchmark.published['train']}[.gz]")
    assert benchmark.list_page in missing
    facts = lists.published(benchmark.name)
    assert sum(len(read_list(benchmark.name, split, facts)) for split in splits) == total
    again = build_published(benchmark, None, folder=None, download=False)
    assert sum("already built" in line for line in again.lines) == len(splits)


@needs_lists
def test_imagenets_flat_and_sorted_test_lists_are_one():
    facts = lists.published("imagenet_lt")
    text = read_text(SHARED / "ImageNet_LT_test.txt.gz")
    flat = "".join(f"val/{line.rpartition('/')[2]}\n" for line in text.splitlines())
    found = [
        identity(parse(t, place="", class_names=facts["class_names"], normalise=imagenet_path))
        for t in (text, flat)
    ]
    assert found == [facts["test"]["identity"]] * 2


@needs_lists
def test_a_label_swapped_in_a_flat_list_is_seen_by_its_identity():
    facts = lists.published("imagenet_lt")
    text = read_text(SHARED / "ImageNet_LT_test.txt.gz")
    flat = [f"val/{line.rpartition('/')[2]}" for line in text.splitlines()]
    flat[0], flat[-1] = flat[0].removesuffix("0") + "999", flat[-1].removesuffix("999") + "0"
    items = parse(
        "\n".join(flat), place="", class_names=facts["class_names"], normalise=imagenet_path
    )
    (problem,) = problems(verify, items, facts["test"], place="mine.txt", remedy="fetch it again")
    assert problem.startswith("mine.txt: identity ")
    assert problem.endswith("is not the published one; fetch it again")


def test_known_facts():
    """The figures of the papers and of the field's repositories."""
    facts = {name: lists.published(name) for name in BENCHMARKS}
    images = {
        name: {split: facts[name][split]["images"] for split in benchmark.published}
        for name, benchmark in BENCHMARKS.items()
    }
    assert images == {
        "imagenet_lt": {"train": 115_846, "val": 20_000, "test": 50_000},
        "places_lt": {"train": 62_500, "val": 7_300, "test": 36_500},
        "inat2018": {"train": 437_513, "test": 24_426},
    }
    assert {name: len(f["class_names"]) for name, f in facts.items()} == {
        "imagenet_lt": 1000,
        "places_lt": 365,
        "inat2018": 8142,
    }
    for name, most in (("imagenet_lt", 1280), ("places_lt", 4980)):
        counts = facts[name]["train"]["class_counts"]
        assert (sum(counts), max(counts), min(counts)) == (images[name]["train"], most, 5)
    assert facts["imagenet_lt"]["train"]["git_blob"].startswith("a063f095fcd475db")
    assert facts["inat2018"]["train"]["git_blob"].startswith("4accdb7584d2f0a5")


@pytest.mark.parametrize(
    "change",
    [
        str.rstrip,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
    ],
    ids=["no last newline", "CRLF", "byte order mark"],
)
@pytest.mark.parametrize("compress", [False, True])
def test_harmless_differences_are_accepted(change, compress, tmp_path):
    path = tmp_path / "list.txt"
    content = change(GOOD).encode()
    path.write_bytes(gzip.compress(content) if compress else content)
    text = read_text(path)
    assert read(text) == read(GOOD)
    assert set(git_blobs(text)) == set(git_blobs(GOOD))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            "train/airfield/00000009.jpg 1",
            "label 1 is class church-indoor, but train/airfield/00000009.jpg is of class airfield; "
            "take the published list unchanged",
        ),
        (
            "train/airfield/00000001.jpg 0",
            "train/airfield/00000001.jpg is listed a second time, first in line 1; remove one",
        ),
        (
            "data_256/a/airfield/00000001.jpg 0",
            "data_256/a/airfield/00000001.jpg is listed a second time, first in line 1; remove one",
        ),
        (
            "/train/airfield/00000009.jpg 0",
            "/train/airfield/00000009.jpg is absolute; write it relative to the folder of the "
            "images",
        ),
        (
            "C:/train/airfield/00000009.jpg 0",
            "C:/train/airfield/00000009.jpg is absolute; write it relative to the folder of the "
            "images",
        ),
        (
            "train/../airfield/00000009.jpg 0",
            "train/../airfield/00000009.jpg leaves the folder of the images; remove the '..'",
        ),
        ("train/airfield/00000009.jpg 3", "label 3, below 3 expected; labels count from 0"),
        (
            "train/airfield/00000009.jpg -1",
            "'train/airfield/00000009.jpg -1' is not a path and its label; write path label",
        ),
        (
            "photos/airfield/00000009.jpg 0",
            "photos/airfield/00000009.jpg is in no layout of this dataset; take the published list "
            "unchanged",
        ),
    ],
)
def test_a_wrong_line_is_refused_with_its_number_and_a_remedy(line, problem):
    assert problems(read, f"{GOOD}{line}\n") == [f"list.txt:4: {problem}"]


def test_many_wrong_lines_are_counted():
    found = problems(read, "nothing\n" * 12)
    assert len(found) == 6
    assert found[-1] == "list.txt: 7 more lines like these"


def test_a_truncated_list_is_refused_by_its_count():
    expected = {"images": 4, "identity": None, "git_blob": ""}
    (problem,) = problems(verify, read(GOOD), expected, place="list.txt", remedy="fetch it again")
    assert problem == "list.txt: 3 images, 4 expected; fetch it again"


def test_a_class_with_another_count_is_named():
    expected = {"images": 3, "class_counts": [1, 2, 0], "identity": None}
    (problem,) = problems(verify, read(GOOD), expected, place="list.txt", remedy="fetch it again")
    assert problem == "list.txt: class 0 has 2 images, 1 expected; fetch it again"


def test_without_an_identity_the_git_blob_decides():
    # the blob git itself gives: git hash-object --stdin
    blob = hashlib.sha1(b"blob %d\0%b" % (len(GOOD), GOOD.encode())).hexdigest()
    expected = {"images": 3, "identity": None, "git_blob": blob}
    verify(read(GOOD), expected, place="list.txt", remedy="", text=GOOD.replace("\n", "\r\n"))
    turned = "".join(reversed(GOOD.splitlines(keepends=True)))
    (problem,) = problems(verify, read(turned), expected, place="list.txt", remedy="r", text=turned)
    assert problem.startswith("list.txt: git blob ")


@pytest.mark.parametrize("content", [b"\x1f\x8bnot gzip", b"\xff\xfe\x00", b"\x1f\x8b"])
def test_a_file_that_is_no_text_is_refused(content, tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    (problem,) = problems(read_text, path)
    assert problem.startswith(f"{path}: not readable as a list: ")


@pytest.mark.parametrize(("normalise", "path", "canonical"), [
    (places_path, "data_large_standard/c/church/indoor/00000002.jpg",
     ("train/church-indoor/00000002.jpg", "church-indoor")),
    (places_path, "val/zoo/Places365_val_00000001.jpg", ("val/Places365_val_00000001.jpg", "zoo")),
    (places_path, "val_large/Places365_val_00000001.jpg",
     ("val/Places365_val_00000001.jpg", None)),
    (imagenet_path, "val/n01440764/ILSVRC2012_val_00000293.JPEG",
     ("val/ILSVRC2012_val_00000293.JPEG", "n01440764")),
    (imagenet_path, "train/n01440764/n01440764_10026.JPEG",
     ("train/n01440764/n01440764_10026.JPEG", "n01440764")),
    (inat_path, "train_val2018/Aves/2761/" + "0a" * 16 + ".jpg",
     ("train_val2018/Aves/2761/" + "0a" * 16 + ".jpg", "Aves/2761")),
])  # fmt: skip
def test_paths_are_brought_to_their_canonical_form(normalise, path, canonical):
    assert normalise(path) == canonical


def annotations(tmp_path):
    """Official style annotations of two classes, and the list they amount to."""
    names = [
        f"train_val2018/Aves/{c}/{c}{i}".ljust(53, "a") + ".jpg" for c in (0, 1) for i in "012"
    ]
    data = {
        "images": [{"id": 7 + i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": 90 - i, "image_id": 7 + i, "category_id": i // 3} for i in reversed(range(6))
        ],
    }
    return json.dumps(data), "".join(f"{name} {i // 3}\n" for i, name in enumerate(names))


@pytest.fixture
def small_inat(own_lists):
    """iNaturalist of two classes: the train list is known by its git blob alone."""
    _, text = annotations(own_lists)
    expected = {"images": 6, "identity": None, "class_counts": None}
    facts = {
        "dataset": "inat2018",
        "class_names": ["Aves/0", "Aves/1"],
        "train": expected | {"git_blob": git_blobs(text)[0]},
        "test": expected | {"git_blob": git_blobs(text.replace("a.jpg", "b.jpg"))[0]},
    }
    (own_lists / "inat2018.json").write_text(json.dumps(facts), encoding="utf-8")
    return own_lists


def test_official_annotations_build_and_the_first_verified_build_fills_the_identity(
    small_inat, tmp_path
):
    content, text = annotations(tmp_path)
    root = tmp_path / "data"
    (root / "inat2018").mkdir(parents=True)
    (root / "inat2018" / "train2018.json").write_text(content, encoding="utf-8")
    (root / "val2018.json").write_text(content.replace("a.jpg", "b.jpg"), encoding="utf-8")
    report = build_published(INAT_2018, root, folder=None, download=False)
    assert report.ok
    assert (small_inat / "inat2018" / "train.txt").read_text() == text
    facts = lists.published("inat2018")
    assert facts["train"]["class_counts"] == [3, 3]
    assert facts["train"]["identity"] == identity(
        [(line.split()[0], int(line.split()[1])) for line in text.splitlines()]
    )
    before = (small_inat / "inat2018.json").read_bytes()
    assert build_published(INAT_2018, root, folder=None, download=False).ok
    assert (small_inat / "inat2018.json").read_bytes() == before


def test_splits_that_share_images_are_refused_and_nothing_is_written(small_inat, tmp_path):
    content, text = annotations(tmp_path)
    facts = lists.published("inat2018")
    facts["test"]["git_blob"] = facts["train"]["git_blob"]
    (small_inat / "inat2018.json").write_text(json.dumps(facts), encoding="utf-8")
    for name in ("train2018.json", "val2018.json"):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (problem,) = problems(build_published, INAT_2018, tmp_path, folder=None, download=False)
    assert problem.startswith("train and test: share 6 images, such as train_val2018/Aves/0/")
    assert not (small_inat / "inat2018").exists()


def test_a_download_is_verified_and_a_failed_one_names_the_address(
    small_inat, tmp_path, monkeypatch
):
    content, _ = annotations(tmp_path)
    archives = []
    for split, name in INAT_2018.annotations.items():
        path = tmp_path / f"{name}.tar.gz"
        text = content if split == "train" else content.replace("a.jpg", "b.jpg")
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        archives.append(replace(INAT_2018.archives[1], name=path.name, md5=md5))
    benchmark = replace(INAT_2018, archives=tuple(archives), url=tmp_path.as_uri())
    assert build_published(benchmark, None, folder=None, download=True).ok
    shutil.rmtree(small_inat / "inat2018")
    # the archives as they were fetched serve too
    monkeypatch.chdir(tmp_path)
    for root in (tmp_path, Path()):
        assert build_published(benchmark, root, folder=None, download=False).ok

    damaged = replace(benchmark, archives=tuple(replace(a, md5="0") for a in archives))
    found = problems(build_published, damaged, None, folder=None, download=True)
    assert found[0].startswith(f"{tmp_path.as_uri()}/train2018.json.tar.gz: md5 ")
    gone = replace(benchmark, url=(tmp_path / "gone").as_uri())
    found = problems(build_published, gone, None, folder=None, download=True)
    assert found[0].startswith(f"{gone.url}/train2018.json.tar.gz: not fetched: ")
    assert found[0].endswith("fetch it yourself and give its folder as --lists")
