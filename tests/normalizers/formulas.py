"""Every normalizer's training-mode formula, written out slowly, with its layer ready to be compared with it.

Each formula is (layer, x) → y for x (N, C, H, W), in plain differentiable operations. Keys name a NORMALIZERS entry and the
options of the case.
"""

import math

import torch

from gannorm.normalizers import NORMALIZERS

N, C, S = 8, 16, 4
REFERENCE_BATCH = 6


def standardize(x, dims, eps):
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + eps).sqrt()


def per_channel(parameter):
    return parameter.view(1, -1, 1, 1)


def scaled(layer, x_hat):
    return per_channel(layer.weight) * x_hat + per_channel(layer.bias)


def batch(layer, x):
    return scaled(layer, standardize(x, (0, 2, 3), layer.eps))


def ghost(layer, x):
    return torch.cat([batch(layer, part) for part in x.split(layer.size)])


def grouped(layer, x, groups):
    parts = standardize(x.reshape(len(x), groups, -1), (2,), layer.eps)
    return scaled(layer, parts.reshape(x.shape))


def instance(layer, x):
    return scaled(layer, standardize(x, (2, 3), layer.eps))


def lp(layer, x):
    magnitude = x.abs()
    if layer.p == math.inf:
        s = magnitude.amax((0, 2, 3), keepdim=True)
    else:
        s = magnitude.pow(layer.p).mean((0, 2, 3), keepdim=True).pow(1 / layer.p)
    return scaled(layer, (x - x.mean((0, 2, 3), keepdim=True)) / (s.square() + layer.eps).sqrt())


def renorm(layer, x):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    sigma_b, sigma = (var + layer.eps).sqrt(), (per_channel(layer.running_var) + layer.eps).sqrt()
    passes = layer.num_batches_tracked.item() + 1 - layer.start
    r_max = 1 + (layer.r_max - 1) * min(max(passes / max(layer.r_end - layer.start, 1), 0), 1)
    d_max = layer.d_max * min(max(passes / max(layer.d_end - layer.start, 1), 0), 1)
    r = (sigma_b / sigma).clamp(1 / r_max, r_max).detach()
    d = ((mean - per_channel(layer.running_mean)) / sigma).clamp(-d_max, d_max).detach()
    return scaled(layer, (x - mean) / sigma_b * r + d)


def virtual(layer, x):
    r = layer.ref_size
    mean_ref, square_ref = per_channel(layer.ref_mean), per_channel(layer.ref_var + layer.ref_mean.square())
    mean = (x.mean((2, 3), keepdim=True) + r * mean_ref) / (r + 1)
    square = (x.square().mean((2, 3), keepdim=True) + r * square_ref) / (r + 1)
    return scaled(layer, (x - mean) / (square - mean.square() + layer.eps).sqrt())


def frn(layer, x):
    y = scaled(layer, x / (x.square().mean((2, 3), keepdim=True) + layer.eps).sqrt())
    return torch.maximum(y, per_channel(layer.threshold))


def evonorm_s0(layer, x):
    var = x.reshape(len(x), layer.groups, -1).var(2, correction=0)
    deviation = (var + layer.eps).sqrt().repeat_interleave(C // layer.groups, 1)[:, :, None, None]
    return scaled(layer, x * torch.sigmoid(per_channel(layer.v) * x) / deviation)


CASES = {
    "batch": ("batch", {}, batch),
    "sync": ("sync", {}, batch),
    "ghost": ("ghost", {"size": 4}, ghost),
    "group": ("group", {"groups": 4}, lambda layer, x: grouped(layer, x, 4)),
    "instance": ("instance", {}, instance),
    "layer": ("layer", {}, lambda layer, x: grouped(layer, x, 1)),
    "none": ("none", {}, lambda layer, x: x),
    "lp 1": ("lp", {"p": 1}, lp),
    "lp 2": ("lp", {"p": 2}, lp),
    "lp inf": ("lp", {"p": "inf"}, lp),
    "renorm at its start": ("renorm", {}, batch),
    "renorm clipped": ("renorm", {"r_max": 1.1, "d_max": 0.1, "start": 0, "r_end": 0, "d_end": 0}, renorm),
    "renorm half-way": ("renorm", {"r_max": 3.0, "d_max": 5.0, "start": 0, "r_end": 8, "d_end": 4}, renorm),
    "renorm unclipped": ("renorm", {"r_max": 1e3, "d_max": 1e3, "start": 0, "r_end": 0, "d_end": 0}, renorm),
    "noisy without noise": ("noisy", {"shift": 0, "scale": 1, "shift_spread": 0, "scale_spread": 0}, batch),
    "virtual": ("virtual", {}, virtual),
    "frn": ("frn", {}, frn),
    "evonorm_s0": ("evonorm_s0", {"groups": 4}, evonorm_s0),
}


def make(case, dtype=torch.float64, seed=0):
    """(layer, formula, x) of a case: random parameters, running statistics away from their start, x off centre."""
    name, options, formula = CASES[case]
    generator = torch.Generator().manual_seed(seed)
    layer = NORMALIZERS[name](C, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        for buffer_name, buffer in layer.named_buffers():
            if buffer_name == "ref_size":
                buffer.fill_(REFERENCE_BATCH)
            elif buffer.is_floating_point():
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator))
    x = 0.5 + 1.5 * torch.randn(N, C, S, S, generator=generator, dtype=torch.float64)
    return layer.to(dtype), formula, x.to(dtype)
