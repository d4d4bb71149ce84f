"""The page holds the table's numbers, needs nothing from outside, and runs no script but its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.html_page import Page

from gannorm.report.compare import Comparison, compare
from gannorm.report.coupling_figure import COUPLING
from gannorm.report.plots import COLOURS
from gannorm.rundir import RunDir

MakeRun = Callable[..., RunDir]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TRAIN = "batch_dependence/train/"


@pytest.fixture(scope="session")
def page(compared: tuple[Comparison, Path]) -> Page:
    return Page((compared[1] / "index.html").read_text())


def test_headline_and_findings_are_the_comparisons(compared: tuple[Comparison, Path], page: Page) -> None:
    assert f"<h1>{compared[0].headline}</h1>" in page.source
    assert all(finding.split("'")[0] in page.source for finding in compared[0].findings)


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


def test_the_same_runs_give_the_same_page(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    comparison, output = compared
    runs = [run.directory for c in comparison.conditions for run in (*c.runs, *c.diverged)]
    compare(runs, tmp_path)
    assert (tmp_path / "index.html").read_bytes() == (output / "index.html").read_bytes()


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
