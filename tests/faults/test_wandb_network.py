"""A W&B server that fails before, during or at the end of a run costs it one line and bounded time, and nothing else.

A small server on the loopback address speaks as much of W&B's protocol as wandb-core needs to start a run online, and
fails when it is told to.
"""

import gc
import json
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import wandb

from gannorm.training import train
from gannorm.training.callbacks.metrics import Metrics
from gannorm.wandb_run import INIT_TIMEOUT

KEY = "0123456789abcdef0123456789abcdef01234567"  # made up, in the form of W&B's
STEPS = 6
BUCKET = {"id": "id", "displayName": "run", "historyLineCount": 0}
BUCKET["project"] = {"name": "gannorm", "entity": {"name": "me"}}
ANSWERS = {  # a word of the query → its answer
    "serverInfo": {"serverInfo": {"cliVersionInfo": {}, "features": []}},
    "viewer": {"viewer": {"id": "id", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
}


class FakeServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.state = "works"  # or "fails": status 500; "hangs": says nothing
        self.received = []  # the bodies sent to the file stream
        self.released = threading.Event()
        self.asked = threading.Event()

    def stop(self):
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that has given up is what is tested here."""


class Answer(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.set()
        if self.server.state == "hangs":
            self.server.released.wait(60)
            return
        answer: dict = {}
        if self.path.endswith("/graphql"):
            question = json.loads(body)
            answer = {"data": next((v for word, v in ANSWERS.items() if word in question["query"]), {})}
            if "upsertBucket" in question["query"]:  # the run's own id comes back, by which the service finds it again
                bucket = BUCKET | {"name": question["variables"]["name"]}
                answer = {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
            if "createRunFiles" in question["query"]:
                place = f"http://127.0.0.1:{self.server.server_address[1]}/upload"
                files = [{"name": name, "uploadUrl": place} for name in question["variables"]["files"]]
                answer = {"data": {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}}
        elif self.path.endswith("/file_stream"):
            self.server.received.append(body.decode(errors="replace"))
        content = json.dumps(answer).encode()
        self.send_response(200 if self.server.state == "works" else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    wandb.teardown()  # it reads its settings once
    server = FakeServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield server
    server.stop()
    wandb.teardown()


def at_step(monkeypatch, step, action):
    """Do something in the middle of a run, as the outside world would."""
    act = Metrics.act

    def acting(self, trainer, module):
        if module.step == step:
            action()
        act(self, trainer, module)

    monkeypatch.setattr(Metrics, "act", acting)


def require_complete(run, kind):
    """Everything that a run must have with or without W&B, and the rows in W&B's own file ("run" or "offline-run")."""
    assert run.status()["state"] == "finished"
    assert [r["step"] for r in run.metrics() if "loss/d" in r] == list(range(1, STEPS + 1))
    assert list(run.checkpoints()) == [3, 6]
    files = [p for p in (run.path / "wandb").glob("*run-*/run-*.wandb") if p.parent.name.startswith(f"{kind}-")]
    assert files
    deadline = time.monotonic() + 20  # W&B's service closes its file after it has told us that the run is finished
    while (rows := max(p.read_bytes().count(b"loss/d") for p in files)) < STEPS and time.monotonic() < deadline:
        time.sleep(0.1)  # uncompressed protobuf
    return rows


@pytest.fixture
def settings(configure):
    return configure("--wandb=auto", f"--steps={STEPS}", "--checkpoint_every=3", "--sample_every=3")


@pytest.mark.slow
def test_a_server_that_works_gets_the_rows(server, settings, tmp_path, capsys):
    """The control: the fake is enough of a server for a run to be online."""
    run = train(settings, tmp_path / "run")
    assert require_complete(run, "run") >= STEPS
    assert "W&B" not in capsys.readouterr().err
    assert any("loss/d" in body for body in server.received)


@pytest.mark.slow
def test_a_service_of_a_process_that_has_ended_costs_one_line(server, settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SERVICE", "3-1-tcp-localhost-9")  # inherited; nobody listens on the discard port
    run = train(settings, tmp_path / "run")
    assert require_complete(run, "run") >= STEPS
    assert capsys.readouterr().err.count("W&B could not start online: WandbServiceConnectionError") == 1


@pytest.mark.slow
@pytest.mark.parametrize("state", ["fails", "hangs"])
def test_a_server_that_fails_before_the_run_leaves_it_offline(server, settings, tmp_path, monkeypatch, capsys, state):
    monkeypatch.setattr("gannorm.wandb_run.INIT_TIMEOUT", 2)
    server.state = state
    run = train(settings, tmp_path / "run")
    assert require_complete(run, "offline-run") >= STEPS
    said = capsys.readouterr().err
    assert said.count("W&B could not start online") == 1
    assert KEY not in said


@pytest.mark.slow
def test_ctrl_c_waits_no_longer_for_a_server_that_says_nothing_than_a_start_does(
    server, settings, tmp_path, monkeypatch
):
    def interrupt():
        server.asked.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    monkeypatch.setattr("gannorm.wandb_run.INIT_TIMEOUT", 5)
    server.state = "hangs"
    threading.Thread(target=interrupt, daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run")
    wandb.teardown()  # as at the process's exit
    assert time.monotonic() - begin < 20 < INIT_TIMEOUT  # that of a start is 5 here; without it, W&B waits for minutes


@pytest.mark.slow
@pytest.mark.parametrize("state", ["fails", "hangs"])
@pytest.mark.parametrize("step", [2, STEPS], ids=["during", "at the end"])
def test_a_network_that_dies_costs_bounded_time_and_no_row(
    server, settings, tmp_path, monkeypatch, capsys, state, step
):
    monkeypatch.setattr("gannorm.wandb_run.FINISH_TIMEOUT", 1)
    at_step(monkeypatch, step, lambda: setattr(server, "state", state))
    begin = time.monotonic()
    run = train(settings, tmp_path / "run")
    # Ten times what the run takes with FINISH_TIMEOUT; without it, finish() waits for days.
    assert time.monotonic() - begin < 60
    assert require_complete(run, "run") >= STEPS, "nothing is left for `wandb sync`"
    assert KEY not in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_that_comes_back_gets_every_row(server, settings, tmp_path, monkeypatch, capsys):
    def fail_for_a_second():
        server.state = "fails"
        threading.Timer(1, setattr, (server, "state", "works")).start()

    at_step(monkeypatch, 2, fail_for_a_second)
    run = train(settings, tmp_path / "run")
    assert require_complete(run, "run") >= STEPS
    assert sum(body.count("loss/d") for body in server.received) >= STEPS, server.received
    said = capsys.readouterr().err  # the service may tell of its retries; we have nothing to tell
    assert "W&B stopped" not in said and "W&B could not start" not in said, said


@pytest.mark.slow
def test_a_killed_service_costs_one_line(server, settings, tmp_path, monkeypatch, capsys):
    def kill():
        processes = [o for o in gc.get_objects() if type(o) is subprocess.Popen]  # isinstance wakes lazy modules
        (service,) = [p for p in processes if "wandb-core" in str(p.args) and p.poll() is None]
        service.kill()
        service.wait()

    at_step(monkeypatch, 3, kill)
    run = train(settings, tmp_path / "run")
    require_complete(run, "run")
    assert capsys.readouterr().err.count("W&B stopped") == 1
    wandb.teardown()  # as at the process's exit: nothing is left that would raise
