"""What has to be seen on a GPU, in one command of at most 8 minutes: tests, speed with and without a graph, scores.

    scripts/gpu_check.sh                                              # on a machine with a GPU; writes gpu_check.json
    python -m benchmarks.gpu_check --device cpu --steps 4 --images 64   # the same program on a CPU, to try it out

Each section is a process of its own with a time limit, so that one that hangs or fails costs no other. Sections whose
packages are missing are left out by name. Without data/cifar10-jpeg.tar.xz the images are random; the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
ARCHIVE = REPOSITORY / "data" / "cifar10-jpeg.tar.xz"
OFF = {"probe_every": 0, "sample_every": 0, "progress": False, "wandb": "off"}
# section → (packages that it needs beside torch and lightning, seconds)
SECTIONS = {
    "tests": (("pytest", "jsonargparse"), 120),
    "training": ((), 120),
    "cifar10": ((), 150),
    "evaluation": (("torch_fidelity",), 90),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=2000, help="of the CIFAR-10 runs")
    parser.add_argument("--images", type=int, default=10_000, help="to score")
    parser.add_argument("--output", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--section", choices=SECTIONS, help="run one section here and print its rows")
    options = parser.parse_args()
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu_check needs a GPU that torch sees: none is here; give --device cpu to try it out.", file=sys.stderr)
        return 2
    if options.section:
        rows = {"tests": tests, "training": training, "cifar10": cifar10, "evaluation": evaluation}[options.section]
        print(json.dumps(rows(options)))
        return 0
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    versions = {package: _version(package) for package in ("gannorm", "torch", "lightning", "torch-fidelity")}
    result: dict[str, Any] = {"device": name, "python": platform.python_version(), "versions": versions, "rows": []}
    for section, (packages, seconds) in SECTIONS.items():
        result["rows"] += _in_own_process(section, packages, seconds, options)
        options.output.write_text(json.dumps(result, indent=2) + "\n")
    for row in result["rows"]:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(options.output)
    return 0


def tests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k", "on_a_gpu", "-p", "no:cacheprovider", "tests"]
    environment = {**os.environ, "GANNORM_TEST_GPU": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    return [{"what": "tests on a GPU", "exit_status": done.returncode, "closing_line": lines[-1] if lines else ""}]


def training(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images per second of the digits recipe and of CIFAR-10 shapes at width 64, with and without a graph."""
    rows = []
    steps = max(4, options.steps // 4)
    for name, changes in (("digits", {}), ("cifar10", _cifar_data())):
        for graph in (False, True):
            if graph and options.device != "cuda":
                continue
            row = _timed_run(options.device, name, steps, {**changes, "model.cuda_graph": graph})
            rows.append({"what": f"training {name}", "cuda_graph": graph, **row})
    return rows


def cifar10(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Runs of CIFAR-10 in both precisions."""
    rows = []
    for precision in ("auto", "exact"):
        row = _timed_run(options.device, "cifar10", options.steps, {**_cifar_data(), "precision": precision})
        rows.append({"what": "CIFAR-10", "precision": precision, "images": _image_source(), **row})
    return rows


def evaluation(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The scores of a generator with random weights against random images, by a small classifier trained here."""
    import torch

    import gannorm
    from gannorm.data import Images

    pixels = torch.randint(256, (options.images, 3, 32, 32), dtype=torch.uint8)
    real = Images(pixels, torch.arange(options.images) % 10, tuple("0123456789"), "random", "train")
    generator = gannorm.Generator(image_size=32, channels=3, width=32).to(options.device)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GANNORM_CACHE"] = folder
        begin = time.perf_counter()
        scores = gannorm.evaluate(
            generator, real, latent_dim=generator.latent_dim, extractor="in_domain", samples=options.images
        )
        seconds = time.perf_counter() - begin
    return [{"what": f"evaluation of {options.images} images", "seconds": round(seconds, 2), "fid": scores.fid}]


def _timed_run(device: str, recipe: str, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    """A real run; its speed is the median that it logged, after its first records."""
    import statistics

    import gannorm

    with tempfile.TemporaryDirectory() as folder:
        every = max(1, steps // 20)
        own = {**OFF, "steps": steps, "log_every": every, "checkpoint_every": 0, "output": folder}
        trainer = {"accelerator": "gpu" if device == "cuda" else "cpu", "devices": 1}
        begin = time.perf_counter()
        run = gannorm.train(gannorm.TrainConfig.load(recipe, **own, **changes, trainer=trainer))
        seconds = time.perf_counter() - begin
        speeds = run.series("images_per_second")[1]
        return {
            "steps": steps,
            "state": run.status()["state"],
            "seconds": round(seconds, 1),
            "images_per_second": round(statistics.median(speeds[len(speeds) // 4 :])),
        }


def _cifar_data() -> dict[str, Any]:
    """The config keys of the images: CIFAR-10's, or random ones of its size."""
    if not ARCHIVE.is_file():
        from gannorm.data.datasets import DATASETS

        if "random_bytes" not in DATASETS:
            DATASETS.register("random_bytes", _random_bytes)
        return {"data.name": "random_bytes"}
    folder = REPOSITORY / "data" / "cifar10"
    if not folder.is_dir():
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(REPOSITORY / "data", filter="data")
    return {"data.name": "folder", "data.root": str(folder)}


def _random_bytes(split: str, image_size: int, **_: Any) -> Any:
    import torch

    from gannorm.data import Images

    generator = torch.Generator().manual_seed(len(split))
    pixels = torch.randint(256, (4096, 3, image_size, image_size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(4096) % 10, tuple("0123456789"), "random_bytes", split)


def _image_source() -> str:
    return "CIFAR-10 JPEGs" if ARCHIVE.is_file() else "random bytes: data/cifar10-jpeg.tar.xz is not here"


def _in_own_process(
    section: str, packages: tuple[str, ...], seconds: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    if missing := [package for package in packages if find_spec(package) is None]:
        return [{"what": section, "left_out": f"{', '.join(missing)} is not installed"}]
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--section", section, "--device", options.device]
    command += ["--steps", str(options.steps), "--images", str(options.images)]
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return [{"what": section, "failed": f"not done within {seconds} s"}]
    print(f"{section} took {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    if done.returncode:
        lines = (done.stderr.strip() or "without a word").splitlines()
        return [{"what": section, "failed": lines[-1]}]
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
