"""The page: what it holds, that it drifts with its records, and how it behaves in a browser."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from lt_bench.errors import DataError
from lt_bench.record import write
from lt_bench.reports import figures, report
from lt_bench.reports.page import check_page, render_page, write_page
from lt_bench.reports.pictures import _in_few_colours, check_figures
from tests.synthetic import TABLE, fill_with, make_record

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["quic", "background-networking", "component-update", "sync", "gpu", "default-apps"]
EVIL = 'a"<img src=x onerror=alert(1)>'


class Parsed(HTMLParser):
    """Every tag with its attributes, and whether tags close in order."""

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, page):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, name, attribute):
        return [given[attribute] for tag, given in self.tags if tag == name and attribute in given]


@pytest.fixture
def page(checkout, results):
    """A page of two tables: three methods on two recipes, one of them on another dataset's name."""
    (checkout / "table.toml").write_text(TABLE + 'also = ["spread", "calibration"]')
    other = TABLE.replace("A | table", "Another").replace('"small"', '"large"')
    (checkout / "other.toml").write_text(other)
    recipe = (checkout.parent / "small.toml").read_text()
    (checkout.parent / "large.toml").write_text(recipe.replace("= 50", "= 10"))
    for run in report.cells("table"):
        last = {"ce": 2, "cb": 8, "mine": 5}[run.overlay] + run.seed
        write(make_record(run, correct=(9, 8, 5, last)), results)
    fill_with(results, name="other")
    figures.write_all(report.read_results(results))
    return write_page(report.read_results(results))


def test_the_page_is_whole_and_fetches_nothing(page):
    text = page.read_text()
    parsed = Parsed(text)
    assert not re.search(r"https?://", text)
    assert all(src.startswith("data:image/webp;base64,") for src in parsed.all("img", "src"))
    assert len(parsed.all("img", "src")) == 10
    assert not parsed.all("script", "src")
    (policy,) = [content for content in parsed.all("meta", "content") if "default-src" in content]
    assert policy.startswith("default-src 'none'")
    assert page.stat().st_size < 2 * 2**20


def test_a_large_table_links_to_its_panels(page, checkout, results, monkeypatch):
    kinds = ("classes", "curves", "reliability")
    monkeypatch.setattr("lt_bench.reports.pictures.MOST_ROWS", dict.fromkeys(kinds, 2))
    parsed = Parsed(render_page(report.read_results(results)))
    assert len(parsed.all("img", "src")) == 4
    links = [link for link in parsed.all("a", "href") if link.startswith("figures/")]
    assert sorted(links) == [f"figures/{t}-{k}.png" for t in ("other", "table") for k in kinds]
    assert all((results / link).exists() for link in links)


def test_every_score_leads_to_its_records_and_its_command(page, results):
    parsed = Parsed(page.read_text())
    opened = set(parsed.all("button", "popovertarget"))
    assert opened == {given["id"] for tag, given in parsed.tags if "popover" in given}
    links = {link for link in parsed.all("a", "href") if link.startswith("runs/")}
    assert links == {f"runs/{run.run_id}/record.json" for run in report.cells("table")} | {
        f"runs/{run.run_id}/record.json" for run in report.cells("other")
    }
    assert all((results / link).exists() for link in links)
    made = "python run.py train small cb --seeds 0 1 --precision bf16 --results mine</code>"
    assert made in page.read_text()


def test_a_second_stage_is_shown_with_its_parents_command(checkout, results):
    (checkout / "table.toml").write_text(TABLE.replace('["ce", "cb", "mine"]', '["child"]'))
    fill_with(results)
    seeds = "--seeds 0 1 --precision bf16 --results mine"
    first, second = (f"python run.py train small {name} {seeds}" for name in ("ce", "child"))
    assert f">{first}\n{second}</code>" in render_page(report.read_results(results))


def test_seeds_that_were_computed_otherwise_have_a_command_of_their_own(checkout, results):
    fill_with(results)
    one = make_record(report.cells("table")[0])
    machine = {**one.environment, "precision": "fp32", "compiled": True}
    write(replace(one, environment=machine), results)
    text = render_page(report.read_results(results))
    commands = (
        "python run.py train small ce --seeds 0 --precision fp32 --compile --results mine",
        "python run.py train small ce --seeds 1 --precision bf16 --results mine",
    )
    assert f">{chr(10).join(commands)}</code>" in text
    assert "<td>compiled fp32</td>" in text


def test_scores_of_the_same_name_say_of_which_report_they_are(checkout, results):
    (checkout / "table.toml").write_text(TABLE + 'report = "validation"\nalso = ["shots"]')
    fill_with(results, val=(9, 8, 7, 6))
    page = render_page(report.read_results(results))
    heads = re.search(r"<div popover.*?</thead>", page, re.DOTALL)[0]
    for head in ("few (validation)", "few (shots)", "all (validation)", "all (shots)"):
        assert heads.count(f">{head}<") == 1


def test_a_picture_keeps_the_colours_of_its_areas():
    image = Image.new("RGB", (200, 100), "white")
    colours = [(0, 158, 115), (0, 114, 178), (213, 94, 0)]
    for place, colour in enumerate(colours):
        image.paste(colour, (10 * place, 0, 10 * place + 9, 9))
    for shade in range(100):  # a gradient, which takes most of the colours there are
        image.paste((shade, shade, 2 * shade), (50 + shade, 20, 51 + shade, 100))
    few = _in_few_colours(image)
    assert [few.getpixel((10 * place, 5)) for place in range(3)] == colours
    assert len(few.getcolors()) <= 24


def test_links_and_labels_name_what_is_there(page):
    parsed = Parsed(page.read_text())
    ids = [given["id"] for _, given in parsed.tags if "id" in given]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in parsed.all("a", "href") if link[0] == "#"} <= set(ids)
    assert set(parsed.all("button", "data-from")) <= set(ids)
    assert all(parsed.all("img", "alt"))


def test_latex_and_csv_of_a_table_are_on_the_page(page, results):
    text = html.unescape(page.read_text())
    report.report(report.read_results(results))
    for name in ("table.tex", "table.csv", "table-spread.tex", "other.csv"):
        assert (results / "tables" / name).read_text() in text


def test_names_are_escaped(checkout, results):
    (checkout.parent / "methods" / "<b>&amp.toml").write_text("")
    text = TABLE.replace('"mine"', '"<b>&amp"').replace('"A | table"', f"'{EVIL}'")
    (checkout / "table.toml").write_text(text + "note = '</script><script>alert(1)</script>'")
    fill_with(results, device="</td><script>alert(2)</script>")
    page = render_page(report.read_results(results))
    parsed = Parsed(page)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert not [tag for tag, _ in parsed.tags if tag in ("b", "img")]
    assert EVIL in html.unescape(page)


def test_the_page_drifts_with_one_number(page, results):
    assert check_page(report.read_results(results)) == []
    page.write_text(page.read_text().replace("65.0", "65.1", 1))
    (drift,) = check_page(report.read_results(results))
    assert drift.startswith(f"{page}: differs from its records; run python run.py report")
    page.unlink()
    assert "missing" in check_page(report.read_results(results))[0]


def test_without_records_there_is_no_page_to_miss(checkout, results):
    results.mkdir()
    assert check_page(report.read_results(results)) == []


def test_the_committed_page_follows_from_committed_records(committed):
    assert check_page(committed) + check_figures(committed) == []


SCRIPT = r"""
<script>
const one = (selector, from = document) => from.querySelector(selector);
const rows = (table) => all("tbody tr", table).filter((row) => !row.hidden)
  .map((row) => row.cells[0].firstChild.textContent);
const visible = (selector) => all(selector).filter((x) => x.getClientRects().length > 0);
const table = one("#table table.scores"), found = {};
const head = (text) => all("thead button", table).find((button) => button.textContent === text);
found.order = rows(table);
head("few").click(); found.falling = rows(table); found.sorted = head("few").closest("th").ariaSort;
head("few").click(); found.rising = rows(table);
head("method").click(); found.names = rows(table);
head("method").click(); head("method").click(); found.again = rows(table);
const set = (name, value) => {
  one("#filters").elements[name].value = value;
  one("#filters").dispatchEvent(new Event("input"));
};
found.stops = [...table.tBodies[0].rows].map((row) =>
  all("button.cell", row).filter((x) => x.tabIndex === 0).length);
const error = all("#table-calibration thead button").find((x) => x.textContent === "ECE");
error.click(); found.error = error.closest("th").ariaSort;
found.said = one("output").textContent;
set("words", "no such method"); found.nothing = visible("#nothing").length;
one('nav a[href="#table"]').click(); found.back = visible("article").length;
set("method", "CB (batch mean)"); found.method = rows(table);
found.saidMethod = one("output").textContent;
set("method", ""); set("words", "c b"); found.words = rows(table); set("words", "");
set("group", "few");
found.heads = visible("#table table.scores thead th").map((x) => x.textContent);
found.articles = visible("article").map((x) => x.id);
set("group", "");
set("dataset", "Digits-LT (imbalance factor 10)");
found.dataset = visible("article").map((x) => x.id);
one("#filters").reset();
setTimeout(() => {
  found.reset = visible("article").map((x) => x.id);
  const runs = one("#table td button.cell").getAttribute("popovertarget");
  location.hash = "#" + runs; open();
  found.address = document.getElementById(runs).matches(":popover-open");
  document.getElementById(runs).hidePopover();
  one("#table td button.cell").click();
  found.open = all("[popover]").filter((x) => x.matches(":popover-open"))
    .map((x) => x.querySelector("code").textContent);
  found.widths = [document.documentElement.scrollWidth, innerWidth];
  document.title = JSON.stringify(found);
}, 50);
</script>
"""


@pytest.fixture
def found(page, tmp_path, request):
    """What the script saw in a headless browser, at a phone's width or a desktop's."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: sorting and filtering are not driven")
    driven = tmp_path / "driven.html"
    driven.write_text(page.read_text().replace("</body>", SCRIPT + "</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", "--enable-logging=stderr"]
    command += [f"--disable-{name}" for name in QUIET]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={request.param},900"]
    command += ["--virtual-time-budget=2000", "--dump-dom", driven.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in ran.stderr
    title = re.search(r"<title>(.*?)</title>", ran.stdout, re.DOTALL)
    return json.loads(html.unescape(title[1]))


@pytest.mark.parametrize("found", [1280, 500], indirect=True)
def test_sorting_and_filtering_in_a_browser(found):
    assert found["order"] == found["again"] == ["CE", "CB (batch mean)", "mine"]
    assert found["falling"] == ["CB (batch mean)", "mine", "CE"]
    assert found["sorted"] == "descending"
    assert found["rising"] == ["CE", "mine", "CB (batch mean)"]
    assert found["names"] == ["CB (batch mean)", "CE", "mine"]
    assert found["stops"] == [1, 1, 1]
    assert found["error"] == "ascending"  # of an error the smallest is the best
    assert found["nothing"] == 1
    assert found["back"] == 4
    assert found["address"]
    assert found["said"] == "12 rows shown"
    assert found["method"] == ["CB (batch mean)"]
    assert found["saidMethod"] == "4 rows shown"
    assert found["words"] == ["CB (batch mean)"]
    assert found["heads"] == ["method", "few", "n"]
    assert found["articles"] == ["other", "table"]
    assert found["dataset"] == ["other"]
    assert found["reset"] == ["other", "table", "table-spread", "table-calibration"]
    (command,) = found["open"]
    assert command.startswith("python run.py train small ce --seeds 0 1 ")
    page_width, window_width = found["widths"]
    assert page_width <= window_width  # nothing but the tables scrolls sideways


def test_a_figure_of_other_numbers_or_of_another_kind_is_found(page, checkout, results):
    figures = results / "figures"
    assert check_figures(report.read_results(results)) == []
    groups, classes = (figures / f"table-{kind}.png" for kind in ("groups", "classes"))
    kept = groups.read_bytes()
    groups.write_bytes(classes.read_bytes())  # a wrong picture under a right name
    (figures / "gone-groups.png").write_bytes(kept)
    wrong, stray = sorted(check_figures(report.read_results(results)), reverse=True)
    assert wrong.startswith(f"{groups}: of another figure or another state of its table; run ")
    assert stray == f"{figures}/gone-groups.png: no table with records draws it; delete it"
    groups.write_bytes(kept)
    (figures / "gone-groups.png").unlink()
    write(make_record(report.cells("table")[0], correct=(9, 8, 5, 3)), results)
    drifted = check_figures(report.read_results(results))
    assert len(drifted) == len(list(figures.glob("table-*.png"))) > 0


def test_a_figure_stands_at_its_own_table(checkout, results):
    (checkout / "table-long.toml").write_text(TABLE.replace('title = "', 'title = "Long '))
    fill_with(results)
    found = report.read_results(results)
    figures.write_all(found)
    assert render_page(found).count('alt="Accuracy of the shot groups') == 2


def test_a_damaged_figure_is_said(page, results):
    path = results / "figures" / "table-groups.png"
    path.write_bytes(b"")
    found = report.read_results(results)
    assert f"{path}: not readable as an image; {found.remedy}" in check_figures(found)
    with pytest.raises(DataError, match="not readable as an image"):
        render_page(found)
