"""Networks of the kinds that public code holds, each with the layers that mix its batch.

Every entry is small, written for these tests, and stands for a kind. N batch, T time or tokens, C channels.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


@dataclass
class Case:
    """A network, an input, and the layers that couple."""

    f: Callable[..., Any]
    x: Any
    layers: list[str]
    options: dict[str, Any] = field(default_factory=dict)  # output=, batch_dim=
    state: list[nn.Module] = field(default_factory=list)  # modules whose state must survive, if f is none


CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


def mlp(norm: nn.Module | None = None, inputs: int = 3, width: int = 8) -> nn.Sequential:
    """(N, 3) -> (N, 1), with a normalizer at "1"."""
    return nn.Sequential(nn.Linear(inputs, width), norm or nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 1))


def batch(n: int = 8, *shape: int) -> Tensor:
    return torch.randn(n, *(shape or (3,)))


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


# -- 2: where modules hang --------------------------------------------------------------------------------------------


@case
def behind_a_plain_object() -> Case:
    model = SimpleNamespace(nets={"D": [mlp()]})
    return Case(lambda x: model.nets["D"][0](x), batch(), ["model.nets.D.0.1"], state=[model.nets["D"][0]])


@case
def behind_a_method() -> Case:
    class Model:
        def __init__(self) -> None:
            self.net = mlp()

        def judge(self, x: Tensor) -> Tensor:
            return self.net(x)

    model = Model()
    return Case(model.judge, batch(), ["net.1"], state=[model.net])


@case
def in_a_closure_of_a_layer() -> Case:
    norm = nn.BatchNorm1d(8)

    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda x: norm(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    return Case(nn.Sequential(nn.Linear(3, 8), Calls(), nn.Linear(8, 1)), batch(), ["BatchNorm1d"], state=[norm])


REGISTRY: dict[str, Any] = {}


@case
def where_nothing_names_it() -> Case:
    REGISTRY["net"] = mlp()
    net = REGISTRY["net"]
    return Case(Judge(), batch(), ["Sequential.1"], state=[net])


class Judge:
    """Reads a global variable of its module, which no attribute names."""

    def __call__(self, x: Tensor) -> Tensor:
        return REGISTRY["net"](x)


# -- 3: several outputs -----------------------------------------------------------------------------------------------


@dataclass
class Returned:
    features: list[Tensor]
    logit: Tensor


class Several(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.first, self.norm, self.head, self.form = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 1), form

    def forward(self, x: Tensor) -> Any:
        h = self.first(x)
        logit = self.head(self.norm(h).relu())
        forms = {"list": [[h], [h, logit]], "dict": {"h": h, "out": logit}, "dataclass": Returned([h], logit)}
        return forms[self.form]


@case
def nested_lists() -> Case:
    return Case(Several("list"), batch(), ["norm"], {"output": (1, 1)})


@case
def features_of_nested_lists() -> Case:
    return Case(Several("list"), batch(), [], {"output": (0, 0)})


@case
def a_dictionary() -> Case:
    return Case(Several("dict"), batch(), ["norm"], {"output": "out"})


@case
def a_dataclass() -> Case:
    return Case(Several("dataclass"), batch(), ["norm"], {"output": "logit"})


class Scales(nn.Module):
    """Two discriminators side by side, one of which is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = mlp(), mlp()

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.coarse(x), self.fine(x)]


@case
def one_of_two_scales() -> Case:
    return Case(Scales(), batch(), ["fine.1"], {"output": 1})


class Routed(nn.Module):
    """A coupled gate that reaches the output by a choice, without a derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.norm, self.aside = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(3)
        self.heads = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self.norm(self.gate(x)).argmax(1)
        return self.heads(x).gather(1, chosen[:, None]), self.aside(x)


@case
def a_coupled_choice() -> Case:
    return Case(Routed(), batch(16), ["norm"], {"output": 0})


@case
def an_output_by_a_callable() -> Case:
    return Case(Several("dataclass"), batch(), [], {"output": lambda out: out.features[0]})


# -- 4: where the batch is --------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, norm: nn.Module, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.norm, self.head = kind(5, 16), norm, nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:  # (T, N, C)
        return self.head(self.norm(self.rnn(x)[0][-1]))


@case
def lstm_with_as_many_channels_as_samples() -> Case:
    return Case(Recurrent(nn.Identity()), batch(10, 16, 5), [], {"batch_dim": 1})


@case
def gru_with_a_batch_norm() -> Case:
    return Case(Recurrent(nn.BatchNorm1d(16), nn.GRU), batch(10, 16, 5), ["norm"], {"batch_dim": 1})


class Tokens(nn.Module):
    """Tokens first, as many as samples."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.attention = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2)
        self.norm, self.head = norm, nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).flatten(2).permute(2, 0, 1)
        return self.head(self.norm(self.attention(h, h, h)[0].mean(0)))


@case
def tokens_first() -> Case:
    return Case(Tokens(nn.Identity()), batch(16, 3, 16, 16), [])


@case
def tokens_first_with_a_batch_norm() -> Case:
    return Case(Tokens(nn.BatchNorm1d(8)), batch(16, 3, 16, 16), ["norm"])


class Packed(nn.Module):
    """A packed sequence goes through a layer that sees no batch in any dimension."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.rnn, self.head = norm, nn.GRU(5, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
        lengths = torch.arange(len(x)) % 4 + 2
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = packed._replace(data=self.norm(packed.data))
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0].sum(1))


@case
def packed_sequences() -> Case:
    return Case(Packed(nn.LayerNorm(5)), batch(7, 6, 5), [])


@case
def packed_sequences_with_a_batch_norm() -> Case:
    return Case(Packed(nn.BatchNorm1d(5)), batch(7, 6, 5), ["norm"])


class Spectrum(nn.Module):
    def __init__(self, centre: bool) -> None:
        super().__init__()
        self.fourier, self.filter, self.head = Fourier(), Filter(centre), nn.Linear(9, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.filter(self.fourier(x)).abs())


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


class Filter(nn.Module):
    def __init__(self, centre: bool) -> None:
        super().__init__()
        self.weight, self.centre = nn.Parameter(torch.randn(9, dtype=torch.complex64)), centre

    def forward(self, z: Tensor) -> Tensor:
        z = z * self.weight
        return z - z.mean(0) if self.centre else z


@case
def complex_activations() -> Case:
    return Case(Spectrum(False), batch(8, 16), [])


@case
def complex_activations_centred() -> Case:
    return Case(Spectrum(True), batch(8, 16), ["filter"])


class Experts(nn.Module):
    """Each token goes to one expert, so that an expert sees rows of changing samples."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(5, 2), nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.norm, self.head = norm, nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:  # (N, T, C)
        tokens = x.flatten(0, 1)
        chosen = self.gate(tokens).argmax(1)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            out = out.index_put((mine.nonzero()[:, 0],), expert(tokens[mine]))
        return self.head(self.norm(out.view_as(x).mean(1)))


@case
def experts() -> Case:
    return Case(Experts(nn.Identity()), batch(6, 5, 5), [])


@case
def experts_and_a_batch_norm() -> Case:
    return Case(Experts(nn.BatchNorm1d(5)), batch(6, 5, 5), ["norm"])


class Modulated(nn.Module):
    """The batch folded into the channels of a grouped convolution, as in StyleGAN2."""

    def __init__(self, demodulate_over_batch: bool) -> None:
        super().__init__()
        self.weight, self.over_batch = nn.Parameter(torch.randn(4, 3, 3, 3)), demodulate_over_batch
        self.style, self.head = nn.Linear(3, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        style = self.style(x.mean((2, 3)))
        weight = self.weight[None] * style[:, None, :, None, None]
        dims = (0, 2, 3, 4) if self.over_batch else (2, 3, 4)
        weight = weight * torch.rsqrt(weight.square().sum(dims, keepdim=True) + 1e-8)
        y = nn.functional.conv2d(x.reshape(1, n * c, h, w), weight.flatten(0, 1), padding=1, groups=n)
        return self.head(y.view(n, 4, h, w).mean((2, 3)))


@case
def modulated_convolution() -> Case:
    return Case(Modulated(False), batch(4, 3, 8, 8), [])


@case
def modulated_convolution_normalized_over_the_batch() -> Case:
    return Case(Modulated(True), batch(4, 3, 8, 8), [""])


# -- 5: fixed batch sizes ---------------------------------------------------------------------------------------------


class GroupDeviation(nn.Module):
    """The standard deviation over groups of four, which must divide the batch."""

    def forward(self, h: Tensor) -> Tensor:
        groups = h.view(4, -1, h.shape[1])
        return torch.cat([h, groups.std(0).mean(1, keepdim=True).repeat(4, 1)], 1)


@case
def minibatch_deviation() -> Case:
    return Case(nn.Sequential(nn.Linear(3, 8), GroupDeviation(), nn.Linear(9, 1)), batch(12), ["1"])


@case
def labelled_minibatch_deviation() -> Case:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.deviation, self.embedding = nn.Linear(3, 8), GroupDeviation(), nn.Embedding(5, 9)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (self.deviation(self.linear(x)) * self.embedding(y)).sum(1)

    return Case(Labelled(), (batch(12), torch.arange(12) % 5), ["deviation"])


@case
def a_fixed_batch_size() -> Case:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 1)
            self.register_buffer("ids", torch.arange(10))

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) + 0 * self.ids[:, None]

    return Case(Fixed(), batch(10), [])


@case
def ghost_batch_norm() -> Case:
    class Ghost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.norm(part) for part in x.chunk(len(x) // 4)])

    return Case(nn.Sequential(nn.Linear(3, 8), Ghost(), nn.Linear(8, 1)), batch(12), ["1.norm"])


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


# -- 7 and 8 ----------------------------------------------------------------------------------------------------------


@case
def checkpointed_reentrantly() -> Case:
    network = mlp()
    x = batch()
    return Case(
        lambda x: torch.utils.checkpoint.checkpoint(network, x, use_reentrant=True), x, ["network.1"], state=[network]
    )


class Residual(nn.Module):
    def __init__(self, zero: str) -> None:
        super().__init__()
        self.norm, self.branch, self.head = nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.gain = nn.Parameter(torch.ones(()))
        zeros = {"branch": self.branch.weight, "gamma": self.norm.weight, "head": self.head.weight, "gain": self.gain}
        nn.init.zeros_(zeros[zero])
        nn.init.zeros_(self.branch.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.gain * self.branch(self.norm(x)))


@case
def zero_branch() -> Case:
    return Case(Residual("branch"), batch(), ["norm"])


@case
def zero_gain() -> Case:
    return Case(Residual("gain"), batch(), ["norm"])


@case
def zero_gamma_beside_another_batch_norm() -> Case:
    return Case(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), Residual("gamma")), batch(), ["1", "2.norm"])


@case
def zero_head() -> Case:
    return Case(Residual("head"), batch(), ["norm"])
