"""A study on a real Ray cluster of two nodes on this machine: what a node does, and what its loss costs.

`gannorm train` and `gannorm evaluate` are fake_gannorm.py, as in test_engine.py. All nodes see one file system; as
Ray's own libraries ask.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from support.fake_study import FAKE, NAMES, assert_all_gone, calls, planned, scored, trained, until

from gannorm.errors import UserError
from gannorm.rundir import RunDir
from gannorm.studies import cluster as cluster_module
from gannorm.studies.cluster import RayCluster
from gannorm.studies.execute import execute
from gannorm.studies.tasks import state

pytestmark = pytest.mark.usefixtures("own_folder", "no_report")
REPORT = Path("report")
STORE = 80 * 2**20  # bytes, about the least that Ray takes

ALONE = """
import sys, types
from pathlib import Path
nothing = types.SimpleNamespace(to_text=str)
sys.modules["gannorm.report.compare"] = types.SimpleNamespace(compare=lambda *args, **options: nothing)
from gannorm.studies.cluster import RayCluster
from gannorm.studies.execute import execute
from gannorm.studies.plan import plan
execute(plan(Path("s.yaml"), Path("runs")), RayCluster(sys.argv[2:], sys.argv[1]), Path("report"))
"""


class Nodes:
    """A cluster of a head without processors and of two nodes with one each."""

    def __init__(self, scratch: Path) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        self.scratch = scratch
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def kill_the_one_of(self, name: str) -> None:
        """Kill the node on which a run's process is, at once and with everything on it."""
        worker = int(re.findall(r"^on .+, process (\d+)$", Path(f"runs/s/plan/{name}.log").read_text(), re.M)[-1])
        raylets = {n.all_processes["raylet"][0].process.pid: n for n in self.nodes}
        dead = raylets[parent_of(worker)]
        self.nodes.remove(dead)
        self.cluster.remove_node(dead, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", scratch)  # of the nodes; a path for sockets must be short, and pytest's are long
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        nodes = Nodes(Path(scratch))
        yield nodes
        import ray

        ray.shutdown()
        nodes.cluster.shutdown()


@pytest.fixture(scope="module")
def engine(nodes: Nodes) -> RayCluster:
    return RayCluster(FAKE, nodes.cluster.address)


def test_a_study_is_shared_out_to_the_nodes_and_its_repetition_starts_nothing(engine: RayCluster) -> None:
    study = planned(evaluate={"samples": 40}, nap=0.1)
    assert execute(study, engine, REPORT) == 0
    assert trained() == sorted(NAMES) == scored()
    assert {state(run.directory) for run in study.runs} == {"finished"}
    logs = [Path(f"runs/s/plan/{name}.log").read_text() for name in NAMES]
    assert all(log.startswith("on ") for log in logs)
    assert {call[3] for call in calls() if call[0] == "train"} == {"1"}  # threads: the processors that a run holds
    before = calls()
    assert execute(study, engine, REPORT) == 0
    assert calls() == before


@pytest.mark.slow
def test_what_fails_or_is_killed_on_a_node_is_tried_again(engine: RayCluster) -> None:
    study = planned(evaluate={"samples": 40}, behave={"batch_1": "fail_once", "group_0": "kill_once"})
    assert execute(study, engine, REPORT) == 0
    assert trained() == sorted([*NAMES, "batch_1", "group_0"]) and scored() == sorted(NAMES)
    for run in study.runs:
        assert state(run.directory) == "finished"
        assert [record["step"] for record in run.directory.metrics()] == [1, 2, 3, 4, 5, 6]
    assert RunDir("runs/s/plan/attempts/batch_1_1").status()["reason"] == "MemoryError: no room"
    assert ["resume", "group_0", "1"] in calls()  # what was killed continued
    assert "MemoryError" in Path("runs/s/plan/batch_1.log").read_text()


@pytest.mark.slow
def test_a_run_whose_node_is_killed_is_made_on_the_other(
    engine: RayCluster, nodes: Nodes, capsys: pytest.CaptureFixture[str]
) -> None:
    study, lost = planned(nap=0.3, evaluate=False), RunDir("runs/s/group_0")
    with meanwhile(lambda: len(lost.metrics()) > 1, lambda: nodes.kill_the_one_of("group_0")):
        assert execute(study, engine, REPORT) == 0
    nodes.nodes.append(nodes.add())
    assert {state(run.directory) for run in study.runs} == {"finished"}
    assert trained() == sorted([*NAMES, "group_0"])
    resumed = [call for call in calls() if call[:2] == ["resume", "group_0"]]
    assert len(resumed) == 1 and int(resumed[0][2]) > 1  # Ray's retry continued the run on the other node
    assert "failed" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_study_leaves_no_process_on_the_nodes_and_goes_on(engine: RayCluster, nodes: Nodes) -> None:
    study = planned(nap=0.3, evaluate=False)
    alone = subprocess.Popen([sys.executable, "-c", ALONE, nodes.cluster.address, *FAKE])
    until(lambda: state(RunDir("runs/s/group_0")) == "finished" and len(trained()) > 2)
    alone.kill()
    alone.wait()
    assert_all_gone()
    assert execute(study, engine, REPORT) == 0
    assert trained().count("group_0") == 1  # it had finished


def test_ctrl_c_stops_everything_and_leaves_what_there_is(engine: RayCluster) -> None:
    study = planned(nap=2.0, behave={"batch_0": "parent", "group_0": "parent"}, evaluate=False)

    def both_run() -> bool:  # and have a run directory, which is made before
        return [call[0] for call in calls()].count("sleep") == 2

    with meanwhile(both_run, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        execute(study, engine, REPORT)
    assert_all_gone()
    assert state(RunDir("runs/s/batch_0")) == state(RunDir("runs/s/group_0")) == "interrupted"


def test_a_node_without_the_studys_folder_stops_the_study(engine: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_here", lambda: ("/no/such/folder", version("gannorm")))
    with pytest.raises(UserError, match=r"every node must share the study's folder: .* does not see /no/such/folder/"):
        execute(planned(), engine, REPORT)
    assert calls() == []


def test_a_callers_mistake_on_a_node_stops_the_study(engine: RayCluster) -> None:
    study = planned(behave={"batch_0": "mistake"}, nap=2.0)
    with pytest.raises(UserError, match=r"^batch_0: unknown normalizer 'grup': did you mean 'group'\?$"):
        execute(study, engine, REPORT)
    assert_all_gone()


def test_a_node_with_another_gannorm_stops_the_study(engine: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_here", lambda: (os.getcwd(), "99.0"))
    with pytest.raises(UserError, match=r"every node must have gannorm 99.0: .* has \d"):
        execute(planned(), engine, REPORT)
    assert calls() == []


def test_what_cannot_run_anywhere_is_one_line(engine: RayCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "gpus", 0.5)
    assert engine._room() == 0
    monkeypatch.setattr(cluster_module, "_connected", lambda _: engine.ray)
    with pytest.raises(UserError, match=r"a node must have room for a run, which takes 1 CPUs and 1 GPUs: .* 1 and 0"):
        RayCluster(FAKE, "auto", gpus_per_run=1)
    with pytest.raises(UserError, match=r"a share above 1 must be a whole number: got 1 CPUs, 1\.5 GPUs"):
        RayCluster(FAKE, "auto", gpus_per_run=1.5)
    with pytest.raises(UserError, match="a run takes more than 0 CPUs"):
        RayCluster(FAKE, "auto", cpus_per_run=0)


@pytest.mark.parametrize(
    ("cpus", "gpus", "resources", "room"),
    [
        (1, 0.25, [{"CPU": 16, "GPU": 2}], 8),
        (1, 0.4, [{"CPU": 16, "GPU": 2}], 4),  # a share lies on one GPU
        (4, 0.25, [{"CPU": 16, "GPU": 2}], 4),
        (1, 2, [{"CPU": 16, "GPU": 5}, {"CPU": 1, "GPU": 8}], 3),
        (1, 0, [{"CPU": 3}, {"CPU": 2, "GPU": 1}], 5),
        (0.5, 0, [{"CPU": 1}], 2),
        (1, None, [{"CPU": 8}, {"CPU": 8, "GPU": 1}], 4),  # by default a quarter of a GPU, where there is one
        (1, None, [{"CPU": 8}], 8),
    ],
)
def test_nodes_hold_as_many_runs_as_fit(
    cpus: float, gpus: float | None, resources: list[Any], room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ray:
        def nodes(self) -> list[Any]:
            dead = {"Alive": False, "Resources": {"CPU": 99, "GPU": 99}}
            return [dead, *({"Alive": True, "Resources": r} for r in resources)]

    monkeypatch.setattr(cluster_module, "_connected", lambda _: Ray())
    engine = RayCluster(FAKE, "auto", cpus_per_run=cpus, gpus_per_run=gpus)
    assert engine.shares(100) == (room, max(1, int(cpus)))
    assert RayCluster(FAKE, "auto", cpus_per_run=cpus, gpus_per_run=gpus, jobs=50).shares(100)[0] == 50  # Ray queues


def test_a_cluster_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT", 1)
    with pytest.raises(UserError, match=r"a Ray cluster must answer at 127.0.0.1:9: no answer in 1 s; start one by"):
        RayCluster(FAKE, "127.0.0.1:9")


def test_without_ray_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'needs Ray: it is not installed; pip install -e "\.\[cluster\]"'):
        RayCluster(FAKE, "auto")


# -- looking and meddling ---------------------------------------------------------------------------------------------


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


@contextmanager
def meanwhile(condition: Callable[[], bool], action: Callable[[], None]) -> Iterator[None]:
    """Act from another thread once the condition holds."""

    def act() -> None:
        until(condition)
        action()

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
