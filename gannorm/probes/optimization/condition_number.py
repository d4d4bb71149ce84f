"""The spread of the Jacobian's singular values at initialization, layer by layer.

Products of random matrices spread their singular values with depth (`theory`); a normalizer, an initialization or a
residual branch may keep them together. One logit has a single singular value, so the Jacobian goes to hidden maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import hooked
from gannorm.probes.batch import batch_size_of, running
from gannorm.probes.calls import KERNELS
from gannorm.probes.optimization.objective import Result, chosen

LARGEST = 4096  # entries of an input or of a map, above which the singular values take minutes


@dataclass(frozen=True, eq=False)
class ConditionNumber(Result):
    """Singular values of ∂(output of a layer)/∂(input), of one image's own block, at L layers in forward order."""

    layers: tuple[str, ...]
    singular_values: tuple[np.ndarray, ...]  # L × (min(inputs, outputs),), largest first, averaged over images

    @property
    def condition(self) -> np.ndarray:
        """(L,) σ_max/σ_median ≥ 1; infinite where half of the directions are lost."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.array([values[0] / np.median(values) for values in self.singular_values])


def condition_number(
    network: nn.Module, x: Tensor, layers: Sequence[str] | None = None, images: int = 2
) -> ConditionNumber:
    """Singular values of the Jacobian from one image to each layer's output, the other images held fixed.

    J = ∂h_i/∂x_i, where h is the output of a layer in the batch x and i an image: its own block. Of the batch's whole
    Jacobian every batch normalizer removes two directions a channel (J·1 = 0 and J·x̂ = 0), which says nothing
    about depth. The cost is a forward pass, and as many backward passes as a map has entries, for each layer and image.

    Args:
        network: a module, in the mode in which it is passed.
        x: (N, …) input, N ≥ 2.
        layers: names of modules; by default the last Linear or convolution before the output.
        images: how many of the N images are averaged over.

    Returns:
        ConditionNumber.

    Raises:
        UserError: no module, an input of whole numbers, a layer that does not exist or is not used, no layer with a
            kernel, maps or inputs of more than 4096 entries.

    Source: Bjorck et al. 2018, §4 (products of random matrices); own blocks: defined here.

    >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    >>> network[0].weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> condition_number(network, torch.randn(4, 2), layers=["0"]).singular_values[0].tolist()
    [3.0, 1.0]
    """
    if not isinstance(network, nn.Module):
        raise UserError(f"a condition number needs a module: got {type(network).__name__}; pass the network itself.")
    n = batch_size_of(x)
    if not x.is_floating_point():
        raise UserError(f"the input must be differentiable: got {x.dtype}; pass floating point numbers.")
    if not 1 <= images <= n:
        raise UserError(f"`images` must be in 1…{n}: got {images}.")
    if (size := x[0].numel()) > LARGEST:
        raise UserError(f"the input must have at most {LARGEST} entries an image: got {size}; pass smaller images.")
    known = [name for name, _ in network.named_modules() if name]
    kernels = [name for name, m in network.named_modules() if isinstance(m, KERNELS) and name]
    if layers is None and len(kernels) < 2:
        raise UserError(
            "a hidden map needs a network of at least two layers with kernels: it has fewer; name `layers`."
        )
    names = chosen(known, [kernels[-2]] if layers is None else layers, "a module of the network")
    values: dict[str, Tensor] = {}
    with torch.inference_mode(False), torch.enable_grad(), running(network, x) as run:
        for name in names:
            of_images = [_block(network, name, run, x, i) for i in range(images)]
            values[name] = torch.stack([torch.linalg.svdvals(block) for block in of_images]).mean(0)
    return ConditionNumber(tuple(names), tuple(v.cpu().numpy() for v in values.values()))


def _block(network: nn.Module, name: str, run: Callable[[Tensor], object], x: Tensor, image: int) -> Tensor:
    """∂h_i/∂x_i as a matrix (entries of the map, entries of the image), in float64."""
    maps: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            maps.append(output)

    own = x[image].detach().clone().requires_grad_()
    batch = torch.stack([own if k == image else x[k].detach() for k in range(len(x))])
    with hooked([network.get_submodule(name).register_forward_hook(keep)]):
        run(batch)
    if not maps or not maps[0].requires_grad:
        raise UserError(f"the layer must be used on the way from the input: {name!r} is not.")
    entries = maps[0][image].flatten()
    if len(entries) > LARGEST:
        raise UserError(f"a map must have at most {LARGEST} entries an image: {name!r} has {len(entries)}.")
    rows = [torch.autograd.grad(entry, own, retain_graph=True)[0].flatten() for entry in entries]
    return torch.stack(rows).double()
