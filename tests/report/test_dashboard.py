"""The dashboard shows what runs log, and a comparison's table reaches W&B: both without an account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.offline_wandb import Offline

from gannorm import cli
from gannorm.config import NORMS
from gannorm.config.dotted import flatten
from gannorm.report.compare import Comparison
from gannorm.report.dashboard import BARS, LINES, PICTURES, workspace
from gannorm.rundir import RunDir

KEY = "0123456789" * 4  # made up, in the form of W&B's
TINY = {
    "steps": 4,
    "log_every": 2,
    "probe_every": 4,
    "probe_images": 16,
    "sample_every": 4,
    "checkpoint_every": 4,
    "wandb": "offline",
    "study": "s",
    "name": "batch_0",
    "progress": False,
    "data": {"name": "digits", "image_size": 8, "batch_size": 8},
    "model": {"discriminator": {"width": 8, "norm": "batch"}, "generator": {"width": 8, "latent_dim": 8}},
}


pytestmark = pytest.mark.usefixtures("no_account")


def panels(spec: Any) -> list[dict[str, Any]]:
    return [panel for section in spec["section"]["panelBankConfig"]["sections"] for panel in section["panels"]]


@pytest.mark.slow
def test_panels_show_what_runs_really_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and its evaluation, logged offline and read back, have every metric, picture and config key."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(TINY))
    run = tmp_path / "runs/s/batch_0"
    assert cli.main(["train", "--config", str(config), "--output", str(tmp_path / "runs")]) == 0
    options = ["--samples", "100", "--splits", "2", "--kid_subsets", "3"]
    assert cli.main(["evaluate", str(run), *options]) == 0

    offline = Offline(run)
    logged = offline.keys
    metrics = {m for section in LINES.values() for group in section.values() for m in group} | set(BARS.values())
    assert metrics - logged == set()
    assert set(PICTURES.values()) - {name.removesuffix("/captions") for name in logged} == set()
    assert {start.job_type for start in offline.starts} == {"training"}
    assert {start.run_group for start in offline.starts} == {"s/batch"}
    assert NORMS[0] in flatten(offline.config)


def test_the_workspace_is_built_without_a_key_and_serialised() -> None:
    view = workspace("someone", "project")
    spec = json.loads(view._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    assert (view.entity, view.project) == ("someone", "project")
    shown = [metric for panel in panels(spec) for metric in panel["config"].get("metrics", [])]
    assert shown == [*BARS.values(), *(m for section in LINES.values() for group in section.values() for m in group)]
    assert shown[:2] == ["batch_dependence/train/auc_gap", "batch_dependence/train/auc_conflict"]
    media = [panel["config"]["mediaKeys"] for panel in panels(spec) if panel["viewType"] == "Media Browser"]
    assert media == [[key] for key in PICTURES.values()]
    bars = [panel["config"]["groupBy"] for panel in panels(spec) if panel["viewType"] == "Bar Chart"]
    assert bars == ["model.value.discriminator.norm"] * len(BARS)  # W&B keeps a config's values under "value"
    grouping = spec["section"]["runSets"][0]["grouping"]
    assert [key["name"] for key in grouping] == ["group"]


def test_it_is_printed_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dashboard", "--print"]) == 0
    printed = capsys.readouterr().out
    opening = printed.split("\n")[2:4]
    assert "auc_gap" in opening[0] and "auc_conflict" in opening[1]
    assert all(metric in printed for section in LINES.values() for group in section.values() for metric in group)


def test_saving_needs_a_key(tmp_path: Path) -> None:
    """In a process of its own: wandb reads its settings once, and another test may have given this one a key."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "gannorm", "dashboard", "--project", "someone/project"]
    environment = {**own, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("gannorm dashboard: saving a dashboard needs a W&B key: there is none, ")
    assert done.stderr.endswith("run `wandb login`.\n") and done.stderr.count("\n") == 1


def with_key(command: list[str], server: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: wandb reads its settings once."""
    settings = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server, "WANDB_ERROR_REPORTING": "false"}
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings})


def test_a_key_that_is_refused_is_one_line_that_does_not_tell_the_key() -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(401 if self.path == "/graphql" else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing to standard error."""

    program = """
from gannorm.errors import UserError
from gannorm.report.dashboard import save
try:
    save("someone/project")
except UserError as error:
    print(error)
"""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        refused = with_key([sys.executable, "-c", program], f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert refused.stdout.startswith("the dashboard of someone/project could not be saved: AuthenticationError: ")
    assert refused.stdout.count("\n") == 1 and KEY not in refused.stdout + refused.stderr


@pytest.mark.exhaustive
def test_a_server_that_does_not_answer_is_one_line() -> None:
    command = [sys.executable, "-m", "gannorm.cli", "dashboard", "--project", "someone/project"]
    unheard = with_key(command, "http://127.0.0.1:9")  # the discard port; wandb tries for 20 seconds
    assert unheard.returncode == 2
    assert "gannorm dashboard: the dashboard of someone/project could not be saved" in unheard.stderr
    assert "Traceback" not in unheard.stderr and KEY not in unheard.stderr


@pytest.mark.slow
def test_a_comparison_logs_its_table_and_figures(compared: tuple[Comparison, Path], tmp_path: Path) -> None:
    comparison, _ = compared
    runs = [str(run.directory.path) for c in comparison.conditions for run in (*c.runs, *c.diverged)]
    output = tmp_path / "report"
    assert cli.main(["compare", *runs, "--output", str(output), "--wandb", "offline"]) == 0
    offline = Offline(output)
    (start,) = offline.starts
    assert (start.job_type, start.run_group, start.project) == ("comparison", "digits", "gannorm")
    (folder,) = output.glob("wandb/offline-run-*/files/media")
    (file,) = folder.glob("table/comparison/table_*.table.json")
    table = json.loads(file.read_text())
    rows = [row.flat() for row in comparison.rows.values()]
    assert table["columns"] == list(rows[0])
    assert table["data"] == [list(row.values()) for row in rows]
    (file,) = folder.glob("table/comparison/conditions_*.table.json")
    conditions = json.loads(file.read_text())
    assert [line[:3] for line in conditions["data"]] == [["batch", 3, 1], ["group", 3, 0]]
    pure = comparison.row("batch", "batch_dependence/train/auc_pure")
    assert pure is not None
    at = conditions["columns"].index("AUC pure")
    assert conditions["data"][0][at : at + 3] == [pure.estimate.mean, pure.estimate.low, pure.estimate.high]
    assert {p.name.split("_")[0] for p in folder.glob("images/figures/*.png")} >= {"accuracy", "coupling", "scores"}
    assert offline.summary["headline"] == comparison.headline
    assert RunDir(runs[0]).config()["study"] == "digits"
