"""Independent random streams from one seed, so that adding a consumer never shifts what the others draw."""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch.Generator that is a pure function of (seed, names).

    >>> first, second = (torch.rand(3, generator=stream(0, "latents")) for _ in range(2))
    >>> torch.equal(first, second), torch.equal(first, torch.rand(3, generator=stream(0, "images")))
    (True, False)
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *names))).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))
