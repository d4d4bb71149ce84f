"""A network is named by a module or a file, made with its arguments, and says which weights it has."""

import pytest
import torch
from torch import nn

from gannorm.commands.inputs.subjects import load_halves, load_module
from gannorm.errors import UserError

NETS = """
from helper_of_subjects import WIDTH
from torch import nn

def D(width=WIDTH, bias=True):
    return nn.Linear(width, 1, bias=bias)

made = D()
"""


@pytest.fixture(autouse=True)
def nets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "helper_of_subjects.py").write_text("WIDTH = 8\n")
    (tmp_path / "inner" / "types.py").write_text(NETS)  # also the name of a module of Python's


def test_a_file_is_found_from_the_current_folder_and_imports_from_its_own():
    module, remark = load_module("inner/types.py:D")
    assert module.in_features == 8 and remark.startswith("random weights")
    assert isinstance(load_module("inner/types.py:made")[0], nn.Linear)


@pytest.mark.parametrize("args,features,bias", [("{width: 4}", 4, True), ("[5, false]", 5, False), ("", 8, True)])
def test_arguments_are_yaml(args, features, bias):
    module, _ = load_module("inner/types.py:D", args)
    assert (module.in_features, module.bias is not None) == (features, bias)


def test_weights_are_loaded_and_said():
    trained = nn.Linear(4, 1)
    torch.save({"netD": {f"module.{k}": v for k, v in trained.state_dict().items()}}, "d.pt")
    module, remark = load_module("inner/types.py:D", "{width: 4}", "d.pt", "netD")
    assert torch.equal(module.weight, trained.weight)
    assert remark == "weights of d.pt [netD], 'module.' taken off their names"


@pytest.mark.parametrize(
    "arguments,line",
    [
        (("inner/none.py:D",), "must name a file that is there: inner/none.py is not"),
        (("inner/types.py:E",), "has no 'E'"),
        (("inner/types.py",), "must be package.module:Class or file.py:Class"),
        (("inner/types.py:D", "{width: 4"), "`--args` must be YAML"),
        (("inner/types.py:D", "4"), "`--args` must be a mapping or a list"),
        (("inner/types.py:D", "{depth: 4}"), r"must be callable with --args '{depth: 4}'.*depth"),
        (("inner/types.py:D", "", "", "netD"), "belongs to --weights"),
        (("inner/types.py:D", "", "none.pt"), "must be a readable file: none.pt"),
    ],
)
def test_a_mistake_is_one_line(arguments, line):
    with pytest.raises(UserError, match=line):
        load_module(*arguments)


@pytest.mark.parametrize("shape", ["3x8x8", "3,8,8"])
def test_a_shape_is_written_with_crosses_or_commas(shape):
    real, fake = load_halves(shape, nn.Flatten(), images=6, batch_size=4, seed=0)
    assert real.shape == fake.shape == (6, 3, 8, 8)
