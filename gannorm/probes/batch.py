"""What every probe needs to know of a stranger's network: where the batch is in its inputs and outputs.

Legend: N batch. An input is a tensor with the batch in dimension `batch_dim`, or a tuple, list or dictionary of such
tensors; a tuple is passed as positional arguments and a dictionary as keywords where the signature takes them so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import isolated

Function = Callable[..., Any]
Run = Callable[[Any], Any]


@contextmanager
def running(f: Function, x: Any) -> Iterator[Run]:
    """Yield x -> f(x), pure (see `isolated`), for inputs of the structure of `x`."""
    spread = _spreads(f, x)
    with isolated(f) as pure:
        if spread is tuple:
            yield lambda x: pure(*x)
        elif spread is dict:
            yield lambda x: pure(**x)
        else:
            yield pure


def selecting(f: Function, output: Any) -> Function:
    """f, or a function that returns the chosen one of its outputs."""
    if output is None:
        return f

    def chosen(*args: Any, **kwargs: Any) -> Any:
        out = f(*args, **kwargs)
        return output(out) if callable(output) else out[output]

    return chosen


def default_generator(generator: torch.Generator | None) -> torch.Generator:
    """The caller's generator, or a fresh one with seed 0: a probe repeats, and never draws from the global one."""
    if not isinstance(generator, torch.Generator | None):
        got = f"{generator!r:.80}"
        raise UserError(
            f"`generator` draws and must be a torch.Generator: got {got}; torch.Generator().manual_seed(0)."
        )
    return torch.Generator().manual_seed(0) if generator is None else generator


def permutation(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device).cpu()


def codes(n: int, generator: torch.Generator) -> list[Tensor]:
    """The ⌈log₂N⌉ bits of the samples' numbers in a random numbering, as boolean (N,): any two differ in some bit."""
    numbers = permutation(n, generator)
    return [numbers >> bit & 1 == 1 for bit in range((n - 1).bit_length())]


# -- inputs -----------------------------------------------------------------------------------------------------------


def batch_size_of(x: Any, batch_dim: int = 0) -> int:
    """N. Raises UserError unless every tensor in `x` has the same N, at least 2, and finite values."""
    leaves = tensors(x)
    if not leaves:
        raise UserError(f"the input must be a tensor or a tuple or dict of tensors: got {type(x).__name__}.")
    if not all(0 <= batch_dim < t.dim() for t in leaves):
        shapes = ", ".join(str(tuple(t.shape)) for t in leaves)
        raise UserError(
            f"`batch_dim` must be a dimension of every input, counted from 0: got {batch_dim} for {shapes}; "
            "pass the dimension of the samples."
        )
    sizes = {t.shape[batch_dim] for t in leaves}
    if len(sizes) > 1:
        raise UserError(f"all inputs must hold the same samples: got batches of {sorted(sizes)}; set batch_dim.")
    (n,) = sizes
    if n < 2:
        raise UserError(f"batch dependence needs at least two samples: got {n}; pass a larger batch.")
    if not all(bool(torch.isfinite(t).all()) for t in leaves if t.is_floating_point()):
        raise UserError("the input must be finite: it holds NaN or infinity; check the data.")
    return n


def tensors(x: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dictionaries, in order."""
    if isinstance(x, Tensor):
        return [x]
    if isinstance(x, dict):
        return [t for v in x.values() for t in tensors(v)]
    return [t for v in x for t in tensors(v)] if isinstance(x, tuple | list) else []


def map_tensors(fn: Callable[..., Any], x: Any, *others: Any) -> Any:
    """`x` with every tensor t replaced by fn(t, …), … being the tensors at the same place in `others`.

    >>> map_tensors(torch.add, {"a": (torch.ones(1), None)}, {"a": (torch.ones(1), None)})
    {'a': (tensor([2.]), None)}
    """
    if isinstance(x, Tensor):
        return fn(x, *others)
    if isinstance(x, dict):
        return type(x)({k: map_tensors(fn, v, *(o[k] for o in others)) for k, v in x.items()})
    if isinstance(x, tuple | list):
        values = [map_tensors(fn, v, *(o[i] for o in others)) for i, v in enumerate(x)]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    return x


def take(x: Any, index: Tensor, batch_dim: int = 0) -> Any:
    """The samples `index` (a 1-D integer tensor) of `x`, in that order."""
    return map_tensors(lambda t: t.index_select(batch_dim, index.to(t.device)), x)


def concatenate(first: Any, second: Any, batch_dim: int = 0) -> Any:
    """The samples of `first`, then those of `second`. Raises UserError unless those are of one kind."""
    kinds = _sample_shapes(first, batch_dim), _sample_shapes(second, batch_dim)
    if kinds[0] != kinds[1]:
        raise UserError(
            f"all samples, real and fake, must have one shape and structure: got {kinds[0]} and {kinds[1]} without the "
            "batch; pass both in the same form."
        )
    return map_tensors(lambda a, b: torch.cat([a, b], batch_dim), first, second)


def both_classes(real: Any, fake: Any, n: int, batch_dim: int = 0) -> Any:
    """The first n samples of each class, real ones first."""
    first = torch.arange(n)
    return concatenate(take(real, first, batch_dim), take(fake, first, batch_dim), batch_dim)


# -- outputs ----------------------------------------------------------------------------------------------------------


def rows(output: Any, n: int, batch_dim: int = 0) -> list[Tensor]:
    """Every floating tensor of an output, with the batch moved to dimension 0. Raises UserError if none has one."""
    leaves = [t for t in tensors(output) if t.is_floating_point()]
    with_batch = [r for r in (batch_first(t, n, batch_dim) for t in leaves) if r is not None]
    if not with_batch:
        shapes = ", ".join(str(tuple(t.shape)) for t in leaves) or type(output).__name__
        raise UserError(f"the output must have one entry per sample: got {shapes} for {n} samples; remove the mean.")
    if not all(bool(torch.isfinite(r).all()) for r in with_batch):
        raise UserError(
            "the outputs must be finite: got NaN or infinity; check the network and the range of its input."
        )
    return with_batch


def batch_first(t: Tensor, n: int, batch_dim: int) -> Tensor | None:
    """`t` as (N, …), where its dimension `batch_dim`, or else 0, has N entries; otherwise None."""
    for dim in (batch_dim, 0):
        if t.dim() > dim and t.shape[dim] == n:
            return t.movedim(dim, 0)
    return None


def scalars(output: Any, n: int, batch_dim: int = 0) -> Tensor:
    """One number per sample for derivatives: the logit itself, or a fixed random projection of a larger output.

    Of K numbers per sample it takes Σ_k w_k f_k with a random direction w, ‖w‖ = 1, drawn once and for all: over the
    directions, the expected squared derivative is the mean squared derivative of the K numbers.
    """
    return project(torch.cat([r.reshape(n, -1) for r in _widened(rows(output, n, batch_dim))], dim=1))


def project(flat: Tensor) -> Tensor:
    """(N, K) -> (N,), as described for `scalars`."""
    k = flat.shape[1]
    if k == 1:
        return flat[:, 0]
    direction = torch.randn(k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return flat @ (direction / direction.norm()).to(flat)  # signs would cancel outputs that are equal


def logits(output: Any, n: int, batch_dim: int = 0) -> Tensor:
    """One logit per sample, (N,) in float64 on the CPU: of a map of logits (a patch discriminator) the mean."""
    first = rows(output, n, batch_dim)[0]
    return first.detach().reshape(n, -1).cpu().double().mean(dim=1)


# -- helpers ----------------------------------------------------------------------------------------------------------


def _sample_shapes(x: Any, batch_dim: int) -> Any:
    """The structure of `x`, with the shape of one sample in the place of every tensor."""
    return map_tensors(lambda t: tuple(size for dim, size in enumerate(t.shape) if dim != batch_dim), x)


def _spreads(f: Function, x: Any) -> type | None:
    """Whether f takes the structure x as positional (tuple) or keyword (dict) arguments, or whole (None)."""
    call = f.forward if isinstance(f, nn.Module) else f
    try:
        signature = inspect.signature(call)
        if type(x) is tuple:
            signature.bind(*x)
            return tuple
        if isinstance(x, dict):
            signature.bind(**x)
            return dict
    except (TypeError, ValueError):  # it does not bind, or a builtin has no signature
        pass
    return None


def _widened(parts: list[Tensor]) -> list[Tensor]:
    """The tensors in one common precision, at least float32."""
    dtype = torch.float32
    for part in parts:
        dtype = torch.promote_types(dtype, part.dtype)
    return [part.to(dtype) for part in parts]
