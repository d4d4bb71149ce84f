"""What runs isolated leaves no trace, and repeats."""

from __future__ import annotations

import copy
import functools
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gannorm.errors import UserError
from gannorm.isolate import copy_of, isolated, modules_in
from gannorm.isolate.state import RandomState
from gannorm.training.callbacks.ema import EMA


class Untidy(nn.Module):
    """A module that changes everything a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.calls = 0
        self.plain = torch.zeros(4)
        self.cache: dict[str, Tensor] = {}
        self.history: list[float] = [0.0]
        self.moments = [torch.zeros(4)]
        self.noise = torch.Generator().manual_seed(3)
        self.register_buffer("late", None)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.plain += 1
        self.cache["x"] = x
        self.history.append(x.mean().item())
        self.moments[0] += x.detach().mean(0)
        self.late = x.detach()
        self.register_buffer("added", x.detach())
        x = self.spectral(self.norm(self.linear(x))) + self.plain + torch.randn(4, generator=self.noise)
        return x + torch.rand(()) + random.random() + np.random.rand() + self.calls + len(self.history)


@pytest.fixture
def untidy() -> Untidy:
    torch.manual_seed(0)
    module = Untidy()
    module(torch.randn(8, 4)).sum().backward()
    module.linear.weight.requires_grad_(False)
    return module


def fingerprint(module: Untidy) -> list[object]:
    tensors = [t for _, t in sorted((*module.named_parameters(), *module.named_buffers()), key=lambda pair: pair[0])]
    grads = [p.grad for p in module.parameters()]
    values = [t.tolist() for t in (*tensors, *(g for g in grads if g is not None), module.plain)]
    flags = [p.requires_grad for p in module.parameters()] + [m.training for m in module.modules()]
    hooks = [len(m._forward_hooks) for m in module.modules()]
    lists = [*module.history, *(t.tolist() for t in module.moments)]
    random_states = [torch.rand(2).tolist(), random.random(), np.random.rand(), module.noise.get_state().tolist()]
    return [values, flags, hooks, sorted(vars(module)), module.calls, list(module.cache), lists, random_states]


@pytest.mark.parametrize("raises", [False, True])
def test_everything_is_restored_bit_for_bit_also_after_an_exception(untidy: Untidy, raises: bool) -> None:
    x = torch.randn(8, 4)
    random_state = RandomState()
    before = copy.deepcopy(fingerprint(untidy))
    grad = untidy.norm.weight.grad
    random_state.restore()
    try:
        with isolated(untidy) as pure:
            untidy.eval()
            untidy.requires_grad_(False)
            untidy.register_forward_hook(lambda *_: None)
            pure(x)
            untidy.norm.weight.grad = None
            with torch.no_grad():
                untidy.linear.weight.zero_()
                untidy.norm.running_mean.add_(1)
            if raises:
                raise RuntimeError("stop")
    except RuntimeError:
        pass
    assert fingerprint(untidy) == before
    assert untidy.norm.weight.grad is grad


def test_the_check_above_sees_every_trace_of_a_plain_call(untidy: Untidy) -> None:
    random_state = RandomState()
    before = copy.deepcopy(fingerprint(untidy))
    random_state.restore()
    untidy(torch.randn(8, 4))
    after = fingerprint(untidy)
    assert [b != a for b, a in zip(before, after, strict=True)] == [True, False, False, False, True, False, True, True]


def test_calls_repeat_bit_for_bit(untidy: Untidy) -> None:
    x = torch.randn(8, 4)
    with isolated(untidy) as pure:
        first, other, second = pure(x), pure(2 * x), pure(x)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_backward_may_follow_a_later_call() -> None:
    # BatchNorm keeps its running statistics for backward: restoring them in place would break the earlier graph.
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1))
    x = torch.randn(8, 4)
    with isolated(module) as pure:
        (pure(x).mean() - pure(-x).mean()).backward()
    assert module[1].weight.grad is None


def test_what_the_block_changes_stays_until_its_end() -> None:
    module = nn.Dropout(0.5)
    with isolated(module) as pure:
        module.eval()
        assert torch.equal(pure(torch.ones(4)), torch.ones(4))
        assert torch.equal(pure(torch.ones(4)), torch.ones(4))
    assert module.training


def test_shared_tensors_stay_shared_in_a_call() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", torch.zeros(1))
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            self.first.add_(1)
            return x + self.second

    module = Shared()
    with isolated(module) as pure:
        assert pure(torch.zeros(1)).item() == pure(torch.zeros(1)).item() == 1
    assert module.first is module.second
    assert module.first.item() == 0


class Wrapper:
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x)

    def logits(self, x: Tensor) -> Tensor:
        return self.network(x)


def test_modules_are_found_in_callables() -> None:
    net = nn.BatchNorm1d(2)

    def inner(x: Tensor) -> Tensor:
        return net(x)

    def called_with(module: nn.Module, x: Tensor) -> Tensor:
        return module(x)

    callables = [
        net,
        net.forward,
        lambda x: net(x),
        lambda x: inner(x),
        Wrapper(net),
        Wrapper(net).logits,
        functools.partial(called_with, net),
    ]
    assert all(list(modules_in(f).values()) == [net] for f in callables)
    assert modules_in(torch.sigmoid) == modules_in(lambda x: x.mean()) == {}


def test_a_closure_leaves_its_module_untouched() -> None:
    net = nn.BatchNorm1d(2)
    with isolated(lambda x: net(x)) as pure:
        pure(torch.randn(4, 2))
    assert net.num_batches_tracked.item() == 0


# -- copies -----------------------------------------------------------------------------------------------------------


def old_norm(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that these are old
        network = nn.Sequential(nn.Flatten(), norm(nn.Linear(4, 2)))
    network(torch.ones(1, 4))
    return network


class Locked(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
        self.lock = threading.Lock()


NOT_COPYABLE = {
    "old weight_norm": (lambda: old_norm(nn.utils.weight_norm), r"1 \(Linear\) keeps the computed tensor 'weight'"),
    "old spectral_norm": (lambda: old_norm(nn.utils.spectral_norm), "use those of torch.nn.utils.parametrizations"),
    "a lock": (lambda: nn.Sequential(Locked()), r"0 \(Locked\) keeps 'lock', lock: .*give the class a __deepcopy__"),
}


@pytest.mark.parametrize("make,line", NOT_COPYABLE.values(), ids=NOT_COPYABLE.keys())
def test_a_layer_that_cannot_be_copied_is_named_with_the_remedy(make, line):
    for copies in (copy_of, lambda module: EMA(module, 0.9)):
        with pytest.raises(UserError, match=line) as error:
            copies(make())
        assert "\n" not in str(error.value)


def test_a_copy_shares_nothing_with_the_module():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)), nn.BatchNorm1d(2))
    x = torch.randn(3, 4)
    network(x)  # old hooks would now keep a computed weight
    twin = copy_of(network)
    assert torch.equal(twin(x), network(x))
    shared = {t.data_ptr() for t in network.state_dict().values()} & {t.data_ptr() for t in twin.state_dict().values()}
    assert not shared
