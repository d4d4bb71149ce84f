"""Networks by where modules hang, by their outputs, by checkpointing and by branches that do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from support.third_party.case import Case, batch, case, mlp
from torch import Tensor, nn

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
