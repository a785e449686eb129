"""Tables: from records to grids, marks and bold means."""

import re
import statistics
from dataclasses import replace

import pytest

from lt_bench import provenance
from lt_bench.config import listed_name, load
from lt_bench.errors import ConfigError
from lt_bench.record import encode_labels, write
from lt_bench.reports import report, tables
from lt_bench.reports.page import render_page
from tests.synthetic import SDN, TABLE, changed, fill_with, make_record, rows, table_frame


def test_the_grid_of_a_full_table(checkout, results):
    fill_with(results)
    grid = rows(report.write_table("table", results))
    assert grid["method"] == ["many", "medium", "few", "all", "n"]
    sd = statistics.stdev([20.0, 30.0])
    assert grid["CE"] == [
        "90.0 ± 0.0",
        "65.0 ± 0.0",
        f"25.0 ± {sd:.1f}",
        "61.3 ± 1.8",
        "2",
    ]


def test_only_a_best_mean_that_is_clear_of_the_first_row_is_bold(checkout, results):
    fill_with(results)
    for run in report.cells("table"):
        if run.overlay == "cb":  # 6 and 7 more of the last class in both seeds
            write(make_record(run, correct=(9, 8, 5, 8 + 2 * run.seed)), results)
    grid = rows(report.write_table("table", results))
    assert grid["CB (batch mean)"][2] == f"**90.0** ± {statistics.stdev([80, 100]):.1f}"
    assert grid["CE"][2].startswith("25.0")
    assert grid["CB (batch mean)"][0] == "90.0 ± 0.0"  # as good as the first: nothing to mark


def test_a_best_mean_within_its_interval_is_not_bold(checkout, results):
    fill_with(results)
    run = report.cells("table")[2]
    assert run.overlay == "cb"
    write(make_record(run, correct=(9, 8, 5, 9)), results)  # 70 more in one seed, 0 in the other
    grid, _, gains = report.write_table("table", results).partition("Difference")
    assert rows(grid)["CB (batch mean)"][2] == f"60.0 ± {statistics.stdev([90, 30]):.1f}"
    half = 12.7062 * statistics.stdev([70, 0]) / 2**0.5
    assert rows(gains)["CB (batch mean)"][2] == f"+35.0 [{35 - half:.1f}, +{35 + half:.1f}]"


def test_a_best_mean_that_is_not_clear_of_the_next_best_is_not_bold(checkout, results):
    """Both are clear of the first row."""
    for run in report.cells("table"):
        last = {"ce": 1, "cb": 9 + run.seed, "mine": 9 - run.seed}[run.overlay]
        write(make_record(run, correct=(9, 8, 5, last)), results)
    text, *gains = report.write_table("table", results).split("Difference")
    assert rows(text)["CB (batch mean)"][2].startswith("95.0 ±")
    assert rows(text)["mine"][2].startswith("85.0 ±")
    assert all("[+" in rows(gain)["CB (batch mean)"][2] for gain in gains)


def test_the_first_row_is_bold_where_the_next_best_is_clearly_worse(checkout, results):
    fill_with(results, correct=(9, 8, 5, 2))
    for run in report.cells("table"):
        if run.overlay == "ce":
            write(make_record(run, correct=(9, 8, 5, 9 + run.seed)), results)
    grid = rows(report.write_table("table", results))
    assert [cell.startswith("**") for cell in grid["CE"]] == [False, False, True, True, False]
    assert not any(cell.startswith("**") for cell in grid["mine"])


def test_a_best_mean_without_a_difference_to_the_first_row_is_not_bold(checkout, results):
    """The first row has another seed: only the lead over the next best is known, and clear."""
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0, 1, 2]"))
    for run in report.cells("table"):
        if (run.seed == 2) == (run.overlay == "ce"):
            last = {"ce": 1, "cb": 9, "mine": 2}[run.overlay]
            write(make_record(run, correct=(9, 8, 5, last)), results)
    grid = rows(report.write_table("table", results))
    (best,) = (cells for name, cells in grid.items() if name.startswith("CB"))
    assert best[2] == "90.0 ± 0.0"


def test_one_seed_is_compared_over_test_images_and_never_bold(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]"))
    fill_with(results)
    write(make_record(report.cells("table")[1], correct=(9, 8, 5, 9)), results)
    text, _, gains = report.write_table("table", results).partition("Difference")
    assert "over test images (bootstrap within classes):" in gains
    assert rows(gains)["CB (batch mean)"][2].startswith("+70.0 [+40.0, +")
    assert rows(gains)["CB (batch mean)"][0] == "0.0"  # no draw differs: no interval
    assert rows(text)["CB (batch mean)"][2] == "90.0"


def test_images_that_cannot_be_told_apart_have_no_interval(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]"))
    fill_with(results)
    run = report.cells("table")[1]
    one = make_record(run, correct=(9, 8, 5, 9))
    shuffled = encode_labels(one.test.predictions()[::-1].copy())
    write(changed(one, labels_predicted=shuffled), results)
    write(make_record(report.cells("table")[2], correct=(9, 8, 5, 7)), results)
    before, _, gains = report.write_table("table", results).partition("Difference")
    (marked,) = (name for name in rows(before) if name.startswith("CB (batch mean) ["))
    said = "no interval over test images: predicted labels and counts of right ones disagree"
    assert f"- {marked[-3:]} {said}." in before + gains
    assert "CB (batch mean)" not in rows(gains)
    assert "mine" in rows(gains)
    assert table_frame(results)["few_difference"][1] == pytest.approx(0.7)
    other = replace(one, data=replace(one.data, identity={"test": "4" * 64}))
    write(other, results)
    assert "CB (batch mean)" not in rows(
        report.write_table("table", results).partition("Difference")[2]
    )


def test_a_table_elsewhere_is_printed_whole_and_leaves_no_file(checkout, results, tmp_path):
    own = tmp_path / "my table.toml"
    own.write_text(TABLE + 'also = ["cost"]')
    begun = report.write_table(str(own), results)
    assert f"`python run.py table '{own}'` makes them" in begun
    fill_with(results)
    text = report.write_table(str(own), results)
    assert text.startswith("# A | table\n")
    assert "\n# A | table" in text
    assert "seconds with parents" in text
    assert not (results / "tables").exists()


def test_a_table_of_the_checkout_given_as_a_file_is_that_table(checkout, results, monkeypatch):
    monkeypatch.chdir(checkout)
    for name in ("table", "table.toml", str(checkout / "table.toml")):
        assert listed_name(name, "configs/tables") == "table"
    assert listed_name("../table.toml", "configs/tables") == "../table.toml"


def test_a_results_folder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"^--results: .*/typo is no folder; run train or table"):
        report.read_results(tmp_path / "typo")


def test_a_second_stage_says_which_settings_its_parent_is_without(checkout, results):
    (checkout.parent / "methods" / "child.toml").write_text(
        'parent = "ce"\nmethod = "retrain_head"\n'
    )
    table = TABLE.replace('"mine"', '"child"') + 'overrides = ["optim.lr=0.1"]'
    (checkout / "table.toml").write_text(table)
    fill_with(results)
    *_, mark = table_frame(results)["marks"]
    assert mark == "second stage, 4 epochs after the 4 of CE, which is without optim.lr=0.1"


def test_one_seed_has_no_deviation(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace("[0, 1]", "[0]"))
    fill_with(results)
    assert rows(report.write_table("table", results))["CE"][2] == "20.0"


def test_an_empty_group_is_a_dash(checkout, results):
    fill_with(results, class_counts=(200, 150, 101, 19))
    grid = rows(report.write_table("table", results))
    assert grid["CE"][1] == "–"
    frame = table_frame(results)
    assert frame["medium_n"].tolist() == [0, 0, 0]
    assert frame["medium_mean"].isna().all()


def test_class_counts_of_exactly_20_and_100_are_medium(checkout, results):
    fill_with(results, class_counts=(101, 100, 20, 19))
    text = report.write_table("table", results)
    assert (
        "many: more than 100 (1 class); medium: 20 to 100 (2 classes); "
        "few: fewer than 20 (1 class)." in text
    )
    assert rows(text)["CE"][:3] == ["90.0 ± 0.0", "65.0 ± 0.0", "25.0 ± 7.1"]


def test_thresholds_are_options_of_the_report(checkout, results):
    rule = 'report = { name = "shots", many = 99, few = 21 }'
    (checkout / "table.toml").write_text(TABLE + rule)
    fill_with(results, class_counts=(101, 100, 20, 19))
    text = report.write_table("table", results)
    assert "many: more than 99 (2 classes); medium: 21 to 99 (0 classes)" in text
    assert rows(text)["CE"][:2] == ["85.0 ± 0.0", "–"]


def test_one_seed_is_not_bold_among_rows_of_several(checkout, results):
    for run in report.cells("table"):
        last = {"ce": 2, "cb": 9 + run.seed, "mine": 10}[run.overlay]
        if (run.overlay, run.seed) != ("mine", 1):
            write(make_record(run, correct=(9, 8, 5, last)), results)
    text = report.write_table("table", results)
    assert rows(text)["mine [a]"][2] == "100.0"
    seeds, images = text.split("Difference to CE, paired by seed, with its 95 % interval over ")[1:]
    assert seeds.startswith("seeds (Student's t, where they differ):")
    assert "mine" not in rows(seeds)
    assert rows(seeds)["CB (batch mean)"][2:] == [
        "+75.0 [+11.5, +138.5]",
        "+18.8 [+2.9, +34.6]",
        "2",
    ]
    assert images.startswith("test images (bootstrap within classes):")
    assert rows(images)["mine"][4] == "1"
    assert rows(images)["CB (batch mean)"][4] == "2"
    (results / "runs" / report.cells("table")[4].run_id / "record.json").unlink()
    assert rows(report.write_table("table", results))["CB (batch mean)"][2].startswith("**95.0**")


def test_two_seeds_beside_one_are_not_bold(checkout, results):
    """One pair has no interval over seeds, whatever the means of two and one are."""
    for run in report.cells("table"):
        if run.overlay != "mine" and (run.overlay, run.seed) != ("ce", 1):
            last = 9 + run.seed if run.overlay == "cb" else 2
            write(make_record(run, correct=(9, 8, 5, last)), results)
    for kind in ("shots", "spread"):
        (checkout / "table.toml").write_text(f'{TABLE}report = "{kind}"')
        text = report.write_table("table", results)
        assert rows(text)["CE [a]"][-1] == "1"
        assert rows(text)["CB (batch mean)"][-1] == "2"
        assert "**" not in text


def test_seeds_of_different_commits_and_second_stages_are_marked(checkout, results):
    (checkout.parent / "methods" / "child.toml").write_text(
        'parent = "ce"\nmethod = "retrain_head"\n[optim]\nepochs = 1'
    )
    (checkout / "table.toml").write_text(TABLE.replace('"mine"', '"child"'))
    for run in report.cells("table"):
        one = make_record(run)
        commit = "b" * 40 if (run.overlay, run.seed) == ("cb", 1) else "a" * 40
        settled = {"tau": 0.5} if run.overlay == "child" else {}
        environment = {**one.environment, "commit": commit}
        write(replace(one, environment=environment, settled=settled), results)
    marks = table_frame(results)["marks"]
    assert marks.tolist() == [
        "",
        "runs of different versions of the code: aaaaaaaa, bbbbbbbb",
        "second stage, 1 epochs after the 4 of CE, tau = 0.5",
    ]
    text = report.write_table("table", results)
    assert "Code: aaaaaaaa, bbbbbbbb." in text
    assert "4 epochs, the last one reported" in text
    parent = report.cells("table")[0]
    write(make_record(parent, dirty=True), results)
    marks = table_frame(results)["marks"]
    assert [mark.startswith("made with uncommitted") for mark in marks] == [True, False, True]


def test_means_that_are_all_equal_are_not_bold(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'report = "spread"')
    fill_with(results, correct=(9, 8, 5, 0))
    assert "**" not in report.write_table("table", results)


def test_a_missing_cell_shows_its_command(checkout, results):
    also = 'overrides = ["optim.lr=0.1"]\nalso = ["spread"]'
    (checkout / "table.toml").write_text(TABLE + also)
    run = report.cells("table")[0]
    write(make_record(run), results)
    text = report.write_table("table", results)
    assert rows(text)["CE [a]"][:2] == ["90.0", "65.0"]
    assert "- [a] 1 of 2 seeds." in text
    assert "CB (batch mean)" not in rows(text)
    told = "5 of 6 runs are missing; `python run.py table table` makes them"
    assert f"{told}, or row by row:" in text
    assert f"{told}.\n" in (results / "tables" / "table-spread.md").read_text()
    assert "Every run with `optim.lr=0.1`." in text
    assert "Every run with optim.lr=0.1. " in (results / "tables" / "table.tex").read_text()
    page = render_page(report.read_results(results))
    assert "<p>Every run with optim.lr=0.1.</p>" in page
    assert (
        "\n".join(
            [
                "```",
                "python run.py train small ce optim.lr=0.1 --seeds 1",
                "python run.py train small cb optim.lr=0.1 --seeds 0 1",
                "python run.py train small mine optim.lr=0.1 --seeds 0 1",
                "```",
            ]
        )
        in text
    )
    assert report.missing("table", results) == report.cells("table")[1:]


def test_a_table_without_records_is_all_missing(checkout, results):
    text = report.write_table("table", results)
    assert "## Missing\n\n6 of 6 runs are missing" in text
    assert rows(text) == {}
    assert report.missing("table", results) == report.cells("table")
    assert not (results / "tables").exists()


def test_a_table_begun_shows_what_there_is(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "small:short"]'))
    for run in report.cells("table"):
        if run.recipe == "small" and run.overlay != "cb" and run.seed == 0:
            write(make_record(run), results)
    text = report.write_table("table", results)
    assert text.count("## Digits-LT") == 1
    assert "All rows: 1 of 2 seeds." in text
    assert set(rows(text.partition("## Missing")[0])) >= {"CE", "mine"}
    assert "## Across" not in text
    assert "10 of 12 runs are missing" in text
    assert r"\label{tab:table-small}" in (results / "tables" / "table.tex").read_text()


def test_ranks_are_of_the_methods_that_every_section_has(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "small:short"]'))
    for run in report.cells("table"):
        better = {"ce": 0, "cb": 1, "mine": 5}[run.overlay]
        if (run.recipe, run.overlay) != ("small:short", "mine"):
            write(make_record(run, correct=(9, 8, 5, 2 + better)), results)
    across = rows(report.write_table("table", results).partition("## Across")[2])
    assert across["CE"] == ["60.0", "60.0", "2.0"]
    assert across["CB (batch mean)"] == ["62.5", "62.5", "1.0"]
    assert across["mine"] == ["72.5", "–", "–"]


def test_parents_come_before_their_children(checkout, results):
    methods = TABLE.replace('["ce", "cb", "mine"]', '["child", "ce"]')
    (checkout / "table.toml").write_text(methods)
    runs = report.cells("table")
    assert [(run.overlay, run.seed) for run in runs] == [
        ("ce", 0),
        ("child", 0),
        ("ce", 1),
        ("child", 1),
    ]
    (checkout / "table.toml").write_text(methods.replace('"child", "ce"', '"child"'))
    assert report.cells("table") == runs
    assert "python run.py train small ce --seeds 0 1\npython run.py train small child" in (
        report.write_table("table", results)
    )


def test_rows_that_do_not_compare_are_marked(checkout, results):
    ce, other_ce, cb, _, mine, _ = report.cells("table")
    fill_with(results)
    write(make_record(ce, dirty=True), results)
    write(make_record(other_ce, compiled=True), results)
    write(make_record(cb, precision="fp32"), results)
    other = make_record(mine)
    write(replace(other, data=replace(other.data, identity={"train": "3" * 64})), results)
    text = report.write_table("table", results)
    assert {"CE [a] [b] [c]", "CB (batch mean) [d]", "mine [e]"} < set(rows(text))
    assert "- [a] made with uncommitted changes to the code." in text
    assert "- [b] computed in bf16 and in compiled bf16; most runs here in bf16." in text
    assert "- [c] runs of different versions of the code: 00000000, 00000000 (changed)." in text
    assert "- [d] computed in bf16 and in fp32; most runs here in bf16." in text
    assert "- [e] other images than the rows around it" in text


def test_uncommitted_states_of_the_code_are_told_apart(checkout, results):
    ce, other_ce, cb, other_cb, *_ = report.cells("table")
    here, other = provenance.code_digest(), "beef" * 4
    write(make_record(ce, dirty=True, code=here), results)
    write(make_record(other_ce, dirty=True, code=other), results)
    write(make_record(cb, code=other), results)  # committed: the table names its commit
    write(make_record(other_cb, dirty=True), results)  # of before records said which code
    assert report.stale("table", results) == [other_ce]
    text = report.write_table("table", results)
    both = f"00000000 (changed: beefbeef), 00000000 (changed: {here[:8]})"
    assert f"runs of different versions of the code: {', '.join(sorted(both.split(', ')))}" in text


def test_runs_on_several_ranks_are_marked(checkout, results):
    """Their batch norms and losses of a whole batch see a share of it: it is another training."""
    fill_with(results)
    run = report.cells("table")[0]
    one = make_record(run)
    write(replace(one, environment={**one.environment, "ranks": 8}), results)
    text = report.write_table("table", results)
    assert "computed in bf16 and in bf16 on 8 ranks; most runs here in bf16." in text


def test_a_mark_that_all_rows_share_stands_above_them(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('"small"', '"small:short"'))
    fill_with(results, commit=None, dirty=None)
    text = report.write_table("table", results)
    assert (
        "All rows: made outside a git checkout: the code's version is not known; "
        "short recipe: 2 epochs, the full one has 4." in text
    )
    assert "CE" in rows(text)
    frame = table_frame(results)
    assert frame["marks"].str.contains("short recipe").all()


@pytest.mark.parametrize(
    ("recipe", "overrides", "full"),
    [
        ("cifar100_lt:short", (), 200),
        ("cifar100_lt:eql:short", (), 337),
        ("cifar100_lt:eql", ("optim.epochs=250",), 337),
        ("cifar100_lt:eql", (), None),
        ("inat2018:epochs200", (), None),
    ],
)
def test_the_full_length_is_that_of_the_variants(recipe, overrides, full):
    config = load(recipe, "ce", overrides)
    assert (tables.shortened(config) is None) == (full is None)
    assert full in (None, tables._full_epochs(config))


def test_a_run_of_full_length_is_not_marked_short(checkout, results):
    fill_with(results)
    assert "short" not in report.write_table("table", results)


def test_the_heading_says_what_was_run(checkout, results):
    fill_with(results, device="cpu, 2 threads", cpu="A|CPU", precision="fp32")
    text = report.write_table("table", results)
    assert "## Digits-LT (imbalance factor 50), recipe `small`" in text
    assert (
        "4 epochs, the last one reported; batch 128, learning rate 0.05, augmentation: none."
        in text
    )
    assert "339 training images, 40 in the test split." in text
    assert "Ran on A\\|CPU (cpu, 2 threads), fp32." in text


def test_sdn_rows_name_both_objectives(checkout, results):
    (checkout / "methods").mkdir(exist_ok=True)
    two = TABLE.replace('["ce", "cb", "mine"]', '["sdn_recall", "sdn_again"]')
    (checkout / "table.toml").write_text(two)
    (checkout.parent / "methods" / "sdn_again.toml").write_text(SDN + "beta = 0.9")
    with pytest.raises(ConfigError, match="objective.beta: no such field"):
        report.cells("table")
    (checkout.parent / "methods" / "sdn_again.toml").write_text(SDN + "reduction = 'mean'")
    fill_with(results)
    names = set(rows(report.write_table("table", results)))
    # two overlays of one name are told apart
    assert "SDN (rep: recall, cls: CB) (sdn_recall)" in names
    assert "SDN (rep: recall, cls: CB) (sdn_again)" in names


def test_recipes_have_a_section_each(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["small"]', '["small", "small:short"]'))
    fill_with(results)
    text = report.write_table("table", results)
    assert text.count("## Digits-LT") == 2
    frame = table_frame(results)
    assert frame["section"].tolist() == ["small"] * 3 + ["small:short"] * 3


def test_a_table_varies_a_setting_in_sections(checkout, results):
    vary = 'vary = ["data.subset_seed=1", "data.subset_seed=2", "data.subset_seed=3"]'
    (checkout / "table.toml").write_text(TABLE + vary)
    for run in report.cells("table"):
        subset = run.data.options["subset_seed"]
        better = 2 if run.overlay == "cb" else 0
        write(make_record(run, correct=(9, 8, 5 + subset, 2 + run.seed + better)), results)
    text = report.write_table("table", results)
    assert "recipe `small` with `data.subset_seed=1`" in text
    across = rows(text.partition("## Across")[2])
    seeds = 2.5 * 2**0.5 / 2  # of 1 image in 40 between two seeds
    assert across["CE"][:2] + across["CE"][3:5] == ["63.7", "66.3", "2.5", f"{seeds:.1f}"]
    # of the means of two seeds, without the seeds' share
    assert float(across["CE"][5]) == pytest.approx((2.5**2 - seeds**2 / 2) ** 0.5, abs=0.06)
    assert across["CB (batch mean)"][:2] + across["CB (batch mean)"][3:4] == ["68.8", "71.2", "1.0"]
    captions = re.findall(r"\\caption{.*", (results / "tables" / "table.tex").read_text())
    for seed, caption in enumerate(captions, start=1):
        assert rf", data.subset\_seed={seed}. " in caption
    assert len(captions) == 3
    one = next(run for run in report.cells("table") if run.overlay == "ce")
    (results / "runs" / one.run_id / "record.json").unlink()
    across = rows(report.write_table("table", results).partition("## Across")[2])
    assert across["CE"][:2] == ["65.0 (n = 1)", "66.3 (n = 2)"]
    assert across["CB (batch mean)"][:1] == ["68.8"]
    (checkout / "table.toml").write_text(TABLE + 'vary = ["optim.lr=0.1", "optim.lr=0.2"]')
    fill_with(results)
    assert "sd over" not in report.write_table("table", results)  # no draws of one thing
    (checkout / "table.toml").write_text(TABLE + 'vary = ["seed=1"]')
    with pytest.raises(ConfigError, match="vary: 'seed=1' has no effect; write it in seeds"):
        report.cells("table")


def test_further_reports_of_the_same_runs_are_tables_of_their_own(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'also = ["spread", "cost"]')
    fill_with(results)
    names = {path.name for path in report.report(report.read_results(results))}
    assert {"table.md", "table-spread.md", "table-cost.csv", "table-spread.tex"} < names
    assert report.check(report.read_results(results)) == []
    (results / "tables" / "table-spread.md").unlink()
    assert len(report.check(report.read_results(results))) == 1


def test_a_child_of_a_short_parent_is_marked_short(checkout, results):
    child = TABLE.replace('["ce", "cb", "mine"]', '["child"]').replace('"small"', '"small:short"')
    (checkout.parent / "methods" / "child.toml").write_text(
        'parent = "ce"\nmethod = "retrain_head"\n[optim]\nepochs = 1'
    )
    (checkout / "table.toml").write_text(child)
    fill_with(results)
    marks = table_frame(results)["marks"]
    assert marks.tolist() == [
        "second stage, 1 epochs after the 2 of CE; short recipe: 2 epochs, the full one has 4"
    ]
