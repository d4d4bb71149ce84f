"""Networks whose batch is split into microbatches, and their gradients whole and accumulated."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from gannorm.normalizers import NORMALIZERS
from gannorm.training import accumulate_gradients

N, MICROBATCH = 16, 4


EXACT = 1e-10  # relative, float64; what the issue asks for, a thousand times what rounding leaves


def plain(depth):
    layers = [
        layer for _ in range(depth) for layer in (nn.Linear(6, 6), nn.BatchNorm1d(6), nn.LeakyReLU(0.2, inplace=True))
    ]
    return nn.Sequential(*layers, nn.Linear(6, 1), nn.Flatten(0))


def convolutional(normalizer):
    """(N, 1, 4, 4) → (N,) with two normalizers."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        normalizer(3),
        nn.LeakyReLU(0.2),
        nn.Conv2d(3, 4, 2),
        normalizer(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4, 1),
        nn.Flatten(0),
    )


# Options with which a normalizer is pooled. Renorm stands in its clip range, out of it, and half-way.
POOLED = {
    "batch": ("batch", {}),
    "sync": ("sync", {}),
    "ghost": ("ghost", {"size": 2}),
    "renorm at its start": ("renorm", {}),
    "renorm clipped": ("renorm", {"r_max": 1.1, "d_max": 0.1, "start": 0, "r_end": 0, "d_end": 0}),
    "renorm half-way": ("renorm", {"start": 0, "r_end": 8, "d_end": 4}),
    "renorm unclipped": ("renorm", {"r_max": 1e3, "d_max": 1e3, "start": 0, "r_end": 0, "d_end": 0}),
    "lp 1": ("lp", {"p": 1}),
    "lp 2": ("lp", {"p": 2}),
    "lp inf": ("lp", {"p": "inf"}),
    "detached": ("detached", {}),
    "running": ("running", {}),
}


def randomized(network, seed=0):
    """float64, with every parameter and running statistic away from its start."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7 + 0.3)
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand(buffer.shape, generator=generator))
    return network


def inputs(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.5 + 0.5


def pooled_network(case):
    name, options = POOLED[case]
    return randomized(convolutional(lambda channels: NORMALIZERS[name](channels, **options)))


def softplus(logits):
    return F.softplus(-logits)


def gradient(network):
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


def buffers(network):
    return torch.cat([b.double().flatten() for b in network.buffers()] or [torch.zeros(0)])


def whole(network, x, loss=softplus):
    """(gradient, buffers, mean loss) of one large batch."""
    network = copy.deepcopy(network)
    value = loss(network(x)).mean()
    value.backward()
    return gradient(network), buffers(network), value.detach()


def accumulated(network, x, mode="exact", microbatch=MICROBATCH, loss=softplus):
    network = copy.deepcopy(network)
    value = accumulate_gradients(network, loss, x, microbatch, mode)
    return gradient(network), buffers(network), value


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()
