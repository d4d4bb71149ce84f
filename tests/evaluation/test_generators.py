"""Generators as people have them: one way to call them all, and a warning where an assumption fails."""

import warnings

import numpy as np
import pytest
import torch
from known_images import images_of
from torch import nn

from gannorm.data import to_uint8
from gannorm.errors import UserError
from gannorm.evaluation import Evaluator, evaluate
from gannorm.evaluation.generators import SIGNED, Draws, NotFiniteError, RangeWatch, sampler

REAL = images_of(torch.randint(0, 256, (40, 1, 2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
OPTIONS = {"extractor": "pass_through", "splits": 1, "device": "cpu"}


class Deconvolution(nn.Module):
    """Latents (N, 4, 1, 1) → images (N, 1, 2, 3), as in the DCGAN tutorial; BatchNorm, so that the mode matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.ConvTranspose2d(4, 1, (2, 3)), nn.BatchNorm2d(1), nn.Tanh())

    def forward(self, z):
        return self.layers(z)


class Conditional(Deconvolution):
    def forward(self, z, labels):
        return torch.tanh(super().forward(z) * 0.1 + labels[:, None, None, None] - 0.5)


def fid(generator, real=REAL, **options):
    return evaluate(generator, real, **OPTIONS, **options).fid


G = Deconvolution()
WAYS = {
    "a module": (G, {"latent_shape": (4, 1, 1)}),
    "flat latents": (lambda z: G(z[:, :, None, None]), {"latent_dim": 4}),
    "an attribute": (nn.Sequential(nn.Unflatten(1, (4, 1, 1)), G), {"latent_dim": 4}),
    "a tuple": (lambda z: (G(z), z), {"latent_shape": (4, 1, 1), "output": 0}),
    "a dict": (lambda z: {"images": G(z)}, {"latent_shape": (4, 1, 1), "output": "images"}),
    "a function of it": (lambda z: [z, G(z)], {"latent_shape": [4, 1, 1], "output": lambda y: y[-1]}),
    "bytes": (lambda z: to_uint8(G(z)), {"latent_shape": (4, 1, 1)}),
    "an array": (lambda z: G(z).numpy(), {"latent_shape": (4, 1, 1)}),
    "in [0, 1]": (lambda z: (G(z) + 1) / 2, {"latent_shape": (4, 1, 1), "fake_range": (0, 1)}),
    "in 0 to 255": (lambda z: (G(z) + 1) * 127.5, {"latent_shape": (4, 1, 1), "fake_range": (0, 255)}),
}


@pytest.mark.parametrize("generator,options", WAYS.values(), ids=WAYS.keys())
def test_every_way_to_have_a_generator_has_one_score(generator, options):
    expected = fid(G, latent_shape=(4, 1, 1))
    assert fid(generator, **options) == pytest.approx(expected, rel=1e-3)  # a byte may fall beyond a rounding


def test_an_object_whose_attribute_is_an_output_is_taken():
    class Output:
        def __init__(self, images):
            self.sample = images

    assert fid(lambda z: Output(G(z)), latent_shape=(4, 1, 1), output="sample") == fid(G, latent_shape=(4, 1, 1))


def test_a_function_of_the_number_of_images_is_repeated_by_the_seed_and_runs_as_it_is():
    def draw(n):
        assert not G.training or "training" in modes
        return G(torch.randn(n, 4, 1, 1))

    modes, evaluator = [], Evaluator(REAL, extractor="pass_through", splits=1, device="cpu")
    G.eval()
    one, other = evaluator.score(draw), evaluator.score(draw)
    assert one.fid == other.fid and one.protocol["statistics"] == "own"
    modes.append("training")
    G.train()
    assert evaluator.score(draw).fid != one.fid and G.training
    assert Evaluator(REAL, extractor="pass_through", splits=1, seed=1, device="cpu").score(draw).fid != one.fid
    with pytest.raises(UserError, match="decides on its statistics itself: got statistics='batch'"):
        evaluator.score(draw, statistics="batch")


def test_labels_have_the_frequencies_of_the_real_images_at_every_batch_size():
    labels = torch.tensor([0] * 30 + [1] * 10)
    drawn = sampler(Conditional(), latent_shape=(4, 1, 1), labels=labels, conditional=True)
    seen = []
    drawn.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    for size in (1000, 10):
        draws = Draws(3)
        for _ in range(1000 // size):
            drawn(draws, size)
    first, *others = seen
    assert torch.equal(torch.cat(others), first)
    share = first.double().mean().item()
    assert abs(share - 0.25) < 3 * (0.25 * 0.75 / 1000) ** 0.5  # three standard errors of a binomial share


def test_a_conditional_generator_is_scored_with_labels_of_the_real_images():
    labelled = images_of(REAL.pixels)
    object.__setattr__(labelled, "labels", torch.arange(40) % 2)
    scores = evaluate(Conditional(), labelled, latent_shape=(4, 1, 1), conditional=True, **OPTIONS)
    assert scores.protocol["conditional"] is True
    only_zeros = lambda z: Conditional()(z, torch.zeros(len(z)))  # noqa: E731
    assert scores.fid != fid(only_zeros, labelled, latent_shape=(4, 1, 1))


MISTAKES = {
    "no latent": ({}, G, "the latent must be known: Deconvolution has no attribute latent_dim; give latent_dim=100"),
    "both latents": ({"latent_dim": 4, "latent_shape": (4, 1, 1)}, G, "give latent_dim or latent_shape: got both"),
    "no number": ({"latent_shape": (4, 0)}, G, r"must be whole numbers above 0: got \(4, 0\)"),
    "another latent": ({"latent_dim": 4}, G, r"must take latents \(N, 4\): Deconvolution gave RuntimeError"),
    "labels wanted": ({"latent_dim": 4}, Conditional(), "with conditional=True it gets labels too"),
    "no labels": ({"latent_shape": (4, 1, 1), "conditional": True}, Conditional(), "give real_labels"),
    "a dict": (
        {"latent_dim": 4},
        lambda z: {"a": z, "b": z},
        "returned a dict of 'a', 'b'; name the images with output",
    ),
    "no such key": ({"latent_dim": 4, "output": "c"}, lambda z: {"a": z}, "'c' is not in a dict of 'a'"),
    "a tuple": ({"latent_dim": 4}, lambda z: (z, z), "returned a tuple of 2; name the images with output"),
    "no images": ({"latent_dim": 4}, lambda z: z, r"must return 2 images \(N, C, H, W\).* returned float32 \(2, 4\)"),
    "too many": ({}, lambda n: torch.zeros(n + 1, 1, 2, 3), r"must return 2 images.* returned float32 \(3, 1, 2, 3\)"),
    "another shape": ({}, lambda n: torch.zeros(n, 1, 3, 3), r"one shape \(C, H, W\): got \(1, 3, 3\), made has"),
    "no range": ({"fake_range": (1, 0)}, lambda n: torch.zeros(n, 1, 2, 3), "black below white"),
    "nothing callable": ({}, 3, "must be an nn.Module, a callable, uint8 images or a folder: got int"),
}


@pytest.mark.parametrize("options,generator,line", MISTAKES.values(), ids=MISTAKES.keys())
def test_what_does_not_fit_is_one_line_before_anything_is_built(options, generator, line, monkeypatch):
    monkeypatch.setattr("gannorm.evaluation.scores.build_extractor", lambda *a, **k: pytest.fail("too late"))
    with pytest.raises(UserError, match=line) as error:
        evaluate(generator, REAL, extractor="pass_through", **options)
    assert "\n" not in str(error.value)


def test_a_layer_with_old_weight_norm_is_scored_all_the_same():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, that it is old
        generator = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Unflatten(1, (1, 2, 3)))
    assert fid(generator, latent_dim=4) > 0


# -- what was assumed -------------------------------------------------------------------------------------------------


def noise(low, high, n=16):
    images = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * (high - low) + low
    images[0, 0, 0, 0], images[0, 0, 0, 1] = low, high
    return images


ASSUMED = {
    "of a sigmoid": (noise(0, 1), r"lie in \[0, 1\] \(0 to 1\): they were taken to be in \[−1, 1\]"),
    "dark": (noise(0.2, 0.4), r"lie in \[0, 1\]"),
    "standardized": (noise(-2.5, 2.5), r"must lie in \[−1, 1\]: got values from −2.5 to 2.5; they were cut off"),
    "bytes as floats": (noise(0, 255), r"got values from 0 to 255; they were cut off"),
    "flat": (torch.linspace(-1, 1, 16).view(16, 1, 1, 1).expand(16, 3, 4, 4), "every image is of one flat colour"),
    "collapsed": (noise(-1, 1)[:1].expand(16, -1, -1, -1), "all images are the same"),
    "two bytes": (noise(0, 1).round().to(torch.uint8), "bytes are 0 and 1 alone"),
}


@pytest.mark.parametrize("images,line", ASSUMED.values(), ids=ASSUMED.keys())
def test_images_that_are_not_what_was_assumed_are_a_warning(images, line):
    with pytest.warns(UserWarning, match=line):
        RangeWatch().see(images)


@pytest.mark.parametrize("images", [noise(-1, 1), noise(-0.1, 0.9), noise(-1.001, 1.001), to_uint8(noise(-1, 1))])
def test_images_as_assumed_are_no_warning(images):  # a thousandth is less than half a byte
    RangeWatch().see(images)


def test_a_stated_range_is_not_questioned_but_kept():
    RangeWatch(SIGNED).see(noise(0, 1))
    RangeWatch((0, 1)).see(noise(0, 1))
    with pytest.warns(UserWarning, match=r"must lie in \[0, 1\]: got values from −1 to 1"):
        RangeWatch((0, 1)).see(noise(-1, 1))


def test_a_range_is_warned_of_once_and_in_later_batches_too():
    watch = RangeWatch()
    watch.see(noise(-1, 1))
    with pytest.warns(UserWarning, match="cut off"):
        watch.see(noise(-1, 3))
    watch.see(noise(-1, 3))
    watch.see(noise(0, 1))  # only the first batch is asked whether it lies in [0, 1]
    with pytest.raises(NotFiniteError, match="must be finite"):
        watch.see(noise(-1, 1) * np.nan)
