#!/usr/bin/env python
"""Do the probes name the right layers in other people's networks? Writes docs/compatibility.md.

    python scripts/compatibility.py                      # measures in a temporary environment of its own
    python scripts/compatibility.py --measure [WORDS]    # measures with the packages that are installed here

Small members of public packages are built without weights, in training mode and in evaluation mode, and
`coupled_layers` is run on noise. What is expected is known from the code: in training mode
every batch normalizer that runs, in evaluation mode nothing, unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compatibility_members import Member, members

ROOT = Path(__file__).parents[1]
PACKAGES = [
    "timm",
    "transformers",
    "diffusers",
    "monai",
    "torchgan",
    "ctgan",
    "kornia",
    "vector-quantize-pytorch",
    "encodec",
    "segmentation-models-pytorch",
    "pytorch-tabnet",
    "denoising-diffusion-pytorch",
    "vit-pytorch",
]


def measure(member: Member, training: bool) -> tuple[list[str], list[str], int]:
    """(the layers that are named, the layers that are expected, the forward passes that it took)."""
    import torch
    from torch import nn

    from gannorm.errors import UserError
    from gannorm.probes import coupled_layers
    from gannorm.probes.progress import progress

    torch.manual_seed(0)
    made = member.make()
    network, f = made if isinstance(made, tuple) else (made, made)
    network.train(training)
    x = member.x()
    normalizers = (nn.modules.batchnorm._BatchNorm,)
    expected = member.train if training else member.evaluate
    if expected is None:
        ran = modules_that_run(network, f, x)
        expected = [name for name, m in network.named_modules() if isinstance(m, normalizers) and name in ran]
        expected = [name for name in expected if name.startswith(member.judged)]
    with progress("coupled_layers") as count:
        try:
            named = coupled_layers(f, x, **member.options)
        except UserError as error:
            named = ["packs"] if "share a logit" in str(error) else [f"refused: {error}"]
    prefix = "net." if f is not network else ""
    named = [name.removeprefix(prefix) for name in named]
    return sorted(named), sorted(expected), count.passes


def modules_that_run(network: Any, f: Callable[..., Any], x: Any) -> set[str]:
    """Their names, and that the network stays as it was."""
    import copy

    import torch

    names: set[str] = set()
    state = copy.deepcopy(network.state_dict())
    handles = [m.register_forward_hook(lambda *_, n=n: names.add(n) and None) for n, m in network.named_modules()]
    with torch.no_grad():
        f(*x) if isinstance(x, tuple) else f(x)
    for handle in handles:
        handle.remove()
    network.load_state_dict(state)
    return names


def summary(names: list[str]) -> str:
    if len(names) <= 3:
        return ", ".join(f"`{name}`" if name else "own code" for name in names) or "none"
    return f"{len(names)}: `{names[0]}` … `{names[-1]}`"


def write_table(words: list[str], path: Path) -> int:
    """Measure the members whose name or package holds one of `words`, and write the table; the number of wrong rows."""
    rows, missing, wrong = [], {}, 0
    for member in members():
        if words and not any(word in f"{member.package} {member.name}" for word in words):
            continue
        for training in (True, False):
            mode = "train" if training else "eval"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    named, expected, passes = measure(member, training)
                except Exception as error:  # a package that is missing, or does not run on this machine
                    missing[f"{member.package} {member.name}"] = f"{type(error).__name__}: {str(error)[:150]}"
                    break
            right = named == expected
            wrong += not right
            line = [
                member.package,
                member.name,
                mode,
                summary(named),
                summary(expected),
                f"{passes}",
                member.remark,
            ]
            rows.append(
                "| " + " | ".join([*line[:-1], member.remark if right else f"**wrong** {member.remark}"]) + " |"
            )
            print(("right" if right else "WRONG"), *line[:3], f"{passes}", flush=True)
            if not right:
                print("   named   ", named[:12], "\n   expected", expected[:12], flush=True)
    for package, reason in missing.items():
        print("missing", package, reason)
    networks = len({tuple(row.split(" | ")[:2]) for row in rows})
    versions = ", ".join(
        f"{p} {importlib.metadata.version(p)}" for p in sorted({row.split(" | ")[0][2:] for row in rows})
    )
    if not words:
        path.write_text(
            "# Compatibility\n\n"
            "Written by `scripts/compatibility.py`: which layers `coupled_layers` names in small members of public\n"
            "packages, built without weights and run on noise, and which couple by their code. Passes are the forward\n"
            "passes that it took.\n\n"
            f"{networks} networks, {len(rows)} rows, {wrong} wrong. torch {importlib.metadata.version('torch')}; "
            f"{versions}.\n\n"
            "| package | network | mode | named | expected | passes | remarks |\n|---|---|---|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n",
            encoding="utf-8",
        )
    return wrong


def in_an_environment_of_its_own() -> int:
    """Make an environment with this package and the others, and measure in it."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run([sys.executable, "-m", "uv", "venv", folder], check=True)
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "install", "--python", python, "-e", ROOT, *PACKAGES],
            check=True,
        )
        return subprocess.run([python, __file__, "--measure"], env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", nargs="*", metavar="WORD", help="measure here, members that hold one of the words")
    options = parser.parse_args()
    if options.measure is None:
        sys.exit(in_an_environment_of_its_own())
    sys.exit(write_table(options.measure, ROOT / "docs" / "compatibility.md") > 0)
