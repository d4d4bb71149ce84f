"""The command: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import benchmarks
import gannorm
from benchmarks.core import Bench, Row
from benchmarks.data import data
from benchmarks.evaluation import evaluation
from benchmarks.normalizers import normalizers
from benchmarks.packing import packing
from benchmarks.probes import probes
from benchmarks.scaling import plot_scaling, scaling
from benchmarks.startup import startup
from benchmarks.training import training

OPTIONAL = ("torch_fidelity", "jsonargparse", "lightning", "wandb", "sklearn", "PIL")


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "training": training,
    "data": data,
    "probes": probes,
    "normalizers": normalizers,
    "evaluation": evaluation,
    "scaling": scaling,
    "packing": packing,
    "startup": startup,
}


def hardware(bench: Bench) -> dict[str, Any]:
    from gannorm.arithmetic import fast_bf16

    cpu = torch.cpu.get_capabilities()
    device = bench.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu.get("cpu_name", platform.machine())
    return {
        "device": name,
        "fast_bf16": fast_bf16(device.type),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "flops_per_second": bench.flops,
        "bytes_per_second": bench.bytes_per_second,
        "python": platform.python_version(),
        "versions": {"gannorm": gannorm.__version__}
        | {name: importlib.metadata.version(name) for name in ("torch", "lightning")},
        "quick": bench.quick,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(benchmarks.__doc__).split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and smaller maps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None, help="of torch on the CPU; default: torch's own choice")
    parser.add_argument("--output", type=Path, default=Path("benchmark.json"), help="JSON file to write")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options.device, options.quick)
    machine, rows = hardware(bench), []
    print(json.dumps(machine, indent=2), flush=True)
    for name in options.only:
        begin = time.perf_counter()
        try:
            for found in SECTIONS[name](bench):
                rows.append(found)
                print(found, flush=True)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            print(f"{name:<12} left out: {error.name} is not installed", flush=True)
        print(f"{name:<12} took {time.perf_counter() - begin:.0f} s", flush=True)
    result = {"machine": machine, "rows": [asdict(found) | {"met": found.met} for found in rows]}
    options.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(options.output)
    if "scaling" in options.only:
        plot_scaling(rows, options.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
