"""The page holds the table's numbers, needs nothing from outside, and runs no script but its own."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from gannorm.report.compare import Comparison, analyse, compare
from gannorm.report.coupling_figure import COUPLING
from gannorm.report.figures import figures
from gannorm.report.plots import COLOURS
from gannorm.report.report import page as page_of
from gannorm.rundir import RunDir, find_runs

MakeRun = Callable[..., RunDir]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIGURES = (
    "composition_curve",
    "auc_over_training",
    "accuracy",
    "coupling",
    "scores",
    "conflict_against_score",
)
TRAIN = "batch_dependence/train/"


class Page(HTMLParser):
    """The elements of a page, and the rows of its tables as lists of (text, values) a cell."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[tuple[str, list[float]]]]] = {}
        self._caption, self._text = "", ""
        self._values: list[float] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag in ("caption", "th", "td"):
            self._text, self._values = "", []
        elif tag == "tr" and self._caption:
            self.tables[self._caption].append([])
        elif tag == "data":
            self._values.append(float(dict(attributes)["value"] or "nan"))

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "caption":
            self._caption = self._text
            self.tables[self._caption] = []
        elif tag in ("th", "td"):
            self.tables[self._caption][-1].append((self._text, self._values))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="session")
def page(compared: tuple[Comparison, Path]) -> Page:
    return Page((compared[1] / "index.html").read_text())


def records(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_every_row_of_the_csv_is_in_the_page_with_its_value(compared: tuple[Comparison, Path], page: Page) -> None:
    written = records(compared[1] / "table.csv")
    shown = page.tables["Every quantity, as in table.csv"][1:]
    assert len(shown) == len(written)
    for line, cells in zip(written, shown, strict=True):
        assert cells[1][0] == line["condition"]
        assert cells[2][1] == [float(line["mean"])]
        assert cells[4][1] == ([float(line["difference"])] if line["difference"] else [])
        assert cells[5][0].startswith(line["verdict"])


def test_the_two_leading_tables_hold_values_of_the_csv(compared: tuple[Comparison, Path], page: Page) -> None:
    _, output = compared
    written = {(r["condition"], r["quantity"]): r for r in records(output / "table.csv")}
    dependence = page.tables["Batch dependence of the discriminator in train mode"]
    names = ("auc_pure", "auc_pure_training", "auc_mixed", "auc_conflict")
    for condition, cells in zip(("batch", "group"), dependence[1:], strict=True):
        assert [cell[1] for cell in cells[2:6]] == [[float(written[condition, TRAIN + n]["mean"])] for n in names]
        assert cells[1][0] == {"batch": "judges batches", "group": "judges images"}[condition]
    scores = page.tables["Scores of the generator"]
    assert scores[2][2][1] == [float(written["group", "inception_score/final"]["mean"])]
    assert scores[2][3][1] == [float(written["group", "inception_score/final"]["percent"])]


def test_headline_and_findings_are_the_comparisons(compared: tuple[Comparison, Path], page: Page) -> None:
    assert f"<h1>{compared[0].headline}</h1>" in page.source
    assert all(finding.split("'")[0] in page.source for finding in compared[0].findings)


def test_every_figure_is_in_the_page_and_a_file_with_its_data(compared: tuple[Comparison, Path], page: Page) -> None:
    _, output = compared
    for name in FIGURES:
        assert f'class="plot {name}"' in page.source
        with Image.open(output / "figures" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5  # grey levels; a blank figure has 0
        lines = records(output / "figures" / f"{name}.csv")
        assert lines and all(None not in line and None not in line.values() for line in lines)  # no ragged line
    curve = records(output / "figures" / "composition_curve.csv")
    pure = compared[0].row("batch", TRAIN + "auc_pure")
    assert pure is not None and float(curve[0]["mean"]) == pure.estimate.mean
    assert [float(line["share_of_others"]) for line in curve[:5]] == [1, 47 / 63, 31 / 63, 15 / 63, 3 / 63]
    assert page.source.index('class="plot composition_curve"') < page.source.index("<table>")  # it opens the page


def test_coupling_data_are_the_probes_matrix(compared: tuple[Comparison, Path]) -> None:
    comparison, output = compared
    with np.load(next(iter(comparison.conditions[0].runs[0].directory.probes().values()))) as arrays:
        expected = arrays["coupling_train"]
    lines = [r for r in records(output / "figures" / "coupling.csv") if r["condition"] == "batch"]
    matrix = np.zeros_like(expected)
    for line in lines:
        matrix[int(line["i"]), int(line["j"])] = float(line["coupling"])
    assert np.array_equal(matrix, expected)


# -- safety and self-containment --------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_from_outside(page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            if value is None:
                continue
            local = re.fullmatch(r"figures/\w+\.(png|csv)|(table|runs)\.(csv|json)", value) if tag == "a" else None
            assert local or value.startswith("data:"), (tag, value[:60])
    assert "@import" not in page.source and "url(" not in page.source


def test_the_policy_allows_the_pages_script_and_no_other(page: Page) -> None:
    (policy,) = (a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["script-src"] == f"'sha256-{own}'"
    assert rules["default-src"] == "'none'"


def test_hostile_names_stay_text(make_run: MakeRun, tmp_path: Path) -> None:
    hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>${headline}$\\frac{"
    runs = [make_run("batch", 0), make_run(hostile, 0, name="x"), make_run("group", 0, name="<svg onload=alert(1)>")]
    runs[1].add_scores({"step": 1, "fid": 1.0, "protocol": {hostile: hostile}})
    runs.append(make_run("group", 1))
    runs[-1].set_status("failed", 3, hostile)
    compare(runs, tmp_path / "report")
    page = Page((tmp_path / "report" / "index.html").read_text())
    assert len(page.named("script")) == 1
    assert not page.named("svg")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page.source  # it is shown, as text
    for attributes in page.named("img"):
        kind, _, data = (attributes["src"] or "").partition(";base64,")
        if kind == "data:image/svg+xml":
            figure = Page(base64.b64decode(data).decode())
            assert figure.named("text") and not figure.named("script") and not figure.named("img")
            assert not any(name.startswith("on") for _, attributes in figure.elements for name in attributes)


def test_every_picture_has_words(page: Page) -> None:
    pictures = page.named("img")
    assert len(pictures) >= 10
    assert all(len(attributes["alt"] or "") > 10 for attributes in pictures)


# -- classifiers ------------------------------------------------------------------------------------------------------


def test_the_page_of_classifiers_tells_their_accuracy_and_nothing_of_gans(
    make_classifier: MakeRun, tmp_path: Path
) -> None:
    for seed in range(3):
        make_classifier("batch", seed, [0.1, 0.99, 0.90 + 0.01 * seed])
        make_classifier("group", seed, [0.1, 0.50, 0.70 + 0.01 * seed])
    comparison = compare(find_runs([str(tmp_path / "study")]), tmp_path / "report")
    assert comparison.headline == "Accuracy on held-out images: BatchNorm 0.91; GroupNorm 0.71, worse."
    assert comparison.findings == [
        "Accuracy on held-out images, 0.91 with BatchNorm: 0.71 with GroupNorm, −0.20 (−0.20 to −0.20), worse (3 "
        "paired seeds)."
    ]
    page = Page((tmp_path / "report/index.html").read_text())
    words = re.sub(r"<style>.*?</style>|<script>.*?</script>|data:[^\"]*|<[^>]*>", " ", page.source, flags=re.DOTALL)
    words_of_gans = re.findall(
        r"(?i)discriminator|generat|\bfakes?\b|\bGANs?\b|coupling|probe|samples|scores\b|\bD\b", words
    )
    assert words_of_gans == []
    batch, group = page.tables["Accuracy of the classifiers"][1:]
    assert [cell[1] for cell in group[2:4]] == [[pytest.approx(0.71)], [pytest.approx(-0.20)]]
    assert batch[5][1] == [pytest.approx(0.99)] and batch[6][1] == [pytest.approx((0.545 + 0.95) / 2)]
    for name in ("test_accuracy_summary", "test_accuracy"):
        assert f'class="plot {name}"' in page.source
        assert (tmp_path / f"report/figures/{name}.png").stat().st_size > 5000
    at_10, at_20 = (r for r in records(tmp_path / "report/figures/test_accuracy.csv")[4:] if r["step"] in ("10", "20"))
    assert (float(at_10["low"]), float(at_10["high"])) == (0.5, 0.5)
    row = comparison.row("group", "test/accuracy/final")
    assert row is not None
    assert (float(at_20["low"]), float(at_20["high"])) == (row.estimate.low, row.estimate.high)


def test_classifiers_without_a_test_or_with_one_seed_still_get_a_page(make_classifier: MakeRun, tmp_path: Path) -> None:
    one = [make_classifier("batch", 0, [0.91]), make_classifier("group", 0, [0.87])]
    assert analyse(one).headline == "Accuracy on held-out images: BatchNorm 0.91; GroupNorm 0.87."
    comparison = compare([make_classifier("none", 0, [])], tmp_path / "report")
    assert comparison.headline == "Accuracy on held-out images: no finished run was tested."
    assert "<img" not in (tmp_path / "report/index.html").read_text()


def test_more_classifiers_than_colours_of_which_some_were_never_tested(
    make_classifier: MakeRun, tmp_path: Path
) -> None:
    runs = [make_classifier("batch", 0, [] if i < 5 else [0.5 + i / 100], 0.01 * i) for i in range(1, 13)]
    compare(runs, tmp_path / "report")
    assert (tmp_path / "report/index.html").is_file()


def test_crossed_classifiers_have_the_question_and_the_table(make_classifier: MakeRun, tmp_path: Path) -> None:
    accuracies = {("batch", 0.1): 0.8, ("batch", 1.0): 0.95, ("none", 0.1): 0.6, ("none", 1.0): 0.3}
    for (norm, rate), accuracy in accuracies.items():
        for seed in range(2):
            make_classifier(norm, seed, [accuracy + 0.001 * seed], rate)
    comparison = compare(find_runs([str(tmp_path / "study")]), tmp_path / "report", question="Is a larger rate better?")
    assert comparison.headline == "" and comparison.findings == []
    page = Page((tmp_path / "report/index.html").read_text())
    assert "<h1>Is a larger rate better?</h1>" in page.source
    (table,) = (rows for caption, rows in page.tables.items() if caption.startswith("At every setting"))
    changes = [row for row in table if "instead of" in row[0][0]]
    assert [cell[1] for cell in changes[0][1:3]] == [[pytest.approx(0.15)], [pytest.approx(-0.3)]]


# -- what is missing or damaged ---------------------------------------------------------------------------------------


def test_runs_without_probes_scores_and_samples_still_get_a_page(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("batch", 0)
    for file in [run.path / "scores.json", *run.samples().values(), *run.probes().values()]:
        file.unlink()
    (run.path / "metrics.jsonl").write_text('{"step": 1, "loss/d": 1.0}\n')
    comparison = compare([run], tmp_path / "report")
    source = (tmp_path / "report" / "index.html").read_text()
    assert comparison.headline == "No finished run was probed: nothing is known about batch dependence."
    for words in ("recorded a coupling matrix", "no sample grids", "hold no scores"):
        assert words in source
    assert "<img" not in source


def test_generators_that_all_end_without_images_are_still_drawn_up_to_there(make_run: MakeRun) -> None:
    runs = [make_run("batch", seed) for seed in range(2)]
    for run in runs:
        (run.path / "scores.json").unlink()
        run.add_scores({"step": 600, "fid": 3.0, "protocol": {}})
        run.add_scores({"step": 1200, "diverged": True, "protocol": {}})
    (panel,) = next(plot for plot in figures(analyse(runs)) if plot.name == "scores").panels
    assert panel.alt == "FID, lower is better, at the end: no images."
    panel.draw(axes := Figure().subplots())
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[600, 3]]]


def test_damaged_pictures_and_arrays_are_left_out(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("batch", 0), make_run("group", 0)]
    for file in runs[0].probes().values():
        file.write_bytes(file.read_bytes()[:100])
    for file in runs[0].samples().values():
        file.write_text("<svg onload=alert(1)>")
    compare(runs, tmp_path / "report")
    source = (tmp_path / "report" / "index.html").read_text()
    assert "no grid at this step" in source
    assert {r["condition"] for r in records(tmp_path / "report/figures/coupling.csv")} == {"group"}


def test_the_page_says_what_its_figures_leave_out(make_run: MakeRun) -> None:
    runs = [make_run("group", 0, name=f"g{size}", data={"batch_size": size}) for size in range(20)]
    comparison = analyse(runs)
    first = next(iter(figures(comparison)))
    assert first.name == "composition_curve" and len({row[0] for row in first.data}) == 8
    assert "Of 20 conditions the figures show 8; the tables show all." in page_of(comparison, [first])


def test_the_top_of_the_page_says_where_it_comes_from(make_run: MakeRun, tmp_path: Path) -> None:
    compare([make_run("batch", 0)], tmp_path, question="Which <i>one</i>?", command="gannorm compare runs/study")
    source = (tmp_path / "index.html").read_text()
    top = source[: source.index("<main>")]
    for name, value in (
        ("Study", "study"),
        ("Question", "Which &lt;i&gt;one&lt;/i&gt;?"),
        ("Data", "digits, 16×16"),
        ("Date", str(date.today())),
        ("Command", "gannorm compare runs/study"),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in top


def test_a_number_below_its_rounding_floor_is_zero_within_rounding(page: Page) -> None:
    """GroupNorm's context slope is 1e-8 beside an own slope of 1."""
    group = page.tables["Batch dependence of the discriminator in train mode"][2]
    assert [cell[0] for cell in group].count("0 within rounding") == 1
    assert not re.search(r">\d\.\de−0[6-9]<|>\d\.\de−1\d<", page.source)


def test_long_keys_break_between_words_only(page: Page) -> None:
    assert "<dt>extractor_<wbr>sha256<wbr></dt>" in page.source
    assert "<dt>data.<wbr>batch_<wbr>size<wbr></dt>" in page.source


def test_the_same_runs_give_the_same_page(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    comparison, output = compared
    runs = [run.directory for c in comparison.conditions for run in (*c.runs, *c.diverged)]
    compare(runs, tmp_path)
    assert (tmp_path / "index.html").read_bytes() == (output / "index.html").read_bytes()


# -- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium to open the page in")
def test_the_page_opens_in_a_browser_without_errors(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    index = compared[1] / "index.html"
    document, console = _browse(index, tmp_path, "--dump-dom")
    assert console == []
    assert 'class="samples scrubbing"' in document  # the script ran, so its hash is right
    assert '<div class="cell now">' in document

    picture = tmp_path / "page.png"
    _browse(index, tmp_path, f"--screenshot={picture}", "--window-size=1000,5000")
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in (COLOURS[0], COLOURS[1], COUPLING(1.0)):
        rgb = np.array(_rgb(colour))
        assert (np.abs(pixels - rgb).max(axis=1) <= 3).sum() > 200  # the figures are drawn, in their colours

    phone = tmp_path / "phone.html"  # as wide as a phone: nothing but tables scrolls sideways
    root = "frame.contentDocument.documentElement"
    over = f"document.title = {root}.scrollWidth - {root}.clientWidth"
    frame = f'<iframe id=frame width=390 height=800 src="{index.as_uri()}" onload="{over}"></iframe>'
    phone.write_text(f"<!doctype html><title></title>{frame}")
    document, _ = _browse(phone, tmp_path, "--dump-dom", "--allow-file-access-from-files")
    assert "<title>0</title>" in document

    broken = tmp_path / "broken.html"
    broken.write_text(index.read_text().replace('"use strict";', '"use strict"; alert(1);'))
    document, console = _browse(broken, tmp_path, "--dump-dom")
    assert any("Content Security Policy" in line for line in console)  # so an empty console means something
    assert "scrubbing" not in document.split("<body>")[1].split("<script>")[0]


def _rgb(colour: object) -> tuple[int, ...]:
    from matplotlib.colors import to_rgb

    return tuple(round(255 * c) for c in to_rgb(colour))  # type: ignore[arg-type]


def _browse(file: Path, scratch: Path, *options: str) -> tuple[str, list[str]]:
    """The page's document after its script has run, and what reached the console."""
    assert CHROMIUM is not None
    profile = scratch / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    quiet = "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-quic"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), "--enable-logging=stderr"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", *options, file.as_uri()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        document, log = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return document, [line for line in log.splitlines() if "CONSOLE" in line]
