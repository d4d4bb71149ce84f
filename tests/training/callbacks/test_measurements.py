"""What the callbacks measure and show: of which network, in which mode, on which images."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gannorm import probes
from gannorm.data import Images, to_uint8
from gannorm.rundir import RunDir
from gannorm.seeds import stream
from gannorm.training import prepare
from gannorm.training.callbacks import measurements as callbacks
from gannorm.training.callbacks.measurements import (
    BatchDependence,
    Samples,
    divergence,
    encode_grid,
    record_arrays,
    scalars,
)


@pytest.fixture
def gan(configure):
    """One whose modes, averages and statistics all differ from one another."""
    gan, _ = prepare(configure("--seed", "3"))
    draw = stream(2)
    with torch.no_grad():
        for network in (gan.generator, gan.ema.module):
            for p in network.parameters():
                p.copy_(0.5 * torch.randn(p.shape, generator=draw))
            for module in network.modules():
                if getattr(module, "running_mean", None) is not None:
                    module.running_mean.fill_(0.5)
    gan.step = 7
    return gan


def test_samples_show_the_averaged_generator_in_evaluation_mode_row_by_row(gan, tmp_path):
    run = SimpleNamespace(sample_file=lambda step: tmp_path / f"{step}.png")
    Samples(1, run).act(SimpleNamespace(is_global_zero=False), gan)
    z = torch.randn(64, gan.latent_dim, generator=stream(3, "samples"))
    with torch.no_grad():
        expected = to_uint8(gan.ema.module.eval()(z))[:, 0].numpy()
    assert expected.std() > 10  # not all grey
    shown = np.asarray(Image.open(tmp_path / "7.png"))[::4, ::4]  # 8 pixels are enlarged to 32
    for i, image in enumerate(expected):
        row, column = divmod(i, 8)
        assert np.array_equal(shown[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], image)


def test_a_grid_of_colour_images_keeps_rows_columns_and_channels():
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=stream(0))
    picture = np.asarray(Image.open(io.BytesIO(encode_grid(pixels.float() / 127.5 - 1))))
    for i in range(4):
        row, column = divmod(i, 2)
        part = picture[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert np.array_equal(part, pixels[i].permute(1, 2, 0).numpy())


def test_the_discriminator_is_probed_in_both_modes_on_held_out_images_and_fakes_as_it_meets_them(
    gan, tmp_path, monkeypatch
):
    pixels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=stream(1))
    held_out = Images(pixels, None, (), "made", "test")
    seen, measure = [], probes.batch_invariance

    def note(f, real, fake, **options):
        seen.append((f.training, real, fake, options["batch_size"]))
        return measure(f, real, fake, **options)

    monkeypatch.setattr(callbacks.probes, "batch_invariance", note)
    probe = BatchDependence(1, RunDir(tmp_path), held_out, images=32, batch_size=16)
    metrics, matrices = probe.measure(gan)
    z = torch.randn(32, gan.latent_dim, generator=stream(3, "probe", 7))
    with torch.no_grad():
        fake = torch.cat([gan.generator.train()(part) for part in z.split(16)])
    assert [(training, size) for training, _, _, size in seen] == [(True, 16), (False, 16)]
    for _, real, fakes, _ in seen:
        assert torch.equal(real, held_out.take(32, 3))
        torch.testing.assert_close(fakes, fake, rtol=1e-5, atol=1e-6)
    # BatchNorm couples in training mode alone, and the matrix of each mode shows it.
    assert (metrics["probe/train/swap_bitwise_equal"], metrics["probe/eval/swap_bitwise_equal"]) == (0, 1)
    mixed = [np.abs(m - np.diag(np.diag(m))).max() for m in (matrices["coupling_train"], matrices["coupling_eval"])]
    assert mixed[0] > 0 and mixed[1] == 0
    gan.step = 8  # other fakes at every probe
    probe.measure(gan)
    assert not torch.equal(seen[2][2], seen[0][2])


def test_each_recorded_number_is_that_of_its_probe():
    draw = stream(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
    real, fake = torch.randn(64, 3, generator=draw) + 0.5, torch.randn(64, 3, generator=draw)
    result = probes.batch_invariance(network, real, fake, batch_size=16)
    gap, leak, swap = result.composition, result.leak, result.swap
    expected = {
        **{name: getattr(gap, name) for name in ("accuracy_pure", "accuracy_mixed", "auc_pure", "auc_mixed")},
        **{"leak_ratio": leak.ratio, "leak_own": leak.own.value, "leak_own_error": leak.own.standard_error},
        **{"leak_context": leak.context.value, "leak_context_error": leak.context.standard_error},
        **{name: getattr(result, name) for name in ("companion_variance", "companion_shift", "gradient_change")},
        **{"coupling_ratio": result.coupling.ratio, "common_mode_gain": result.common_mode_gain},
        **{"swap_max_change": swap.max_change, "swap_bitwise_equal": 0.0},
        **{"swap_floor_fp32": swap.floor_fp32, "swap_floor_fp64": swap.floor_fp64},
    }
    for kind, found in (("icc_real", result.icc_real), ("icc_fake", result.icc_fake)):
        expected |= {kind: found.icc, f"{kind}_low": found.low, f"{kind}_high": found.high}
        expected[f"{kind}_design_effect"] = found.design_effect
    assert len(set(expected.values())) == len(expected)  # so that no two can be exchanged unseen
    assert scalars(result) == expected


def test_losses_of_either_sign_that_are_too_large_or_no_number_are_a_divergence(gan):
    gan.max_loss = 10.0
    for value, diverged in ((9.0, False), (-9.0, False), (11.0, True), (-11.0, True), (float("nan"), True)):
        gan.losses = {"loss_d": torch.tensor(value)}
        assert bool(divergence(gan)) == diverged, value
    gan.losses = {"loss_d": torch.tensor(1.0)}
    next(gan.generator.parameters()).data.view(-1)[0] = torch.nan
    assert "weights that are not finite at step 7" in divergence(gan)


def test_arrays_of_one_step_stand_beside_each_other_and_the_newer_of_one_name_counts(tmp_path):
    run = SimpleNamespace(probe_file=lambda step: tmp_path / f"{step}.npz")
    record_arrays(run, 2, {"a": np.ones(2), "b": np.ones(1)})
    record_arrays(run, 2, {"b": np.zeros(1), "c": np.ones(3)})
    with np.load(tmp_path / "2.npz") as file:
        assert {name: array.tolist() for name, array in file.items()} == {"a": [1, 1], "b": [0], "c": [1, 1, 1]}
