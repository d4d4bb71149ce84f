"""What a probe costs, in forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import torch

from benchmarks.core import Bench, Row, row
from gannorm.models import Discriminator
from gannorm.seeds import stream


def probes(bench: Bench) -> Iterator[Row]:
    from gannorm import probes

    small = Discriminator(8, 1, 8).to(bench.device)
    for count in (16, 1024):
        x = torch.randn(count, 1, 8, 8, generator=stream(0, "probe")).to(bench.device)
        with mock.patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
            probes.estimate_coupling(small, x)
        yield Row("probes", f"estimate_coupling at N={count}", note=f"{grad.call_count} backward passes")
    critic = Discriminator(16, 1, 16).to(bench.device)
    real = torch.randn(64, 1, 16, 16, generator=stream(0, "real")).to(bench.device)
    times = bench.interleaved(
        {
            "matrix": lambda: probes.coupling_matrix(critic, real),
            "estimate": lambda: probes.estimate_coupling(critic, real),
        },
        rounds=2,
    )
    what = "estimate_coupling at N=64"
    yield row("probes", what, times, "estimate", "matrix", True, "coupling_matrix", "≥ 10")
    large = Discriminator(32, 3, 32).to(bench.device)
    images = [torch.randn(256, 3, 32, 32, generator=stream(0, n)).to(bench.device) for n in ("real", "fake")]

    def forward() -> None:
        with torch.no_grad():
            large(images[0][:64])

    times = bench.interleaved(
        {
            "full": lambda: probes.batch_invariance(large, *images),
            "quick": lambda: probes.batch_invariance(large, *images, cost="quick"),
            "forward": forward,
        },
        rounds=2,
    )
    for cost, most in (("quick", 64), ("full", 250)):
        what = f"batch_invariance, {cost}, 256 + 256"
        yield row("probes", what, times, cost, "forward", False, "a forward pass of 64 images", f"≤ {most}")
