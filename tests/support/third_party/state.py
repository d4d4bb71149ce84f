"""Networks by what they keep, and by state that moves."""

from __future__ import annotations

import collections
import random
from types import SimpleNamespace

import numpy as np
import torch
from support.third_party.case import Case, batch, case, mlp
from torch import Tensor, nn

# -- 1: what a network keeps ------------------------------------------------------------------------------------------


class Keeper(nn.Module):
    """Keeps state in every kind of container, and answers by it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.network = mlp(norm)
        self.recent: collections.deque[Tensor] = collections.deque([torch.zeros(())], maxlen=3)
        self.seen = {0}
        self.nested = [[torch.zeros(1)], {"a": [0, (torch.zeros(1),)]}]
        self.counts = collections.Counter(calls=0)
        self.ordered = collections.OrderedDict(first=1, second=2)
        self.plain = SimpleNamespace(step=0, mean=torch.zeros(1), inner=SimpleNamespace(values=[]))
        self.array = np.zeros(2)
        self.bytes = bytearray(b"00")
        self.generator = torch.Generator().manual_seed(1)
        self.random = random.Random(1)
        self.numpy = np.random.default_rng(1)
        self.hidden = [nn.BatchNorm1d(3)]  # in no ModuleList

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x)[:, 0]
        self.recent.append(x.mean().detach())
        self.seen.add(len(self.seen))
        self.nested[0][0] += 1
        self.nested[1]["a"][0] += 1
        self.nested[1]["a"][1][0].add_(1)
        self.counts["calls"] += 1
        self.ordered.move_to_end("first")
        self.plain.step += 1
        self.plain.mean = self.plain.mean + x.mean().detach()
        self.plain.inner.values.append(1)
        self.array += 1
        self.bytes[0] += 1
        self.hidden[0](x.detach())
        own = torch.rand(1, generator=self.generator) + self.random.random() + self.numpy.random()
        return y + own + self.plain.step + self.array[0] + len(self.seen) + float(self.recent[0])


@case
def containers() -> Case:
    return Case(Keeper(nn.LayerNorm(8)), batch(), [])


@case
def containers_around_a_batch_norm() -> Case:
    return Case(Keeper(nn.BatchNorm1d(8)), batch(), ["network.1"])


@case
def scripted() -> Case:
    return Case(torch.jit.script(mlp()), batch(), [""])


@case
def traced_without_coupling() -> Case:
    return Case(torch.jit.trace(mlp(nn.GroupNorm(2, 8)), batch()), batch(), [])


@case
def scripted_inside() -> Case:
    return Case(nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.BatchNorm1d(3)), nn.Linear(3, 1)), batch(), ["1"])


@case
def scripted_with_a_counter() -> Case:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.linear = nn.Linear(3, 1)

        def forward(self, x):  # type: ignore[no-untyped-def]
            self.calls += 1
            return self.linear(x) * float(self.calls)

    return Case(torch.jit.script(Counting()), batch(), [])


@case
def made_under_inference_mode() -> Case:
    with torch.inference_mode():
        return Case(mlp(), batch(), ["1"])


@case
def made_under_inference_mode_without_coupling() -> Case:
    with torch.inference_mode():
        return Case(mlp(nn.LayerNorm(8)), batch(), [])


class InPlace(nn.Module):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.network = mlp(norm)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(0.5).add_(1)
        return self.network(x.clamp_(-2, 2))


@case
def input_in_place() -> Case:
    return Case(InPlace(nn.BatchNorm1d(8)), batch(), ["network.1"])


@case
def input_in_place_without_coupling() -> Case:
    return Case(InPlace(nn.GroupNorm(2, 8)), batch(), [])


@case
def old_weight_norm() -> Case:
    network = mlp(nn.LayerNorm(8))
    nn.utils.weight_norm(network[0])
    network(batch())
    return Case(network, batch(), [])


@case
def old_spectral_norm() -> Case:
    network = mlp()
    nn.utils.spectral_norm(network[0])
    nn.utils.spectral_norm(network[3])
    network(batch())
    return Case(network, batch(), ["1"])


@case
def hooks() -> Case:
    network = mlp(nn.LayerNorm(8))
    network[0].register_forward_hook(lambda module, args, output: 2 * output)
    network[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    return Case(network, batch(), [])


@case
def random_without_a_generator() -> Case:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = mlp(nn.Dropout(0.3))

        def forward(self, x: Tensor) -> Tensor:
            return self.network(x) + random.random() + np.random.rand() + torch.rand(())

    return Case(Noisy(), batch(), [])


# -- 6: state that moves ----------------------------------------------------------------------------------------------


class PowerIteration(nn.Module):
    """Spectral normalization whose vectors are parameters, and move at each call."""

    def __init__(self, module: nn.Linear) -> None:
        super().__init__()
        self.module, self.w = module, nn.Parameter(module.weight.data)
        self.u = nn.Parameter(torch.randn(len(self.w)), requires_grad=False)
        del module._parameters["weight"]

    def forward(self, x: Tensor) -> Tensor:
        v = nn.functional.normalize(self.w.data.T @ self.u.data, dim=0)
        self.u.data = nn.functional.normalize(self.w.data @ v, dim=0)
        self.module.weight = self.w / self.u.dot(self.w.mv(v))
        return self.module(x)


@case
def power_iteration_in_parameters() -> Case:
    return Case(nn.Sequential(PowerIteration(nn.Linear(3, 8)), nn.ReLU(), PowerIteration(nn.Linear(8, 1))), batch(), [])


@case
def weights_that_are_normalized_in_place() -> Case:
    class Forced(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight.copy_(0.9 * self.weight / self.weight.norm())
            return super().forward(x)

    return Case(nn.Sequential(Forced(3, 8), nn.ReLU(), Forced(8, 1)), batch(), [])


@case
def a_counter() -> Case:
    class Warming(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.steps = mlp(nn.LayerNorm(8)), 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return self.network(x) * min(self.steps / 10, 1)

    return Case(Warming(), batch(), [])
