"""Load a third-party file of weights into a third-party module: all weights or none, under their own names.

Training wraps networks: DataParallel puts `module.` before every name, torch.compile `_orig_mod.`, Lightning the name
of the attribute. These are taken off, and said; nothing else is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gannorm.errors import UserError, printable
from gannorm.models.checkpoint import refusal

WRAPPERS = ("module", "_orig_mod")  # of DataParallel and DistributedDataParallel; of torch.compile
NAMED = 3  # weights that an error names

State = Mapping[str, Tensor]


def load_weights(module: nn.Module, file: Path, key: str = "") -> str:
    """Load a file's weights into `module`, exactly: every one has a place and every place one.

    Args:
        module: changed in place.
        file: of torch.save, read without running anything in it.
        key: where in its content the weights are: a key, keys joined by dots, or the prefix of their names.

    Returns:
        A remark: the file, the key and the prefixes that were taken off.

    Raises:
        UserError: no readable file, no weights at the key, or others than the module's.
    """
    content = _read(file)
    state, where = _at(content, key, file) if key else _only(content, file, module)
    state, removed = _fitted(state, module, file)
    _require_shapes(state, module, file)
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the weights of {file} must fit {type(module).__name__}: {reason}.") from None
    taken = f", {' and '.join(map(repr, removed))} taken off their names" if removed else ""
    return f"weights of {file}{where}{taken}"


def _read(file: Path) -> Any:
    try:
        with file.open("rb") as stream:
            start = stream.read(9)
        if file.suffix == ".safetensors" or start[8:] == b"{":
            return _safetensors(file)
        if not start.startswith((b"PK", b"\x80")):  # a zip archive, or the pickle of earlier versions
            begins = printable(start.decode("ascii", "replace"))
            raise UserError(
                f"`--weights` must be a file of torch.save: {file} begins with {begins!r}; save the module's "
                "state_dict()."
            )
        return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"`--weights` must be a readable file: {file}: {error.strerror or error}.") from None
    except UserError:
        raise
    except Exception as error:  # torch's unpickler raises whatever a damaged byte leads it to
        raise UserError(
            f"`--weights` must be a file of torch.save that holds tensors alone: {file}: {refusal(error).rstrip('.')}; "
            "save the module's state_dict()."
        ) from None


def _safetensors(file: Path) -> State:
    try:
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise UserError(
            f"a file of safetensors needs that package: {file} is one, and it is not installed; run `pip install "
            "safetensors`, or save the state_dict() with torch.save."
        ) from None
    return load_file(file)


def _at(content: Any, key: str, file: Path) -> tuple[State, str]:
    """The weights under a key, under keys joined by dots, or under a prefix of their names."""
    inner = content
    for part in (key,) if isinstance(content, Mapping) and key in content else key.split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    if is_state(inner):
        return inner, f" [{key}]"
    outer = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    if is_state(outer) and (below := _below(outer, f"{key}.")):
        return below, f" [{key}.…]"
    raise UserError(f"`--weights_key` must name weights in {file}: {key!r} does not; it holds {_places(content)}.")


def _only(content: Any, file: Path, module: nn.Module) -> tuple[State, str]:
    """The weights of a file that holds nothing else, a Lightning checkpoint's, or the only ones that can be meant."""
    if is_state(content):
        return content, ""
    places = dict(_states(content))
    if "state_dict" in places:
        return places["state_dict"], " [state_dict]"
    if len(places) == 1:
        ((key, state),) = places.items()
        return state, f" [{key}, the only weights in it]"
    fitting = [key for key, state in places.items() if _fits(state, module, file)]
    if not fitting:  # then the error is about the shapes of those whose names fit
        fitting = [key for key, state in places.items() if _fits(state, module, file, shapes=False)]
    if len(fitting) == 1:
        return places[fitting[0]], f" [{fitting[0]}, the only ones that fit]"
    raise UserError(
        f"`--weights_key` must say which weights of {file} are meant: it holds {_places(content)}; give one of them."
    )


def _states(content: Any) -> Iterator[tuple[str, State]]:
    """(key, weights) at the first or second level, keys joined by dots."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if is_state(value):
            yield str(key), value
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{name}", inner) for name, inner in value.items() if is_state(inner))


def _fits(state: State, module: nn.Module, file: Path, shapes: bool = True) -> bool:
    try:
        fitted, _ = _fitted(state, module, file)
        if shapes:
            _require_shapes(fitted, module, file)
    except UserError:
        return False
    return True


def is_state(value: Any) -> bool:
    """Whether this is a state_dict: names and tensors."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(
            isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items() if not k.endswith("_extra_state")
        )
    )


def _places(content: Any) -> str:
    if isinstance(content, Mapping):
        places = [name for name, _ in _states(content)]
        return f"weights under {', '.join(places)}" if places else f"{', '.join(map(str, content))[:120]}"
    return type(content).__name__


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _fitted(state: State, module: nn.Module, file: Path) -> tuple[State, list[str]]:
    """The weights under the module's own names, and the prefixes that were removed from the file's names."""
    own = module.state_dict()
    names = {_unwrapped(name): name for name in own}
    bare: State = {_unwrapped(name): value for name, value in state.items()}
    removed = [f"{wrapper}." for wrapper in WRAPPERS if _has(state, wrapper) and not _has(own, wrapper)]
    if bare.keys() != names.keys():
        first = next(iter(names), "")
        prefixes = {name.removesuffix(first) for name in bare if name.endswith(f".{first}")}
        fitting = sorted(prefix for prefix in prefixes if _below(bare, prefix).keys() == names.keys())
        if len(fitting) > 1:
            alike = ", ".join(prefix.rstrip(".") for prefix in fitting)
            raise UserError(f"`--weights_key` must say which weights of {file} are meant: {alike} fit alike.")
        if not fitting:
            raise UserError(_partial(bare, names, module, file))
        bare, removed = _below(bare, fitting[0]), [*removed, fitting[0]]
    return {names[name]: value for name, value in bare.items()}, removed


def _require_shapes(state: State, module: nn.Module, file: Path) -> None:
    for name, own in module.state_dict().items():
        if isinstance(own, Tensor) and not is_lazy(own) and own.shape != state[name].shape:
            raise UserError(
                f"the weights of {file} must have the module's shapes: {name!r} is {tuple(state[name].shape)} there, "
                f"{tuple(own.shape)} in {type(module).__name__}; make it with the arguments of its training (--args)."
            )


def _has(state: Mapping[str, Any], wrapper: str) -> bool:
    return any(wrapper in name.split(".") for name in state)


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _partial(bare: State, names: Mapping[str, str], module: nn.Module, file: Path) -> str:
    missing = [name for name in names if name not in bare]
    others = [name for name in bare if name not in names]
    parts = []
    for label, some in (("it lacks", missing), ("it has besides", others)):
        if some:
            listed = ", ".join(map(repr, some[:NAMED])) + (", …" if len(some) > NAMED else "")
            parts.append(f"{label} {len(some)} ({listed})")
    return (
        f"the weights of {file} must be exactly those of {type(module).__name__}, {len(names)} tensors: "
        f"{' and '.join(parts)}; name the right part with --weights_key, or the module's arguments with --args."
    )
