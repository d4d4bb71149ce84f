"""What a measurement prints."""

from __future__ import annotations

import torch

from gannorm.probes import batch_invariance


def test_every_measured_quantity_has_a_line_and_no_other() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(64, 1, generator=generator) + m for m in (1, -1))

    def f(x: torch.Tensor) -> torch.Tensor:
        return x[:, 0] + 3 * x.mean()

    quick, full = (repr(batch_invariance(f, real, fake, 16, cost=cost)) for cost in ("quick", "full"))
    always = ("AUC", "images", "accuracy", "decisions", "one batch", "mean logits", "forward", "gradient")
    for name in always:
        assert f"\n  {name:<13} " in quick and f"\n  {name:<13} " in full
    for name in ("leak ratio", "other images", "uniformity", "layers"):
        assert f"\n  {name:<13} " not in quick and f"\n  {name:<13} " in full
    assert "64 a class in 4 blocks; at each share: 64, 96, 64, 32, 32" in quick
    assert quick.splitlines()[1] == "  (unknown mode, batches of 16, the given fakes)"
    critic = repr(batch_invariance(f, real, fake, 16, threshold=None, cost="quick"))
    assert "accuracy" not in critic and "decisions" not in critic
