"""The scripts refuse wrong arguments before they install anything: in one line, with status 2 and no .venv."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gannorm.commands import study
from gannorm.commands.inputs.arguments import kind_of
from scripts.arguments import STUDY

ROOT = Path(__file__).parent.parent.parent
INSTALLING = 99  # the status of the clean copy's python3 as soon as something would be installed


@pytest.fixture(scope="module")
def clean_copy(tmp_path_factory):
    """A checkout on a new machine, with a python3 that has the standard library alone and can install nothing."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("scripts", "gannorm", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "images").mkdir()
    (folder / "images" / "0.png").touch()
    (folder / "empty").mkdir()
    python = folder / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\n[ "$1" = -m ] && exit {INSTALLING}\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    return folder


def run(folder, script, *arguments):
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    command = ["bash", str(folder / "scripts" / script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert not (folder / ".venv").exists()
    return done


OF_STUDY = [
    (["--job", "2"], "did you mean 'jobs'?"),
    (["--workers", "3"], "did you mean --jobs 2?"),
    (["--colour", "red"], "choose from --dry_run"),
    (["--jobs", "0"], "`jobs` must be at least 1: got 0"),
    (["--jobs=two"], "`jobs` must be int: got two"),
    (["--jobs", "--dry-run"], "`--jobs` must be followed by a value"),
    (["--jobs"], "`--jobs` must be followed by a value"),
    (["--dry-run=maybe"], "must be true or false"),
    (["--engine", "slurm"], "must be one of local, ray"),
    (["--gpus-per-run", "-1"], "must be at least 0"),
    (["--skip", "none.csv"], "none.csv is not there"),
    (["digits"], "takes no such argument: 'digits'"),
]
OF_TRAIN = [
    (["--stepz", "5"], "did you mean 'steps'?"),
    (["--lr", "1"], "did you mean --model.lr_d 2e-4"),
    (["--steps", "0"], "`steps` must be at least 1"),
    (["--steps", "1e3"], "did you mean '1000'"),
    (["--model.lr_d=nan"], "must be a finite number"),
    (["--model.penalty_weight", "1e999"], "must be a finite number"),
    (["--model.betas", "[0.5, 1.5]"], "must be in [0, 1)"),
    (["--model.betas", "0.5"], "must be a list of 2 numbers"),
    (["--data.skip-bad", "perhaps"], "must be true or false"),
    (["--model.d_composition", "mixed"], "must be one of separate, joint"),
    (["--config", "digit"], "unknown recipe 'digit'"),
    (["--config", "none.yaml"], "none.yaml: No such file"),
    (["--name", "mine"], "the script sets `--name` itself"),
    (["--model.loss"], "must be followed by a value"),
]
WRONG = [(s, a, line) for s in ("demo.sh", "train_cifar10.sh") for a, line in OF_STUDY]
WRONG += [("train_folder.sh", ["images", *a], line) for a, line in OF_TRAIN]
WRONG += [
    ("train_folder.sh", [], "needs a folder of images: got none"),
    ("train_folder.sh", ["nowhere"], "needs a folder of images: got nowhere"),
    ("train_folder.sh", ["images/0.png"], "needs a folder of images: got images/0.png"),
    ("train_folder.sh", ["empty"], "empty holds no file"),
    ("test.sh", ["tests/test_nothing.py"], "takes tests that are there"),
]
RIGHT = [
    ("demo.sh", []),
    ("demo.sh", ["--jobs", "1", "--dry-run", "--report=there"]),
    ("train_cifar10.sh", ["--engine", "ray", "--gpus_per_run", ".5", "--plan_only", "true"]),
    ("train_folder.sh", ["images", "--steps", "9", "--data.skip_bad", "true", "--model.betas", "[0, 0.9]"]),
    ("train_folder.sh", ["images", "--trainer.devices=2", "--model.lr_d", "1e-4", "--config", "digits"]),
    ("test.sh", ["-k", "names", "-x"]),
]


def words(value):
    return " ".join(value) if isinstance(value, list) else None


@pytest.mark.parametrize("script,arguments,line", WRONG, ids=words)
def test_a_wrong_argument_is_one_line_before_anything_is_installed(clean_copy, script, arguments, line):
    done = run(clean_copy, script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("script,arguments", RIGHT, ids=words)
def test_right_arguments_lead_to_the_installation(clean_copy, script, arguments):
    done = run(clean_copy, script, *arguments)
    assert done.returncode == INSTALLING, done.stderr
    assert done.stdout.startswith("Installing into .venv")


def test_help_is_the_script_s_first_comment(clean_copy):
    for script in ("demo.sh", "train_cifar10.sh", "train_folder.sh"):
        arguments = ["images", "--help"] if script == "train_folder.sh" else ["--help"]
        done = run(clean_copy, script, *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "GroupNorm discriminator" in done.stdout and "set -euo" not in done.stdout


def test_the_flags_that_are_checked_are_those_of_the_command():
    declared = {action.dest: kind_of(action) for action in study.parser()._actions}
    assert set(STUDY) == set(declared) - {"help", "file"}
    for name, (kind, _) in STUDY.items():
        assert declared[name] in (kind, kind | None)
