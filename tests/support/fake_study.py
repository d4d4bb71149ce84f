"""Studies of runs that take no time: `gannorm` is fake_gannorm.py in real processes, and notes what it does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from gannorm.studies.plan import Study, plan

FAKE = [sys.executable, str(Path(__file__).parent / "fake_gannorm.py")]
NAMES = ["batch_0", "group_0", "batch_1", "group_1"]


def planned(name: str = "s", *, nap: float = 0.0, behave: dict[str, str] | None = None, **study: Any) -> Study:
    """norm × seed, of six steps; `behave` as in fake_gannorm.py."""
    base = {
        "steps": 6,
        "data": {"batch_size": 8},
        "model": {"d_steps": 1, "discriminator": {"norm": "batch"}},
        "trainer": {"nap": nap, **(behave or {})},
    }
    factors = {"model.discriminator.norm": ["batch", "group"], "seed": [0, 1]}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    Path(f"{name}.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "factors": factors, **study}, sort_keys=False))
    return plan(Path(f"{name}.yaml"), Path("runs"))


def calls() -> list[list[str]]:
    """What the fake commands have noted, in order."""
    file = Path("calls.txt")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def trained() -> list[str]:
    return sorted(line[1] for line in calls() if line[0] == "train")


def scored() -> list[str]:
    return sorted(line[1] for line in calls() if line[0] == "evaluate")


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon; two minutes at most, on a machine that is busy."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_all_gone() -> None:
    """No process that the fake commands have noted is alive."""
    pids = [int(line[2] if line[0] == "train" else line[1]) for line in calls() if line[0] in ("train", "sleep")]
    assert pids
    until(lambda: not any(alive(pid) for pid in pids))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
