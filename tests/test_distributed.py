"""Several processes train the model of the joined batch, or of one device's batch: by the normalizer, and provably."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support.plain_loop import plain_loop

from gannorm.commands.inputs.arguments import train_config
from gannorm.data import ImageLoader
from gannorm.distributed import one_run
from gannorm.errors import UserError
from gannorm.models import load_networks
from gannorm.rundir import RunDir
from gannorm.seeds import stream
from gannorm.training import prepare

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "support" / "replicas_program.py"
D, G = "--model.discriminator.", "--model.generator."
STEPS, BATCH = 20, 4  # images a device


def both(norm, **options):
    """Flags that give both networks a normalizer."""
    settings = [("norm", norm), *((f"norm_options.{k}", str(v)) for k, v in options.items())]
    return tuple(text for network in (D, G) for key, value in settings for text in (network + key, value))


JOINT = ("--model.d_composition", "joint", "--model.g_composition", "joint")
# name: (processes, how they train, what one process with the joined batch trains as)
CASES = {
    "sync": (2, both("sync"), both("batch")),
    "local": (2, both("batch"), both("ghost", size=BATCH)),
    "group": (2, both("group"), both("group")),
    "accumulated": (2, (*both("sync"), "--model.accumulate", "2"), both("batch")),
    "joint": (2, (*both("sync"), *JOINT), (*both("batch"), *JOINT)),
    "four": (4, both("sync"), both("batch")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def configs(folder):
    """(name, 0 or 1) -> the config of a case, in several processes or in one."""
    tiny = {"data.image_size": 8, "data.batch_size": BATCH, "steps": STEPS, "model.ema_decay": 0.9}
    tiny |= {"model.discriminator.width": 8, "model.generator.width": 8, "model.generator.latent_dim": 4}
    flags = [f"--{key}={value}" for key, value in tiny.items()]
    found = {}
    for name, (_, *kinds) in CASES.items():
        for kind, its in enumerate(kinds):
            found[name, kind] = train_config([*flags, *its]).to_dict()
    return found


@pytest.fixture(scope="module")
def states(folder, configs):
    """name -> the state that each process ends with."""
    cases = [(CASES[name][0], name, configs[name, 0]) for name in CASES]
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, PROGRAM, folder], env=environment, check=True, timeout=600)
    return {
        name: [torch.load(folder / f"{name}_{rank}.pt") for rank in range(processes)] for processes, name, _ in cases
    }


def joined(config, processes):
    """The final state of the plain loop over the joined batches and latents of all processes, and its last losses."""
    gan, data = prepare({**config, "data": {**config["data"], "batch_size": processes * BATCH}})
    loaders = [
        ImageLoader(data.train.pixels, BATCH, config["seed"], rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    batches = [torch.cat([next(loader) for loader in loaders]) for _ in range(config["steps"])]
    streams = [stream(config["seed"], "latents", rank) for rank in range(processes)]

    def latents(n, size):
        return torch.cat([torch.randn(n // processes, size, generator=s, dtype=torch.float64) for s in streams])

    state, losses = plain_loop(gan.double(), batches, config, latents=latents)
    return state, losses[-1]


def distance(a, b, names):
    sizes = (((a[n] - b[n]).double().norm() / b[n].double().norm().clamp(min=1e-9)).item() for n in names)
    return max(sizes, default=0.0)


@pytest.mark.parametrize("name", CASES)
def test_several_processes_train_what_one_does_with_their_batches(name, states, configs):
    found, (expected, losses) = states[name][0], joined(configs[name, 1], CASES[name][0])
    running = ("running_mean", "running_var", "num_batches_tracked")
    weights = [n for n in expected if not n.endswith(running)]
    assert distance(found, expected, weights) < 1e-6  # of the issue; float64 leaves about 1e-10 after these steps
    assert [found["loss/d"].item(), found["loss/g"].item()] == pytest.approx(
        losses, rel=1e-6
    )  # means over the processes
    if name != "local":  # a ghost batch normalizer moves once for each ghost batch
        assert distance(found, expected, [n for n in expected if n.endswith(running)]) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_all_processes_hold_one_model_to_the_last_bit(name, states):
    first, *others = states[name]
    assert all(torch.equal(first[n], other[n]) for other in others for n in first)


def test_local_and_synchronized_normalizers_are_different_models(states):
    assert distance(states["local"][0], states["sync"][0], ["ema.module.features.0.conv.weight"]) > 1e-3


TRAIN = [sys.executable, "-m", "gannorm.cli", "train"]
ONE_RUN = ["--data.image_size=8", "--data.batch_size=8", "--model.discriminator.width=8", "--model.generator.width=8"]
ONE_RUN += ["--model.discriminator.norm=sync", "--model.generator.norm=noisy", "--precision=exact", "--wandb=off"]
ONE_RUN += ["--steps=4", "--log_every=1", "--checkpoint_every=2", "--sample_every=4", "--probe_every=4"]
ONE_RUN += ["--probe_images=16", "--trainer.devices=2", "--trainer.accelerator=cpu", "--output=.", "--study=runs"]
ONE_RUN += ["--name=run"]


def run(*flags, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*TRAIN, *flags], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


def test_a_command_on_two_processes_is_one_run_and_resumes_bit_for_bit(tmp_path):
    done = run(*ONE_RUN, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished at step 4") == done.stdout.count("arithmetic: ") == 1
    assert "Initializing" not in done.stderr and "warning" not in done.stderr
    directory = RunDir(tmp_path / "runs" / "run")
    assert [path.name for path in directory.path.parent.iterdir()] == ["run"]
    assert directory.series("loss/d")[0] == [1, 2, 3, 4]
    steps = directory.series("batch_dependence/train/leak_ratio")[0]
    assert steps == list(directory.samples()) == [0, 4]  # sync did not wait
    assert list(directory.checkpoints()) == [2, 4]
    assert load_networks(directory.path).step == 4

    again = run(*ONE_RUN, cwd=tmp_path)  # a mistake, before the other process is there
    assert again.returncode == 2 and len(again.stderr.splitlines()) == 1 and "name must be new" in again.stderr

    # The same where torchrun has started both, whom the first must keep from waiting for it.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = {"TORCHELASTIC_RUN_ID": "run", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both_ranks = [{**os.environ, **started, "RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0"} for rank in "01"]
    pipes = {"stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
    ranks = [subprocess.Popen([*TRAIN, *ONE_RUN], env=environment, **pipes) for environment in both_ranks]
    heard = [process.communicate(timeout=600)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [2, 2], heard
    assert "name must be new" in heard[0] and "name must be new" not in heard[1]

    saved = {step: torch.load(file, weights_only=True) for step, file in directory.checkpoints().items()}
    shutil.rmtree(directory.path / "samples")
    directory.checkpoint_file(4).unlink()
    directory.set_status("failed", 2, "stopped")
    (directory.path / "samples").mkdir()
    resumed = run("--resume", str(directory.path), cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("continues from step 2") == 1
    assert directory.series("loss/d")[0] == [1, 2, 3, 4]
    found = torch.load(directory.checkpoint_file(4), weights_only=True)["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in saved[4]["state_dict"].items())  # noise of both ranks
    assert not all(torch.equal(found[name], value) for name, value in saved[2]["state_dict"].items())


def test_ctrl_c_stops_both_processes_after_one_step_and_is_told_once(tmp_path):
    command = [*TRAIN, *ONE_RUN, "--steps=100000", "--checkpoint_every=100000", "--log_every=1", "--sample_every=0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    directory = RunDir(tmp_path / "runs" / "run")
    try:
        deadline = time.monotonic() + 120
        while directory.last_step() < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        heard = process.communicate(timeout=60)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, heard
    assert list(directory.checkpoints()) == [directory.status()["step"]]
    assert heard.count("stopping after this step") == heard.count("continues from step") == 1
    assert heard.count("interrupted.") == 1 and "Traceback" not in heard


ALONE = {"world_size": 1, "strategy": None}


@pytest.mark.parametrize("mistake,status", [(UserError("no"), 2), (KeyboardInterrupt(), 130)])
def test_processes_beside_the_first_are_silent_and_exit_with_its_status(capsys, mistake, status):
    with pytest.raises(SystemExit) as ended, one_run(SimpleNamespace(is_global_zero=False, **ALONE)) as is_first:
        assert not is_first
        print("not printed")
        raise mistake
    assert ended.value.code == status
    assert capsys.readouterr().out == ""


def test_they_go_on_after_a_run_that_worked(capsys):
    with one_run(SimpleNamespace(is_global_zero=False, **ALONE)):
        print("not printed")
    assert capsys.readouterr().out == ""


def test_the_first_process_reports_its_mistakes():
    with pytest.raises(UserError), one_run(SimpleNamespace(is_global_zero=True, **ALONE)) as is_first:
        assert is_first
        raise UserError("reported")
