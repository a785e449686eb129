"""Figures: which are drawn, and that they show the numbers of the records."""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lt_bench import cli
from lt_bench.record import encode_labels, read_all, write
from lt_bench.reports import figures, report
from lt_bench.reports.diagnostics import draw_confusion, draw_curves, draw_reliability
from lt_bench.reports.overviews import draw_cost, draw_factors, draw_ranks
from tests.synthetic import RECIPE, TABLE, changed, fill_with, long_tail, make_record

LIMITS = {"many": 100, "few": 20}


def written(results):
    return figures.write_all(report.read_results(results))


def rows_of(results, name="table"):
    (rows,) = report.fill(name, read_all(results)).rows.values()
    return rows


def test_figures_of_a_table(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'also = ["cost"]')
    weights = [[1.0, 1.0, 1.0, 1.0], [0.5, 0.8, 1.0, 2.0]]
    for run in report.cells("table"):
        write(make_record(run, weights=weights if run.overlay == "mine" else ()), results)
    paths = written(results)
    kinds = ["classes", "groups", "weights", "confusion", "reliability", "curves", "cost"]
    assert [path.name for path in paths] == [f"table-{kind}.png" for kind in kinds]
    first = [path.read_bytes() for path in paths]
    assert all(content.startswith(b"\x89PNG") for content in first)
    assert [path.read_bytes() for path in written(results)] == first


def test_figures_for_print(checkout, results, tmp_path, capsys):
    (checkout / "table.toml").write_text(TABLE)
    fill_with(results)
    assert cli.main(["report", "--pdf", str(tmp_path / "pdf"), "--results", str(results)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert tmp_path / "pdf" / "table-groups.pdf" in written
    assert all(path.read_bytes().startswith(b"%PDF") for path in written)
    assert not (results / "figures").exists()


def test_figures_show_the_numbers_of_the_table(checkout, results):
    fill_with(results)
    (rows_,) = report.fill("table", read_all(results)).rows.values()
    limits = {"many": 100, "few": 20}
    panels = figures.draw_groups(rows_).axes
    assert [panel.get_title() for panel in panels] == ["many", "medium", "few", "all"]
    assert [bar.get_width() for bar in panels[2].patches] == pytest.approx([25, 25, 25])
    counts, first, *_ = figures.draw_classes(rows_, limits).axes
    assert [bar.get_height() for bar in counts.patches] == [200, 100, 20, 19]
    dots = first.lines[0].get_ydata()
    assert dots == pytest.approx([90, 80, 50, 25])


def test_classes_are_drawn_head_to_tail_without_those_never_tested(checkout, results):
    fill_with(results, class_counts=(19, 200, 20, 100), total=(10, 10, 0, 10), correct=(1, 9, 0, 8))
    (rows_,) = report.fill("table", read_all(results)).rows.values()
    counts, first, *_ = figures.draw_classes(rows_, {}).axes
    assert [bar.get_height() for bar in counts.patches] == [200, 100, 19]
    assert first.lines[0].get_ydata() == pytest.approx([90, 80, 10])


def test_a_hundred_classes_and_groups_without_classes_can_be_drawn(checkout, results):
    counts = long_tail(500, 10, 100)
    for run in report.cells("table"):
        write(
            make_record(
                run,
                class_counts=counts,
                correct=[3] * 100,
                total=[5] * 100,
                weights=np.ones((2, 100)),
            ),
            results,
        )
    assert len(written(results)) == 6


@pytest.mark.parametrize("counts", [(50, 50, 50, 50), (7, 3, 1, 0), (3, 5000, 2, 1)])
def test_unusual_counts_can_be_drawn(checkout, results, counts):
    fill_with(results, class_counts=counts, weights=[[1, 2, 3, 4]], correct=(0, 0, 0, 0))
    assert len(written(results)) == 6


def test_rows_on_other_class_counts_are_not_drawn(checkout, results):
    fill_with(results)
    odd = report.cells("table")[-1]
    write(make_record(odd, class_counts=(200, 100, 21, 19)), results)
    names = [
        panel.get_title()
        for panel in next(figures.drawn(report.fill("table", read_all(results)), {}))[1].axes
    ]
    assert "mine" not in names


def test_reliability_bars_are_the_bins_of_all_seeds(checkout, results):
    fill_with(results)  # 24 of 40 right at 60 % confidence, and 25 of 40 with the other seed
    panel = draw_reliability(rows_of(results)).axes[0]
    both, more, less, images = np.array([bar.get_height() for bar in panel.patches]).reshape(4, 15)
    assert both[9] == pytest.approx(0.6)
    assert more[9] == pytest.approx(49 / 80 - 0.6)
    assert not less.any()
    assert images[9] == -0.18
    assert panel.texts[0].get_text() == "ECE 1.2 %"  # the mean of 0 and 2.5, just below 1.25


def test_confusion_says_where_the_images_of_a_group_go(checkout, results):
    fill_with(results, correct=(9, 8, 5, 2))  # a wrong prediction is the next class
    many, medium, few = draw_confusion(rows_of(results), LIMITS).axes
    widths = [[bar.get_width() for bar in panel.patches[::3]] for panel in (many, medium, few)]
    assert widths[0] == pytest.approx([90, 0, 10, 0])  # right, wrong: many, medium, few
    assert widths[1] == pytest.approx([65, 0, 10, 25])
    assert widths[2] == pytest.approx([20, 80, 0, 0])


def test_confusion_needs_a_list_sorted_by_class(checkout, results):
    for run in report.cells("table"):
        one = make_record(run)
        shuffled = encode_labels(one.test.predictions()[::-1].copy())
        write(changed(one, labels_predicted=shuffled), results)
    assert draw_confusion(rows_of(results), LIMITS) is None


def test_learning_curves_show_the_losses(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'overrides = ["optim.schedule=step"]')
    for run in report.cells("table"):
        one = make_record(run)
        epochs = [replace(e, loss=4.0 - e.epoch, lr=0.1 / 10**e.epoch) for e in one.history]
        write(replace(one, history=tuple(epochs)), results)
    panel = draw_curves(rows_of(results)).axes[0]
    assert list(panel.lines[0].get_ydata()) == [4.0, 3.0, 2.0, 1.0]
    assert [line.get_xdata()[0] for line in panel.lines[2:]] == [1.5, 2.5, 3.5]
    write(replace(one, history=tuple(replace(e, loss=-1.0) for e in epochs)), results)
    assert draw_curves(rows_of(results)).axes[-1].get_ylim()[0] < -1  # a loss below zero is seen
    for run in report.cells("table"):
        write(replace(make_record(run), history=()), results)
    assert draw_curves(rows_of(results)) is None


def test_cost_is_drawn_with_the_parents(checkout, results):
    text = TABLE.replace('["ce", "cb", "mine"]', '["ce", "child"]')
    (checkout / "table.toml").write_text(text)
    fill_with(results, seconds=7.0)
    by_run = {record.run_id: record for record in read_all(results)}
    rows = rows_of(results)
    table = report.fill("table", read_all(results))
    seconds = functools.partial(report.seconds_with_parents, runs=by_run)
    panel = draw_cost(table, rows, seconds).axes[0]
    assert [line.get_xdata()[0] for line in panel.lines] == [7.0, 14.0]
    assert panel.lines[0].get_ydata()[0] == pytest.approx(61.25)
    assert draw_cost(table, rows, lambda record: None) is None


def test_weights_of_zero_lie_on_the_axis(checkout, results):
    fill_with(results, weights=[[0, 0, 0, 0], [0, 1, 1, 2]])
    by_class, by_epoch, *_ = figures.draw_weights(rows_of(results)).axes
    assert list(by_class.lines[0].get_ydata()) == [0.01] * 4
    assert list(by_epoch.lines[0].get_ydata()) == [0.01, 0.01]
    assert list(by_epoch.lines[3].get_ydata()) == [0.01, 2.0]


def test_a_short_recipe_is_named_in_the_titles(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('"small"', '"small:short"'))
    fill_with(results)
    title = figures.draw_groups(rows_of(results)).get_suptitle()
    assert title.startswith("Digits-LT (imbalance factor 50), 2 epochs (short): mean and")


def test_one_section_of_several_has_no_overview(checkout, results):
    recipe = (checkout.parent / "small.toml").read_text()
    (checkout.parent / "large.toml").write_text(recipe.replace("= 50", "= 10"))
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "large"]'))
    for run in report.cells("table"):
        if run.recipe == "small":
            write(make_record(run), results)
    names = {path.name for path in written(results)}
    assert "table-small-groups.png" in names
    assert not names & {"table-factors.png", "table-ranks.png"}


def test_factors_and_ranks_of_a_table_over_imbalance_factors(checkout, results):
    recipe = (checkout.parent / "small.toml").read_text()
    (checkout.parent / "large.toml").write_text(recipe.replace("= 50", "= 10"))
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "large"]'))
    for run in report.cells("table"):
        better = {"ce": 0, "cb": 3, "mine": 5}[run.overlay] * (1 if run.recipe == "small" else -1)
        write(make_record(run, correct=(9, 8, 5, 5 + better)), results)
    table = report.fill("table", read_all(results))
    few, total = draw_factors(table).axes[2:]
    assert few.get_title() == "few"
    assert list(few.lines[1].get_xdata()) == [10, 50]
    assert list(few.lines[1].get_ydata()) == pytest.approx([20, 80])
    (panel,) = draw_ranks(table).axes
    assert [list(line.get_ydata()) for line in panel.lines[::2]] == [[3, 1], [2, 2], [1, 3]]
    names = {path.name for path in written(results)}
    assert {"table-factors.png", "table-ranks.png", "table-large-classes.png"} < names


def test_a_table_that_varies_a_setting_has_its_ranks_alone(checkout, results):
    vary = 'vary = ["data.subset_seed=1", "data.subset_seed=2"]'
    (checkout / "table.toml").write_text(TABLE + vary)
    fill_with(results)
    assert [p.name for p in written(results)] == ["table-ranks.png"]


def test_a_dollar_in_a_name_is_no_mathematics(checkout, results):
    text = TABLE.replace('title = "', 'title = "In $ and _$, ')
    (checkout / "table.toml").write_text(text)
    (checkout.parents[0] / "methods" / "mine.toml").rename(
        checkout.parents[0] / "methods" / "a$b_$.toml"
    )
    (checkout / "table.toml").write_text(text.replace('"mine"', '"a$b_$"'))
    fill_with(results)
    assert len(written(results)) >= 4


def test_rows_that_no_other_compares_with_are_not_drawn(checkout, results):
    """Seeds on different class counts, as of a folder that grew in between."""
    for run in report.cells("table"):
        write(make_record(run, class_counts=(200 + run.seed, 100, 20, 19)), results)
    assert not any("classes" in path.name for path in written(results))


def test_two_sections_of_one_factor_are_no_line(checkout, results):
    text = TABLE.replace('recipes = ["small"]', 'recipes = ["small", "large", "small:short"]')
    large = RECIPE.replace("= 50", "= 10")
    (checkout.parents[0] / "large.toml").write_text(large)
    (checkout / "table.toml").write_text(text)
    fill_with(results)
    assert draw_factors(report.fill("table", read_all(results))) is None
