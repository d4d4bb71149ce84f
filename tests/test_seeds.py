"""Streams follow from seed and names alone, and two names are two streams."""

import torch

from gannorm.seeds import stream


def draw(*names):
    return torch.randn(100_000, generator=stream(*names))


def test_a_stream_follows_from_seed_and_names_and_from_nothing_else():
    first = draw(0, "latents")
    torch.manual_seed(1)
    stream(0, "another").manual_seed(5)
    assert torch.equal(first, draw(0, "latents"))


def test_other_seeds_and_names_are_independent_streams():
    streams = torch.stack([draw(0, "a"), draw(1, "a"), draw(0, "b"), draw(0, "a", 1), draw(0, "a", 2)])
    correlation = torch.corrcoef(streams) - torch.eye(len(streams))
    assert correlation.abs().max() < 5 / 100_000**0.5  # 5 standard errors of a correlation of independent draws


def test_names_are_not_run_together():
    assert not torch.equal(draw(1, 2), draw(12))
