"""Ours beside published: which runs compare with which rows, and what is said of them."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

from lt_bench.config import load, names, with_seed
from lt_bench.errors import DataError
from lt_bench.record import write
from lt_bench.reports import report
from lt_bench.reports.latex import latex_published
from lt_bench.reports.published import (
    beside,
    csv_published,
    read_published,
    recipe_of,
    render_published,
    verdict,
)
from tests.synthetic import long_tail, make_record

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT.parent / "shared" / "reference" / "published.csv"
PLACES_THERE = {
    "cifar10_lt": ("CIFAR-10-LT", "ResNet-32"),
    "cifar100_lt": ("CIFAR-100-LT", "ResNet-32"),
    "imagenet_lt": ("ImageNet-LT", "ResNeXt-50"),
    "imagenet_lt:resnet50": ("ImageNet-LT", "ResNet-50"),
    "imagenet_lt:eql": ("ImageNet-LT", "ResNet-10"),
    "places_lt": ("Places-LT", "ResNet-152 (ImageNet-pretrained)"),
    "inat2018": ("iNaturalist2018", "ResNet-50"),
}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "published.csv").write_bytes((ROOT / "results" / "published.csv").read_bytes())
    return tmp_path


def spread(method, recipe="cifar100_lt"):
    rows = read_published(ROOT / "results")
    values = [row.top1_percent for row in rows if row.recipe == recipe and row.method == method]
    return (min(values), max(values)) if values else None


def lines_of(text):
    """The cells of the first group, by the first of each line."""
    text = text.split("\n## ")[1]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return {first.strip(): [cell.strip() for cell in others] for first, *others in cells}


def run_at(results, method, percents, recipe="cifar100_lt", overrides=()):
    """Records of a method that has exactly these accuracies, one for each seed."""
    config = load(recipe, method, overrides)
    for seed, percent in enumerate(percents):
        record = make_record(
            with_seed(config, seed),
            class_counts=long_tail(500, 100, 100),
            correct=[percent] * 100,
            total=[100] * 100,
        )
        write(record, results)


def test_the_spreads_are_those_of_the_plain_recipe():
    assert spread("ce") == (38.05, 40.66)
    assert spread("ldam_drw") == (42.04, 42.9)
    assert spread("balanced_softmax") == (42.99, 46.47)
    assert spread("ce", "cifar100_lt:eql") == (41.0, 41.33)
    assert spread("crt", "imagenet_lt") == (48.4, 49.9)
    assert not any(spread(method) for method in names("configs/methods") if "sdn" in method)
    assert not spread("recall")


def test_every_committed_row_is_one_of_the_reference():
    if not REFERENCE.exists():
        pytest.skip("the reference table is not beside this checkout")
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        there = {
            (row["dataset"], row["backbone"], factor, row["method"], row["value_percent"])
            for row in csv.DictReader(file)
            if row["metric"] == "top1" and row["confidence"] == "read directly"
            for factor in (row["imbalance_factor"] if "CIFAR" in row["dataset"] else "",)
        }
    for row in read_published(ROOT / "results"):
        config = load(row.recipe, row.method)
        assert recipe_of(config) == row.recipe
        stem = row.recipe.partition(":")[0]
        place = PLACES_THERE.get(row.recipe, PLACES_THERE[stem])
        factor = config.data.options.get("imbalance_factor", "")
        said = (*place, f"{factor:g}" if factor else "", row.published_as, f"{row.top1_percent:g}")
        assert said in there


def test_a_full_run_is_compared(results):
    run_at(results, "ce", [39, 40, 41])
    run_at(results, "ldam_drw", [40, 40, 40])
    run_at(results, "seql", [50])
    run_at(results, "cb_focal", [30])
    for method in ("recall", "sdn_recall", "sdn_ce", "loss_scheduling"):
        run_at(results, method, [39])
    text = render_published(report.beside_published(report.read_results(results)))
    cells = lines_of(text)
    assert cells["CE"] == ["38.0 .. 40.7", "6", "40.0 ± 1.0", "3", "in the spread"]
    assert cells["LDAM-DRW"][2:] == ["40.0 ± 0.0", "3", "2.04 below: OUTSIDE the band"]
    assert cells["SEQL"] == ["40.5", "1", "50.0", "1", "9.51 above: OUTSIDE the band"]
    assert cells["CB focal"] == ["36.0 .. 39.6", "4", "30.0", "1", "–"]  # no target
    assert cells["LDAM"][2:] == ["not run", "0", "–"]
    assert cells["Focal"][:2] == ["none of this recipe", "0"]  # others' is the sigmoid form
    assert cells["Recall (paper batch)"][0] == "no published classification value"
    assert cells["Recall"] == ["no published classification value", "0", "39.0", "1", "–"]
    assert cells["SDN (rep: recall, cls: CB)"][0] == "no published classification value"
    assert cells["Loss scheduling"][0] == "none of this recipe"
    assert "LWS" in cells
    in_order = ["SDN (rep: CE, cls: CB)", "SDN (rep: recall, cls: CB)"]
    assert [name for name in cells if name.startswith("SDN")] == in_order
    assert "Recall: 1 of 3 seeds." in text
    headings = [part.partition("\n")[0] for part in text.split("\n## ")[1:]]
    assert headings[0] == (
        "CIFAR-100-LT (imbalance factor 100), ResNet-32, recipe cifar100_lt: 200 epochs, crop, flip"
    )
    assert all(heading.endswith("; no run of ours yet") for heading in headings[1:])
    assert "38.05 (IB loss (ICCV21) Table 4, arXiv:2110.02444, own run)" in text


def test_csv_and_latex_say_the_same(results):
    run_at(results, "ce", [39, 40, 41])
    groups = report.beside_published(report.read_results(results))
    frame = pd.read_csv(io.StringIO(csv_published(groups)))
    assert list(frame) == ["of", "method", "published", "values", "ours", "n", "band"]
    (line,) = frame[(frame["method"] == "CE") & frame["ours"].notna()].to_numpy().tolist()
    assert line[0].startswith("CIFAR-100-LT (imbalance factor 100), ResNet-32, recipe cifar100_lt")
    assert line[1:] == ["CE", "38.0 .. 40.7", 6, "40.0 ± 1.0", 3, "in the spread"]
    text = latex_published(groups)
    assert "CE & 38.0 .. 40.7 & 6 & 40.0 $\\pm$ 1.0 & 3 & in the spread \\\\" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(groups)


def test_a_run_on_other_images_of_the_same_counts_says_so(results):
    run_at(results, "ldam_drw", [78], recipe="cifar10_lt", overrides=["data.subset=ldam"])
    text = render_published(report.beside_published(report.read_results(results)))
    assert lines_of(text)["LDAM-DRW"] == ["77.0 .. 77.7", "3", "78.0", "1", "0.27 above"]
    assert "LDAM-DRW: with data.subset=ldam." in text


def test_a_short_run_is_never_compared(results):
    run_at(results, "ce", [39], recipe="cifar100_lt:short")
    text = render_published(report.beside_published(report.read_results(results)))
    _, there = text.split("## CIFAR-100-LT (imbalance factor 100), ")
    assert there.startswith("ResNet-32, recipe cifar100_lt: 200 epochs, crop, flip; no run of ours")
    assert "ours" not in there.partition("| ---")[0].partition("method")[2]  # no column for it


def test_what_compares_with_what():
    assert recipe_of(load("cifar100_lt", "ce")) == "cifar100_lt"
    assert recipe_of(load("cifar100_lt:if100", "crt")) == "cifar100_lt"
    assert recipe_of(load("imagenet_lt:resnext50", "ce")) == "imagenet_lt"
    assert recipe_of(load("cifar100_lt:if50", "ce")) == "cifar100_lt:if50"
    assert recipe_of(load("cifar100_lt", "ce", ["data.subset=ldam"])) == "cifar100_lt"
    assert recipe_of(load("cifar100_lt:short", "ce")) is None
    assert recipe_of(load("cifar100_lt:short", "crt")) is None
    assert recipe_of(load("cifar100_lt", "ce", ["optim.epochs=100"])) is None
    assert recipe_of(load("cifar100_lt", "ce", ["optim.lr=0.2"])) is None
    assert recipe_of(load("digits_lt", "ce")) is None
    assert recipe_of(load(str(ROOT / "configs" / "cifar100_lt.toml"), "ce")) is None


def test_the_verdict_at_the_edges():
    assert verdict(38.0, 38.0, 40.7, 1.0) == "in the spread"
    assert verdict(37.2, 38.0, 40.7, 1.0) == "0.80 below"
    assert verdict(41.7, 38.0, 40.7, 1.0) == "1.00 above"
    assert verdict(42.0, 38.0, 40.7, 1.0) == "1.30 above: OUTSIDE the band"
    assert verdict(100 * 0.407, 40.7, 40.7, 1.0) == "in the spread"  # not 40.699999999999996


def test_without_rows_there_is_nothing_to_say(tmp_path):
    assert read_published(tmp_path) == []
    assert beside([], read_published(ROOT / "results")) == []


def test_a_damaged_line_is_named(results):
    path = results / "published.csv"
    path.write_text(path.read_text().replace("40.66", "forty"))
    with pytest.raises(DataError, match=r"published.csv, line \d+: could not convert"):
        read_published(results)


def test_a_file_that_is_not_utf8_is_said(tmp_path):
    path = tmp_path / "published.csv"
    path.write_bytes(b"method,source\nce,M\xfcller\n")
    with pytest.raises(DataError) as caught:
        read_published(tmp_path)
    (said,) = caught.value.problems
    assert said.startswith(f"{path}: 'utf-8' codec can't decode byte 0xfc")
    assert said.endswith("; restore the file")


@pytest.mark.parametrize("method", names("configs/methods"))
def test_an_overlay_says_its_command_and_what_is_published_of_it(method):
    text = (ROOT / "configs" / "methods" / f"{method}.toml").read_text(encoding="utf-8")
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert f"#   python run.py train cifar100_lt {method} --data-root DIR\n" in header
    if found := spread(method):
        low, high = (f"{value:.1f}" for value in found)
        assert (low if low == high else f"{low} .. {high}") in header
