"""What other schedulers start: SLURM's job array over a study's plan, and the commands of W&B's sweep agents."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.fake_study import FAKE, NAMES, calls, planned

from gannorm import cli
from gannorm.commands.inputs.arguments import train_config
from gannorm.config import keys
from gannorm.normalizers import NORMALIZERS
from gannorm.rundir import RunDir
from gannorm.studies.execute import save_configs
from gannorm.studies.tasks import state

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.usefixtures("own_folder")
def test_each_task_of_a_slurm_array_makes_one_run_of_the_plan_and_repeats_none(tmp_path: Path) -> None:
    folder = save_configs(planned(behave={"group_1": "kill_once"}))
    assert sorted(file.stem for file in folder.iterdir()) == sorted(NAMES)
    Path("scripts").mkdir()
    for name in ("slurm_train.sbatch", "slurm_study.sbatch"):
        Path("scripts", name).write_bytes((ROOT / "scripts" / name).read_bytes())
    command("gannorm", f'exec {" ".join(FAKE)} "$@"')
    command("srun", 'exec "$@"')

    for task in range(4):
        assert array_task(task).returncode == (0 if task < 3 else 137)  # the last in order is group_1, which is killed
    assert [state(RunDir(f"runs/s/{name}")) for name in sorted(NAMES)] == [*["finished"] * 3, "interrupted"]
    assert array_task(3).returncode == 0
    assert [call[1] for call in calls() if call[0] == "resume"] == ["group_1"]
    before = calls()
    assert "runs/s/batch_0 has ended already." in array_task(0).stdout
    beyond = array_task(4)
    assert beyond.returncode == 2 and "runs/s/plan has 4 configs, and this is task 4" in beyond.stderr
    assert "submit with --array=0-3" in array_task(None).stderr
    assert calls() == before


@pytest.mark.usefixtures("own_folder")
def test_a_plan_forgets_the_runs_that_are_planned_no_more() -> None:
    folder = save_configs(planned())
    (folder / "gone_0.yaml").write_text("steps: 3")
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*_1.yaml")}
    save_configs(planned())
    assert sorted(file.stem for file in folder.iterdir()) == sorted(NAMES)
    assert times == {file: file.stat().st_mtime_ns for file in times}  # nothing is written that is there


@pytest.mark.usefixtures("own_folder")
@pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)
def test_a_sweep_varies_config_keys_and_its_agents_command_is_one_of_ours(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = yaml.safe_load(file.read_text())
    assert set(sweep["parameters"]) <= set(keys("gan"))
    assert set(sweep["parameters"]["model.discriminator.norm"]["values"]) <= set(NORMALIZERS)

    command("gannorm", 'printf "%s\\n" "$@" > arguments.txt')
    environment = {**os.environ, "PATH": f"{Path.cwd()}:{os.environ['PATH']}", "WANDB_RUN_ID": "x1y2z3"}
    (Path.cwd() / "configs").symlink_to(ROOT / "configs")  # as in a checkout
    for which in (0, -1):
        values = {key: choice(parameter, which) for key, parameter in sweep["parameters"].items()}
        subprocess.run(agents_command(sweep, values), env=environment, check=True)
        program, *arguments = Path("arguments.txt").read_text().splitlines()
        assert program == "train"
        config = train_config(arguments)
        assert {key: config[key] for key in values} == values
    assert config["study"] == f"sweep_{file.stem}"

    tiny = {"steps": 2, "probe_every": 0, "sample_every": 0, "wandb": "off", "output": "runs", "precision": "exact"}
    assert cli.main(["train", *arguments, *(f"--{key}={value}" for key, value in tiny.items())]) == 0
    (run,) = Path(f"runs/sweep_{file.stem}").iterdir()
    assert run.name == (config["name"] or f"{values['model.discriminator.norm']}_steps-2_{values['seed']}")
    assert RunDir(run).status()["state"] == "finished"


def agents_command(sweep: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """What `wandb agent` starts, by its own macros."""
    from wandb.sdk.launch.sweeps import utils

    macros = utils.create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    parts = utils.create_sweep_command(list(sweep["command"]))
    return [word for part in parts for word in (macros[part[2:-1]] if part.startswith("${") else [part])]


def choice(parameter: dict[str, Any], which: int) -> Any:
    return parameter["values"][which] if "values" in parameter else parameter["max" if which else "min"]


def command(name: str, body: str) -> None:
    """A program in this folder."""
    Path(name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    Path(name).chmod(0o755)


def array_task(number: int | None) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path.cwd()}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "OMP_NUM_THREADS": "1",
    }
    if number is not None:
        environment["SLURM_ARRAY_TASK_ID"] = str(number)
    script = ["bash", "scripts/slurm_study.sbatch", "runs/s"]
    return subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
