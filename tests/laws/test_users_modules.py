"""A user's own normalizers and networks, through the commands."""

import json

import numpy as np
import pytest
import torch
from support.users_nets import NETS

from gannorm.cli import main
from gannorm.normalizers import NORMALIZERS

TINY = ["--data.image_size=8", "--data.batch_size=16", "--steps=2", "--model.discriminator.width=8", "--wandb=off"]
TINY += [
    "--study=runs",
    "--model.generator.width=8",
    "--probe_every=0",
    "--sample_every=2",
    "--log_every=1",
    "--progress=false",
]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_users_own_normalizer_trains(capsys, tmp_path, monkeypatch):
    (tmp_path / "my_norms_for_cli.py").write_text(
        "from torch import nn\n"
        "from gannorm.normalizers import normalizer\n"
        "@normalizer('mine', forward_coupling=False, gradient_coupling=False)\n"
        "def mine(channels):\n"
        "    return nn.GroupNorm(1, channels)\n"
    )
    argv = ["--import", "my_norms_for_cli", "train", *TINY, "--model.discriminator.norm", "mine", "--name=mine_0"]
    assert main(argv) == 0
    assert "mine_0: finished at step 2" in capsys.readouterr().out


def test_a_normalizer_that_declares_the_wrong_coupling_is_contradicted_by_the_probe(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(NORMALIZERS, "_entries", dict(NORMALIZERS._entries))  # undone behind the test
    (tmp_path / "lying_norms_for_cli.py").write_text(
        "from torch import nn\n"
        "from gannorm.normalizers import normalizer\n"
        "@normalizer('liar', forward_coupling=False, gradient_coupling=True)\n"
        "def liar(channels):\n"
        "    return nn.BatchNorm2d(channels)\n"
        "@normalizer('boaster', forward_coupling=True, gradient_coupling=True)\n"
        "def boaster(channels):\n"
        "    return nn.GroupNorm(1, channels)\n"
    )
    declared = {
        "liar": "normalizer 'liar' declares forward_coupling=False, which the probe contradicts",
        "boaster": "declares forward_coupling=True and gradient_coupling=True, which the probe contradicts",
        "batch": "",
    }
    sizes = ["--images", "16", "--batch_size", "8"]
    own = ["--import", "lying_norms_for_cli"]
    for norm, line in declared.items():
        flags = ["--checkpoint_every=2", f"--model.discriminator.norm={norm}", f"--name={norm}_0"]
        assert main([*own, "train", *TINY, *flags]) == 0
        own = []  # imported once; a second import in the same process would register nothing new
        assert main(["probe", f"runs/runs/{norm}_0", *sizes]) == 0
        out = capsys.readouterr().out
        assert line in out if line else "contradicts" not in out
    assert main(["probe", "runs/runs/batch_0", *sizes, "--mode=eval"]) == 0  # flags speak of training mode
    assert "contradicts" not in capsys.readouterr().out


@pytest.mark.parametrize("source", ["4", "array.npy", "tensors.pt"])
def test_a_strangers_module_is_probed_and_sets_the_exit_status(capsys, tmp_path, source):
    (tmp_path / "nets_for_cli.py").write_text(NETS)
    np.save(tmp_path / "array.npy", np.random.RandomState(0).randn(64, 4))  # float64, as NumPy does
    torch.save((torch.randn(64, 4),), tmp_path / "tensors.pt")
    options = ["--input", source, "--images", "32", "--batch_size", "16", "--fail-on-coupling"]
    assert main(["probe", "--module", "nets_for_cli:Critic", *options, "--json", "found.json"]) == 1
    out = capsys.readouterr().out
    assert "1 (BatchNorm1d)" in out
    assert ("both classes are the same noise" in out) is (source == "4")
    assert json.loads((tmp_path / "found.json").read_text())["forward_coupling"] is True
    for innocent in ("independent", "OneSize"):  # which takes batches of the size that is measured and no other
        assert main(["probe", "--module", f"nets_for_cli:{innocent}", *options]) == 0
        assert "it does not depend on the batch" in capsys.readouterr().out  # and the images are noise
    assert main(["probe", "--module", "nets_for_cli:Restless", *options]) == 1
    assert "undecided: two calls on the same batch give different logits" in capsys.readouterr().out
    assert main(["probe", "--module", "nets_for_cli:Critic", *options, "--mode", "eval", "--figure", "f.png"]) == 0
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
