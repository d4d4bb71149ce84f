"""`gannorm evaluate` on what is no run of ours: a folder of images, and a generator with weights of its own."""

import json

import pytest
import torch
from PIL import Image

from gannorm.cli import main
from gannorm.data import load_images
from gannorm.evaluation import evaluate

NETS = """
import torch
from torch import nn

class G(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.up = nn.Sequential(nn.ConvTranspose2d(5, width, 4), nn.BatchNorm2d(width), nn.ReLU())
        self.image = nn.Sequential(nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        return {"images": self.image(self.up(z)), "z": z}

def labelled():
    g = G()
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.g = g
        def forward(self, z, labels):
            return self.g(z)["images"] * labels[:, None, None, None] / 9
    return Labelled()
"""
FEW = ["--splits", "2", "--kid_subsets", "3", "--device", "cpu"]
GENERATOR = ["evaluate", "--real", "digits", "--latent_shape", "5x1x1", "--samples", "70", *FEW]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GANNORM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


@pytest.fixture
def generator(here):
    """One in Python, and its weights as DataParallel saves them among others."""
    names = {}
    exec(NETS, names)
    torch.manual_seed(0)
    network = names["G"](6)
    torch.save({"netG": {f"module.{k}": v for k, v in network.state_dict().items()}, "epoch": 3}, here / "g.pt")
    return network


def test_a_generator_with_its_weights_has_the_scores_of_python(generator, capsys):
    own = ["--module", "nets.py:G", "--args", "{width: 6}", "--weights", "g.pt", "--weights_key", "netG"]
    assert main([*GENERATOR, *own, "--module_output", "images", "--json", "out/scores.json"]) == 0
    out = capsys.readouterr().out
    with open("out/scores.json") as file:
        written = json.load(file)
    expected = evaluate(
        generator,
        "digits",
        latent_shape=(5, 1, 1),
        output="images",
        samples=70,
        splits=2,
        kid_subsets=3,
        device="cpu",
    )
    assert written["fid"] == expected.fid and f"FID {expected.fid:.3f}" in out
    assert "(weights of g.pt [netG], 'module.' taken off their names)" in out
    assert (written["protocol"]["dataset"], written["protocol"]["split"]) == ("digits", "train")  # 359 are too few
    assert main([*GENERATOR, *own, "--split", "test", "--module_output", "images", "--statistics", "batch"]) == 0
    assert "70 fakes, batch statistics, against 359 images of digits/test" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_a_conditional_generator_without_weights_is_said_to_be_random(here, capsys):
    assert main([*GENERATOR, "--module", "nets.py:labelled", "--conditional", "true"]) == 0
    assert "(random weights: --weights FILE loads trained ones)" in capsys.readouterr().out
    assert main([*GENERATOR, "--module", "nets.py:labelled"]) == 2
    assert "with conditional=True it gets labels too" in capsys.readouterr().err


def test_a_folder_of_images_is_scored_against_a_folder(here, capsys):
    digits = load_images("digits", "train", image_size=8)
    for i, (image, label) in enumerate(zip(digits.pixels[:100], digits.labels, strict=False)):
        for folder in (here / "fake", here / "real" / str(int(label) % 2)):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{i}.png")
    assert main(["evaluate", "--fake", "fake", "--real", "real", "--extractor", "in_domain", *FEW]) == 0
    out = capsys.readouterr().out
    assert "FID -0.000" in out or "FID 0.000" in out
    assert "100 given images, against 100 images of real/all; in_domain" in out


def test_partial_weights_and_a_wrong_output_are_one_line(generator, capsys):
    own = ["--module", "nets.py:G", "--weights", "g.pt", "--weights_key", "netG"]
    for options, line in (
        (own, "'up.0.weight' is (5, 6, 4, 4) there, (5, 4, 4, 4) in G; make it with the arguments of its training"),
        (own[:2], "returned a dict of 'images', 'z'; name the images with output"),
        ([*own[:2], "--module_output", "image"], "'image' is not in a dict of 'images', 'z'"),
        ([*own[:2], "--fake_range", "[0]"], "`--fake_range` must be black and white"),
        ([*own[:2], "--statistics", "all"], "`--statistics all` belongs to runs"),
        ([*own[:2], "--extractor", "dino"], "unknown extractor 'dino'"),
    ):
        options = [*options, "--module_output", "images"] if "dino" in options else options
        assert main([*GENERATOR, *options]) == 2
        err = capsys.readouterr().err
        assert line in err and err.count("\n") == 1, err
