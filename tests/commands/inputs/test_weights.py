"""Weights of a stranger's file: under whatever names training left them, all or none."""

import json
import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from gannorm.commands.inputs.weights import load_weights
from gannorm.errors import UserError


def network(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "w.pt"


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


TRAINED = network()
STATE = TRAINED.state_dict()
OTHER = {"0.weight": torch.zeros(1)}
WRAPPED = {
    "a state dict": (STATE, "", ""),
    "of DataParallel": (prefixed(STATE, "module."), "", "'module.' taken off"),
    "of torch.compile": (prefixed(STATE, "_orig_mod."), "", "'_orig_mod.' taken off"),
    "of both": (prefixed(STATE, "module._orig_mod."), "", "'module.' and '_orig_mod.' taken off"),
    "a layer compiled": ({n.replace("0.", "0._orig_mod."): v for n, v in STATE.items()}, "", "'_orig_mod.'"),
    "under a key": ({"netD": STATE, "netG": OTHER, "epoch": 3}, "netD", "[netD]"),
    "deeper": ({"models": {"netD": prefixed(STATE, "module.")}}, "models.netD", "[models.netD], 'module.'"),
    "a key with a dot": ({"net.D": STATE}, "net.D", "[net.D]"),
    "the only weights of a file": ({"net": STATE, "epoch": 3, "loss": [0.1]}, "", "[net, the only weights in it]"),
    "the only ones, deeper": (
        {"nets": {"d": prefixed(STATE, "module.")}},
        "",
        "[nets.d, the only weights in it], 'mod",
    ),
    "the only ones that fit": (
        {"d": STATE, "g": OTHER, "d5": network(5).state_dict()},
        "",
        "[d, the only ones that fit",
    ),
    "of Lightning": (
        {"state_dict": prefixed(STATE, "critic.") | prefixed(OTHER, "g."), "epoch": 3},
        "",
        "[state_dict], 'critic.' taken off",
    ),
    "one of two of Lightning": (
        {"state_dict": prefixed(STATE, "critic.") | prefixed(OTHER, "ema.")},
        "critic",
        "[critic.…]",
    ),
    "of an attribute that was compiled": (prefixed(STATE, "net._orig_mod."), "", "'_orig_mod.' and 'net.' taken off"),
}


@pytest.mark.parametrize("content,key,remark", WRAPPED.values(), ids=WRAPPED.keys())
def test_weights_are_the_same_under_every_name_that_training_gives_them(content, key, remark, file):
    torch.save(content, file)
    module = network()
    assert remark in load_weights(module, file, key)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(module(x), TRAINED(x))


def test_a_module_that_is_wrapped_itself_keeps_its_names(file):
    torch.save(prefixed(STATE, "module."), file)
    module = nn.Module()
    module.module = network()
    assert "taken off" not in load_weights(module, file)
    assert torch.equal(module.module[0].weight, TRAINED[0].weight)


MISTAKES = {
    "of another shape": (network(5).state_dict(), "", r"'0.weight' is \(5, 3\) there, \(4, 3\) in Sequential.*--args"),
    "fewer": ({n: v for n, v in STATE.items() if not n.startswith("2.")}, "", r"it lacks 2 \('2.weight', '2.bias'\)"),
    "more": (STATE | {"3.weight": torch.zeros(1)}, "", r"it has besides 1 \('3.weight'\)"),
    "of another network": (OTHER, "", "must be exactly those of Sequential, 9 tensors: it lacks 8"),
    "two places": ({"netD": STATE, "ema": STATE}, "", "weights under netD, ema; give one"),
    "two places, and none fits": ({"netD": OTHER, "netG": OTHER}, "", "weights under netD, netG; give one"),
    "two places, and one is of another shape": (
        {"netD": network(5).state_dict(), "netG": OTHER},
        "",
        r"'0.weight' is \(5, 3\) there, \(4, 3\) in Sequential.*--args",
    ),
    "one place, and it does not fit": ({"netD": OTHER}, "", "must be exactly those of Sequential"),
    "two places, deeper": ({"nets": {"d": STATE, "ema": STATE}}, "", "weights under nets.d, nets.ema; give one"),
    "two that fit": (prefixed(STATE, "d.") | prefixed(STATE, "ema."), "", "d, ema fit alike"),
    "no such key": ({"netD": STATE}, "netE", "'netE' does not; it holds weights under netD"),
    "no weights": ({"epoch": 3}, "", "it holds epoch"),
    "a list": ([1, 2], "", "it holds list"),
}


@pytest.mark.parametrize("content,key,line", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_partial_load_is_one_line_and_changes_nothing(content, key, line, file):
    torch.save(content, file)
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(UserError, match=line) as error:
        load_weights(module, file, key)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_file_that_holds_more_than_tensors_or_none_at_all_is_one_line(file):
    with pytest.raises(UserError, match="must be a readable file"):
        load_weights(network(), file)
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"must be a file of torch.save: .* begins with 'no weight'; save the module's"):
        load_weights(network(), file)
    file.write_bytes(b"\x80no weights")
    with pytest.raises(UserError, match=r"must be a file of torch.save that holds tensors alone"):
        load_weights(network(), file)
    torch.save(network(), file)  # a whole module would run code
    with pytest.raises(UserError, match=r"would run torch.nn.*save the module's state_dict"):
        load_weights(network(), file)


def written_by_safetensors(state):
    """The length of a JSON header, the header, the bytes of every tensor."""
    header, data = {}, b""
    for name, tensor in state.items():
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        content = tensor.numpy().tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_file_of_safetensors_asks_for_that_package(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / name).write_bytes(written_by_safetensors(STATE))
    with pytest.raises(UserError, match="is not installed; run `pip install safetensors`"):
        load_weights(network(), tmp_path / name)


def test_a_file_of_safetensors_is_read_where_that_package_is(tmp_path, monkeypatch):
    package = ModuleType("safetensors.torch")
    package.load_file = lambda path: prefixed(STATE, "module.") if path == tmp_path / "w.safetensors" else {}
    monkeypatch.setitem(sys.modules, "safetensors", ModuleType("safetensors"))
    monkeypatch.setitem(sys.modules, "safetensors.torch", package)
    (tmp_path / "w.safetensors").write_bytes(written_by_safetensors(STATE))
    module = network()
    assert "'module.' taken off" in load_weights(module, tmp_path / "w.safetensors")
    assert torch.equal(module[0].weight, TRAINED[0].weight)
