"""Initializations by name, each drawn from an explicit generator; and equalizing the bias of a discriminator.

An initialization sets the weight of every convolution and linear layer and zeroes their biases; the parameters of
normalizers and activations keep the values of their construction. Layers draw in the order of the network's modules and
nothing else draws, so two networks that differ in their normalizer alone start from the same weights.

A weight normalizer receives the drawn weight as the one to be normalized. Two initializations cannot work through
one, and the pair is refused: fixup scales weights, and sets some to zero, which a normalizer would divide by 0; and
lsuv acts by the scale of a weight, which spectral and strict weight normalization and standardization remove.

Fan-in counts what one output pixel sums: A·kh·kw for A input channels, divided by the strides in a transposed
convolution. A transposed convolution of stride 1 without padding is taken for the linear layer that it is in a
generator (`is_projection`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import hooked, isolated
from gannorm.isolate.state import RandomState
from gannorm.models.residual import ResidualBlock, Shift
from gannorm.normalizers.reference import collecting
from gannorm.normalizers.slots import check_options
from gannorm.normalizers.weights import TPReLU, is_projection
from gannorm.registry import Registry

Weighted = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


# How a network's weights are set: function(network, generator, **options), some also with `reference`.
INITIALIZERS: Registry[Callable[..., None]] = Registry("initialization")
GIVEN = ("network", "generator", "reference")  # the rest are options


def initialize(
    network: nn.Module, name: str, *, generator: Generator, reference: Tensor | None = None, **options: Any
) -> None:
    """Set the weights of a network, in place.

    Args:
        network: any module of convolutions and linear layers; fixup needs the residual pair.
        name: dcgan, kaiming, xavier, orthogonal, delta_orthogonal, lsuv or fixup.
        generator: the only source of randomness.
        reference: inputs of the network, for lsuv; it serves virtual batch normalization too while lsuv works.
        options: fixup takes zero_classifier (False): also zero the last linear layer of a discriminator.

    Raises:
        UserError: an unknown name or option, a missing reference, or a pair that is undefined.

    >>> conv = nn.Conv2d(3, 8, 3)
    >>> initialize(conv, "orthogonal", generator=torch.Generator().manual_seed(0))
    >>> w = conv.weight.flatten(1)
    >>> bool(torch.allclose(w @ w.T, torch.eye(8), atol=1e-6))
    True
    """
    apply = INITIALIZERS[name]
    accepted = list(inspect.signature(apply).parameters)
    check_options(f"initialization {name!r}", apply, [a for a in accepted if a not in GIVEN], options)
    if "reference" in accepted:
        if reference is None:
            raise UserError(f"initialization {name!r} needs a reference batch: got none; pass `reference`.")
        options["reference"] = reference
    with torch.no_grad():
        apply(network, generator, **options)


def equalize_bias(discriminator: nn.Module, batches: Sequence[Tensor]) -> float:
    """Shift the bias of the last linear layer so that half of the images are called real, and return the shift.

    An untrained network puts most images on one side of its threshold: b ← b − median_i f(x_i) over all batches.

    Args:
        discriminator: (N, C, H, W) → (N,) logits, its last layer a Linear with bias; it runs in its current mode.
        batches: images in the batches in which training shows them, an even number in all; with batch statistics the
            logits, and so the shift, depend on it.

    Returns:
        The shift; 0 if the logits were balanced already.

    Raises:
        UserError: there is no linear layer with a bias at the end.

    Source: defined here, after the observation of the class bias at initialization in Bjorck et al. 2018.
    """
    last = (_layers(discriminator) or [None])[-1]
    if not isinstance(last, nn.Linear) or last.bias is None:
        raise UserError(
            "equalizing the bias needs a discriminator whose last layer is a Linear with bias: it has none."
        )
    with torch.no_grad(), isolated(discriminator) as f:
        logits = torch.cat([f(images).flatten().float() for images in batches])
        shift = -torch.quantile(logits, 0.5)  # between the middle two, unlike torch.median
    with torch.no_grad():
        last.bias.add_(shift)
    return shift.item()


@contextmanager
def seeded(generator: Generator) -> Iterator[None]:
    """Seed the global generators, from which noisy layers draw, by `generator` in the block, and restore them."""
    state = RandomState()
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    try:
        yield
    finally:
        state.restore()


# -- initializations that draw layer by layer -------------------------------------------------------------------------


def dcgan(network: nn.Module, generator: Generator) -> None:
    """w ~ N(0, 0.02²). Source: Radford et al. 2016, section 4."""
    _draw_each(network, generator, lambda layer, draw: 0.02 * draw)


def kaiming(network: nn.Module, generator: Generator) -> None:
    """w ~ N(0, 2/((1 + a²)·fan_in)), a the slope of the network's (leaky) ReLU. Source: He et al. 2015, Eq. 15."""
    slope = _slope(network)
    _draw_each(network, generator, lambda layer, draw: _he_deviation(layer, slope) * draw)


def xavier(network: nn.Module, generator: Generator) -> None:
    """w ~ N(0, 2/(fan_in + fan_out)). Source: Glorot & Bengio 2010, Eq. 12, with a normal density."""
    _draw_each(network, generator, lambda layer, draw: math.sqrt(2 / sum(_fans(layer))) * draw)


def orthogonal(network: nn.Module, generator: Generator) -> None:
    """(outputs × rest) a random matrix with orthonormal rows, or columns. Source: Saxe et al. 2014 (1312.6120)."""
    _draw_each(network, generator, lambda layer, draw: _orthonormal(draw.flatten(1)).view_as(draw))


def delta_orthogonal(network: nn.Module, generator: Generator) -> None:
    """Zero except the middle of the kernel, which is a random orthogonal matrix that rotates each pixel.

    A transposed convolution of stride s holds it at the s × s middle taps, so that each output pixel receives it once.
    Linear layers are orthogonal.

    Source: Xiao et al. 2018 (1806.05393), Algorithm 1; the transposed form is defined here.
    """

    def draw_delta(layer: Weighted, draw: Tensor) -> Tensor:
        if draw.dim() == 2:
            return _orthonormal(draw)
        height, width = (layer.stride if isinstance(layer, nn.ConvTranspose2d) else (1, 1))[:2]
        top, left = (draw.shape[2] - height) // 2, (draw.shape[3] - width) // 2
        weight = torch.zeros_like(draw)
        weight[:, :, top : top + height, left : left + width] = _orthonormal(draw[:, :, 0, 0])[:, :, None, None]
        return weight

    _draw_each(network, generator, draw_delta)


# -- initializations of whole networks --------------------------------------------------------------------------------


def lsuv(network: nn.Module, generator: Generator, reference: Tensor) -> None:
    """Orthogonal weights, each then divided by the standard deviation of its layer's output on the reference batch.

    The layers are met in the order in which the batch reaches them, each with those before it done. The biases are
    zero, so one division is exact and the paper's iteration to a tolerance is not needed.

    Source: Mishkin & Matas 2016 (1511.06422), Algorithm 1.
    """
    orthogonal(network, generator)

    def rescale(layer: Weighted, inputs: Any, output: Tensor) -> Tensor:
        deviation = output.float().std(correction=0).to(output.dtype)
        if not deviation > 0:
            raise UserError("lsuv needs a reference batch on which every layer varies: one layer's output is constant.")
        before = layer.weight.clone()
        _set_weight(layer, before / deviation)
        if not torch.allclose(layer.weight, before / deviation, rtol=1e-3):
            raise UserError(
                "lsuv works by the scale of the weights, which this network's weight normalizer removes; "
                "choose weight_norm none or weight, or another initialization."
            )
        return output / deviation

    buffers = [(m, name, b, b.clone()) for m in network.modules() for name, b in m.named_buffers(recurse=False)]
    try:
        hooks = hooked(layer.register_forward_hook(rescale) for layer in _layers(network))
        with hooks, seeded(generator), collecting(network):
            network(reference)
    finally:
        for module, name, buffer, content in buffers:
            setattr(module, name, buffer.copy_(content))


def fixup(network: nn.Module, generator: Generator, zero_classifier: bool = False) -> None:
    """Residual branches that start at exactly zero and learn at a rate independent of the depth.

    (1) The last weight layer of each branch is zero (and the classifier, if asked: the discriminator is then 0
    everywhere before its first step). (2) Elsewhere He initialization, in branches times L^{−1/(2m−2)} for L blocks
    of m weight layers; a 1×1 shortcut is outside the branch and, with no ReLU before it, has gain 1. (3) The scalar
    multipliers are 1, the scalar biases 0. L is counted in each network by itself. The output convolution of a
    generator is never zero.

    Source: Zhang et al. 2019, section 3; the gain for leaky ReLU and what concerns GANs are defined here.
    """
    blocks = [m for m in network.modules() if isinstance(m, ResidualBlock)]
    if not blocks:
        raise UserError("fixup needs residual blocks: this network has none; use the residual pair.")
    kaiming(network, generator)
    for block in blocks:
        *inner, last = block.convolutions
        _set_zero(last)
        for layer in inner:
            scaled = layer.weight * len(blocks) ** (-1 / (2 * len(inner)))  # m − 1 = len(inner)
            _set_weight(layer, scaled)
            if not torch.allclose(torch.as_tensor(layer.weight), scaled, rtol=1e-3):
                raise UserError(
                    "fixup works by the scale of the weights, which this network's weight normalizer removes; "
                    "choose weight_norm none or another initialization."
                )
        block.scale.fill_(1)
        if isinstance(block.shortcut, nn.Conv2d):
            _set_weight(block.shortcut, block.shortcut.weight / _gain(_slope(network)))
    for module in network.modules():
        if isinstance(module, Shift):
            module.bias.zero_()
    if zero_classifier:
        classifier = _layers(network)[-1]
        if not isinstance(classifier, nn.Linear):
            raise UserError("zero_classifier needs a network that ends in a linear layer: got a generator.")
        _set_zero(classifier)


for _function in (dcgan, kaiming, xavier, orthogonal, delta_orthogonal, lsuv, fixup):
    INITIALIZERS.register(_function.__name__, _function)
INITIALIZERS.seal()


# -- helpers ----------------------------------------------------------------------------------------------------------


def _layers(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]


def _draw_each(network: nn.Module, generator: Generator, shape: Callable[[Any, Tensor], Tensor]) -> None:
    """Set each layer's weight to `shape` of a normal draw, (outputs, inputs) or with the kernel dimensions last."""
    for layer in _layers(network):
        stored = layer.weight.shape
        transposed = isinstance(layer, nn.ConvTranspose2d)
        size = (stored[1], stored[0], *stored[2:]) if transposed else stored
        if is_projection(layer):
            size = (stored[1:].numel(), stored[0])
        weight = shape(layer, torch.empty(size, device=generator.device).normal_(generator=generator))
        _set_weight(layer, weight.transpose(0, 1).reshape(stored) if transposed else weight)
        if layer.bias is not None:
            layer.bias.zero_()
        _restart_power_iteration(layer, generator)


def _set_weight(layer: Any, weight: Tensor) -> None:
    weight = weight.to(layer.weight)
    if nn.utils.parametrize.is_parametrized(layer, "weight"):
        layer.weight = weight  # through the parametrization's right inverse
    else:
        layer.weight.copy_(weight)


def _set_zero(layer: Any) -> None:
    _set_weight(layer, torch.zeros_like(layer.weight))
    if not torch.equal(layer.weight, torch.zeros_like(layer.weight)):
        raise UserError(
            "fixup starts with zero weights, which a weight normalizer would divide by their norm, zero; "
            "choose weight_norm none or another initialization."
        )


def _restart_power_iteration(layer: Any, generator: Generator) -> None:
    """Point a spectral norm's vectors at the new weight: a fresh start and torch's own 15 iterations."""
    start = dict(layer.named_buffers()).get("parametrizations.weight.0._v")
    if start is None:
        return
    draw = torch.empty(start.shape, device=generator.device).normal_(generator=generator)
    start.copy_(draw / draw.norm())
    training = layer.training
    layer.train()
    for _ in range(15):
        _ = layer.weight  # each access in training mode is one iteration
    layer.train(training)


def _slope(network: nn.Module) -> float:
    """The slope for negative inputs of the network's first rectifier; 0 where it has none."""
    for module in network.modules():
        if isinstance(module, nn.LeakyReLU):
            return module.negative_slope
        if isinstance(module, TPReLU):
            return module.slope.mean().item()
        if isinstance(module, nn.ReLU):
            return 0.0
    return 0.0


def _gain(slope: float) -> float:
    return math.sqrt(2 / (1 + slope**2))


def _he_deviation(layer: Weighted, slope: float) -> float:
    return _gain(slope) / math.sqrt(_fans(layer)[0])


def _fans(layer: Weighted) -> tuple[float, float]:
    """(fan-in, fan-out): the products that one output value sums, and in which one input value appears."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if is_projection(layer):
        return layer.in_channels, layer.out_channels * math.prod(layer.kernel_size)
    kernel, stride = math.prod(layer.kernel_size), math.prod(layer.stride)
    into, out = layer.in_channels * kernel, layer.out_channels * kernel
    return (into / stride, out) if isinstance(layer, nn.ConvTranspose2d) else (into, out / stride)


def _orthonormal(matrix: Tensor) -> Tensor:
    """Orthonormal rows, or columns of a tall matrix, uniformly distributed, by QR of a Gaussian matrix."""
    tall = matrix if len(matrix) >= matrix.shape[1] else matrix.T
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()  # makes it unique, and so uniform
    return q if len(matrix) >= matrix.shape[1] else q.T
