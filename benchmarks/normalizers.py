"""What each normalizer costs beside BatchNorm."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from benchmarks.core import Bench, Row, in_own_process, interleaved, row
from gannorm.normalizers import NORMALIZERS, set_reference
from gannorm.seeds import stream


def normalizers(bench: Bench) -> Iterator[Row]:
    """Forward and backward of each on a large map; torch's own are listed too, the target is for the others.

    Each in a process of its own: about half of BatchNorm2d's time goes into the pages of fresh maps, and what ran
    before decides whether malloc has some at hand.
    """
    size = 16 if bench.quick else 32
    for name in NORMALIZERS:
        arguments = (name, bench.device.type, str(torch.get_num_threads()), str(bench.rounds), str(size))
        command = in_own_process(normalizer_times, *arguments)
        times, own, nbytes = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        # Input read and output written, forward; input and gradient read and a gradient written, backward.
        share = 5 * nbytes / statistics.median(times["ours"]) / bench.bytes_per_second
        note = f"{share:.0%} of a copy's memory bandwidth" if own else "torch's own"
        yield row("normalizers", name, times, "ours", "batch", False, "BatchNorm2d", note=note)


def normalizer_times(name: str, device: str, threads: str, rounds: str, size: str) -> None:
    """Prints the times of a normalizer and of BatchNorm2d, whether it is our own, and the bytes of a map."""
    torch.set_num_threads(int(threads))
    shape = (64, 128, int(size), int(size))
    x = torch.randn(shape, generator=stream(0, "map")).to(device).requires_grad_()
    grad = torch.randn(shape, generator=stream(0, "grad")).to(device)
    layer = NORMALIZERS[name](shape[1]).to(device)
    if NORMALIZERS[name].reference:
        set_reference(nn.Sequential(layer), x.detach()[:8])  # its statistics alone, not a network's second pass

    def both_ways(layer: nn.Module) -> Callable[[], Any]:
        wanted = [x, *layer.parameters()]
        return lambda: torch.autograd.grad(layer(x), wanted, grad, allow_unused=True) and None

    runs = {"ours": both_ways(layer), "batch": both_ways(nn.BatchNorm2d(shape[1]).to(device))}
    own = not type(layer).__module__.startswith("torch.nn")
    print(json.dumps([interleaved(runs, int(rounds), x.device), own, x.nbytes]))
