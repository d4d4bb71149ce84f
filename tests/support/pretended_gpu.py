"""A GPU on a CPU: tensors that say that they are on `gpu:0`, with the CPU's memory, and that mix with no CPU tensor.

What would be an error on a GPU is one here: a CPU tensor or a CPU generator in an operation on the device's tensors,
and `.numpy()` of one. Inside `without_waiting`, so is what a CUDA graph cannot record: reading a result, copies between
the devices, boolean masks. Importing it changes torch for good, so that tests do it in a process of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map


class _Module(backend_registration._DummyBackendModule):
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    is_initialized = staticmethod(lambda: True)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


backend_registration._setup_privateuseone_for_python_backend("gpu", _Module())
GPU = torch.device("gpu:0")
WAIT = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "repeat_interleave")
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
COPIES = ("copy_", "_to_copy")
_strict = False


class OnGPU(Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, memory: Tensor) -> "OnGPU":
        return Tensor._make_subclass(cls, memory.detach(), False, dispatch_device=True, device_for_backend_keys=GPU)

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:  # in checkpoints
        return _memory(self.detach()).__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return _memory(self.detach()).tolist()

    def new_tensor(self, data: Any, **_: Any) -> Tensor:
        return OnGPU(torch.tensor(data, dtype=self.dtype))


def _memory(t: Tensor) -> Tensor:
    """The same memory as a CPU tensor."""
    guard = torch._C._DisableTorchDispatch()
    try:
        return torch.empty(0, dtype=t.dtype).set_(Tensor.untyped_storage(t), t.storage_offset(), t.size(), t.stride())
    finally:
        del guard


def _run(operation: Any, args: Any, kwargs: Any) -> Any:
    if operation is torch.ops.prim.device.default:
        return GPU
    name, leaves = operation._schema.name.removeprefix("aten::"), tree_leaves((args, kwargs))
    tensors = [t for t in leaves if isinstance(t, Tensor)]
    mine, device = [t for t in tensors if isinstance(t, OnGPU)], kwargs.get("device")
    here = bool(mine) if device is None else torch.device(device).type == "gpu"
    foreign = [tuple(t.shape) for t in tensors if not isinstance(t, OnGPU) and t.dim()]
    if mine and foreign and name not in COPIES and not (name in INDEXED and not _strict):
        raise RuntimeError(f"{operation}: CPU tensors of shapes {foreign} among the device's")
    for generator in leaves:
        if isinstance(generator, torch.Generator) and (generator._cdata in _Generator.made) != here:
            raise RuntimeError(f"{operation}: the generator is on another device")
    if _strict:
        between = name in COPIES and len({isinstance(t, OnGPU) for t in tensors} | {here}) > 1
        masked = name in INDEXED and any(isinstance(t, Tensor) and t.dtype == torch.bool for t in tree_leaves(args[1]))
        if name in WAIT or between or masked:
            raise RuntimeError(f"{operation}: not permitted when stream is capturing")
    originals = {}

    def down(value: Any) -> Any:
        if not isinstance(value, OnGPU):
            return value
        memory = _memory(value)
        originals[id(memory)] = memory, value
        return memory

    def up(value: Any) -> Any:
        if id(value) in originals:
            return originals[id(value)][1]
        return OnGPU(value) if type(value) is Tensor and here else value

    down_args, down_kwargs = tree_map(down, (args, kwargs))
    if device is not None:
        down_kwargs["device"] = torch.device("cpu")
    result = operation(*down_args, **down_kwargs)
    return args[0] if name == "copy_" else tree_map(up, result)


_library = torch.library.Library("_", "IMPL")
_library.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")


class _AnyGenerator(type(torch.Generator)):  # type: ignore[misc]
    def __instancecheck__(cls, value: Any) -> bool:
        return type(value) is _Generator or type(value) is _Generator.__base__


class _Generator(torch.Generator, metaclass=_AnyGenerator):
    made: ClassVar[dict[int, Any]] = {}  # those of the device

    def __new__(cls, device: Any = "cpu") -> Any:
        if torch.device(device).type != "gpu":
            return cls.__base__(device)
        self = cls.__base__.__new__(cls, "cpu")
        cls.made[self._cdata] = self
        return self

    device = property(lambda self: GPU)  # type: ignore[assignment]

    def manual_seed(self, seed: int) -> Any:
        super().manual_seed(seed)
        return self


def _made_there(make: Any) -> Any:
    def made(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        there = device is not None and torch.device(device).type == "gpu"
        return OnGPU(make(*args, **kwargs)) if there else make(*args, device=device, **kwargs)

    return made


torch.Generator = _Generator  # type: ignore[misc]
torch.accelerator.current_accelerator = lambda check_available=False: None  # type: ignore[assignment]
for _name in ("eye", "arange", "randperm"):  # which fill a tensor that they resize
    setattr(torch, _name, _made_there(getattr(torch, _name)))


@contextmanager
def without_waiting() -> Iterator[None]:
    global _strict
    before, _strict = _strict, True
    try:
        yield
    finally:
        _strict = before
