"""What a probe costs, in training steps."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import torch

from benchmarks.core import Bench, Row, row
from benchmarks.loops import bare_loop
from gannorm.models import Discriminator, Generator
from gannorm.seeds import stream


def probes(bench: Bench) -> Iterator[Row]:
    from gannorm import probes

    small = Discriminator(8, 1, 8).to(bench.device)
    for count in (16, 1024):
        x = torch.randn(count, 1, 8, 8, generator=stream(0, "probe")).to(bench.device)
        with mock.patch("torch.autograd.grad", wraps=torch.autograd.grad) as grad:
            probes.estimate_coupling(small, x)
        yield Row("probes", f"estimate_coupling at N={count}", note=f"{grad.call_count} backward passes")
    bare = bare_loop(bench, Generator(16, 1, 32), Discriminator(16, 1, 16))
    critic = bare.gan.discriminator
    real, fake = (torch.randn(64, 1, 16, 16, generator=stream(0, n)).to(bench.device) for n in ("real", "fake"))
    times = bench.interleaved(
        {
            "matrix": lambda: probes.coupling_matrix(critic, real),
            "estimate": lambda: probes.estimate_coupling(critic, real),
            "all": lambda: probes.batch_invariance(critic, real, fake),
            "step": lambda: bare.step(real),
        },
        rounds=2,
    )
    what = "estimate_coupling at N=64"
    yield row("probes", what, times, "estimate", "matrix", True, "coupling_matrix", "≥ 10")
    yield row("probes", "batch_invariance, 64 + 64", times, "all", "step", False, "a training step", "≤ 30")
