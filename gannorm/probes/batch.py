"""Inputs and outputs of a third-party network: where each holds the batch.

Legend: N batch. An input is a tensor with the batch in dimension `batch_dim`, or a tuple, list or dictionary of such
tensors; a tuple is passed as positional arguments and a dictionary as keywords where the signature takes them so.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from gannorm.errors import UserError
from gannorm.isolate import Isolated, isolated
from gannorm.probes.progress import progress, step

Function = Callable[..., Any]
Output = Any  # None, or which of several outputs: an index, a key, a path of these (a tuple) or a callable


class Run:
    """x -> f(x), pure (see `isolated`), for inputs of one structure, of which f is given copies."""

    def __init__(self, pure: Isolated, spread: type | None) -> None:
        self.pure, self.spread = pure, spread

    def __call__(self, x: Any) -> Any:
        step()
        x = map_tensors(torch.clone, x)  # f may work in place
        if self.spread is tuple:
            return self.pure(*x)
        return self.pure(**x) if self.spread is dict else self.pure(x)

    @property
    def roots(self) -> dict[str, nn.Module]:
        """The modules of f by name, see `isolate.modules_in`; unnamed ones are included after they have run."""
        return self.pure.roots


@contextmanager
def running(f: Function, x: Any) -> Iterator[Run]:
    """Yield x -> f(x), pure (see `isolated`), for inputs of the structure of `x`, which f is given copies of."""
    spread = _spreads(f, x)
    with isolated(f) as pure, progress("measuring"):
        yield Run(pure, spread)


def default_generator(generator: torch.Generator | None) -> torch.Generator:
    """The given generator, or a fresh one with seed 0: a probe is repeatable and never draws from the global one."""
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
    if isinstance(x, PackedSequence):
        raise UserError("the input must be a padded tensor: got a PackedSequence; pass that and pack it inside f.")
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


class Selected:
    """`f` with one of its outputs chosen, see `selecting`. Other attributes come from `__wrapped__`."""

    def __init__(self, f: Function, output: Output) -> None:
        self.__wrapped__, self.output = f, output

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return chosen(self.__wrapped__(*args, **kwargs), self.output)


def selecting(f: Function, output: Output = None) -> Function:
    """`f`, returning the one tensor that holds the logits.

    Args:
        f: a network or a callable.
        output: which of several outputs: an index, a key or an attribute, a path of these (a tuple), or a callable that
            takes what f returns. None where f returns one tensor, in whatever structure.

    Returns:
        A callable. Where f returns several tensors and none is chosen, it raises a UserError that lists them.

    >>> selecting(lambda x: {"features": x, "logit": x[:, 0]}, "logit")(torch.ones(2, 3))
    tensor([1., 1.])
    """
    return f if isinstance(f, Selected) and output is None else Selected(f, output)


def chosen(value: Any, output: Output = None) -> Tensor:
    """The tensor that `output` selects from a network's output. Raises UserError for no tensor, or one of several."""
    if callable(output):
        part = output(value)
    else:
        part = value
        path = output if isinstance(output, tuple) else () if output is None else (output,)
        for step in path:
            part = _step(part, step, value, output)
    outputs = {id(t): (where, t) for where, t in _listed(part) if t.is_floating_point() or t.is_complex()}
    if len(outputs) == 1:
        ((_, tensor),) = outputs.values()
        return tensor
    if not outputs:
        raise UserError(f"the output must be a tensor of floating-point logits: got {_listing(part)}.")
    where = next(iter(outputs.values()))[0]
    raise UserError(
        f"`f` must return one output, and {len(outputs)} were returned: {_listing(part)}; choose one with `output=`, "
        f"an index, key, path or callable, such as output={where[0] if len(where) == 1 else where!r}."
    )


def per_sample(output: Any, n: int, batch_dim: int = 0) -> Tensor:
    """The output as (N, …), real and finite. Raises UserError if it has not one entry per sample."""
    t = chosen(output)
    t = torch.view_as_real(t) if t.is_complex() else t
    row = batch_first(t, n, batch_dim)
    if row is None:
        raise UserError(
            f"the output must have one entry per sample: got {tuple(t.shape)} for {n} samples; {_remedy(t, n)}"
        )
    if not bool(torch.isfinite(row).all()):
        raise UserError(
            "the outputs must be finite: got NaN or infinity; check the network and the range of its input."
        )
    return row


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
    flat = per_sample(output, n, batch_dim).reshape(n, -1)
    return project(flat if flat.dtype == torch.float64 else flat.float())


def project(flat: Tensor) -> Tensor:
    """(N, K) -> (N,), as described for `scalars`."""
    k = flat.shape[1]
    if k == 1:
        return flat[:, 0]
    direction = torch.randn(k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return flat @ (direction / direction.norm()).to(flat)  # signs would cancel outputs that are equal


def logits(output: Any, n: int, batch_dim: int = 0) -> Tensor:
    """One logit per sample, (N,) in float64 on the CPU: of a map of logits (a patch discriminator) the mean."""
    return per_sample(output, n, batch_dim).detach().reshape(n, -1).cpu().double().mean(dim=1)


# -- helpers ----------------------------------------------------------------------------------------------------------


def _sample_shapes(x: Any, batch_dim: int) -> Any:
    """The structure of `x`, with the shape of one sample in the place of every tensor."""
    return map_tensors(lambda t: tuple(size for dim, size in enumerate(t.shape) if dim != batch_dim), x)


def _spreads(f: Function, x: Any) -> type | None:
    """Whether f takes the structure x as positional (tuple, list) or keyword (dict) arguments, or whole (None).

    Raises UserError if it takes neither.
    """
    f = inspect.unwrap(f)
    try:
        signature = inspect.signature(f.forward if isinstance(f, nn.Module) else f)
    except (TypeError, ValueError):  # a builtin or a scripted function has none
        return tuple if isinstance(f, torch.jit.ScriptModule) and type(x) in (tuple, list) else None
    if type(x) in (tuple, list) and _binds(signature, *x):
        return tuple
    if isinstance(x, dict) and all(isinstance(key, str) for key in x) and _binds(signature, **x):
        return dict
    if not _binds(signature, x):
        names = ", ".join(signature.parameters)
        got = f"{len(x)} inputs" if isinstance(x, tuple | list | dict) else "one input"
        raise UserError(f"`f` takes ({names}): got {got}; pass all of them, as a tuple or as a dictionary by name.")
    return None


def _binds(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _step(part: Any, step: Any, value: Any, output: Output) -> Any:
    """One step of a path: an item, or an attribute."""
    try:
        return part[step]
    except (KeyError, IndexError, TypeError):
        if isinstance(step, str) and hasattr(part, step):
            return getattr(part, step)
    raise UserError(f"`output` must lead to a tensor: got {output!r}; there are {_listing(value)}.") from None


def _listed(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """(path, tensor) of every tensor in a returned structure, also in dataclasses and plain objects."""
    if isinstance(value, PackedSequence):
        value = pad_packed_sequence(value, batch_first=True)[0]
    if isinstance(value, Tensor):
        yield path, value
        return
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, tuple | list):
        parts = enumerate(value)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type) and len(path) < 4:
        parts = vars(value).items()
    for key, inner in parts:
        yield from _listed(inner, (*path, key))


def _listing(value: Any) -> str:
    """Every tensor of a structure with its path, type and shape, for an error."""
    lines = [
        f"{path[0] if len(path) == 1 else path!r}: {str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"
        for path, t in _listed(value)
    ]
    more = f", and {len(lines) - 12} more" if len(lines) > 12 else ""
    return ", ".join(lines[:12]) + more if lines else f"no tensor, but {type(value).__name__}"


def _remedy(t: Tensor, n: int) -> str:
    """The remedy for an output without N rows."""
    rows = t.shape[0] if t.dim() else 1
    if rows <= 1:
        return "remove the mean or sum over the batch."
    other = f"if its {rows} rows are the samples, pass the dimension of the input that holds them as batch_dim."
    if n % rows == 0:
        k = n // rows
        return (
            f"if {k} samples share a logit, as in a packed discriminator, probe it by packs: "
            f"f=lambda x: network(x.flatten(0, 1)) on x.unflatten(0, (-1, {k})); {other}"
        )
    if rows % n == 0:
        return f"if each sample has {rows // n} entries, pass output=lambda out: out.unflatten(0, ({n}, -1)); {other}"
    return other
