"""No CPU tensor or generator meets the device's, and no step waits, for every part that a config can name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

from gannorm.losses import LOSSES, PENALTIES
from gannorm.normalizers import NORMALIZERS, WEIGHT_NORMALIZERS

D, G = "--model.discriminator", "--model.generator"
OPTIONS = {"ghost": {"size": 8}, "lp": {"p": "inf"}}
SETTINGS = [
    *(
        f"{D}.norm={n} {G}.norm={n} {D}.norm_options={json.dumps(OPTIONS.get(n, {}), separators=(',', ':'))}"
        for n in NORMALIZERS
    ),
    *(f"{D}.weight_norm={w} {G}.weight_norm={w}" for w in WEIGHT_NORMALIZERS),
    *(f"--model.loss={loss} --model.d_composition=joint --model.g_composition=joint" for loss in LOSSES),
    *(f"--model.penalty={p} {D}.norm={n}" for p in PENALTIES if p != "none" for n in ("group", "frn", "evonorm_s0")),
    *(f"{D}.minibatch={m} --model.moment_weight=0.1" for m in ("stddev", "discrimination")),
    *(f"--model.accumulate=2 --model.accumulation={mode}" for mode in ("naive", "frozen", "exact")),
    f"--optimization_every=2 --optimization_budget=1 --probe_every=2 --probe_images=32 --sample_every=2 {D}.norm=batch",
]
THERE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


@pytest.mark.slow
@pytest.mark.skipif(not THERE, reason="this torch cannot pretend a device in python")
def test_every_part_trains_on_one_device(tmp_path):
    program, settings = Path(__file__).parents[1] / "support" / "pretended_gpu_program.py", "\n".join(SETTINGS)
    command = [sys.executable, "-W", "ignore", str(program), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, input=settings, text=True, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("ran ") == len(SETTINGS)
