"""What samples show: of which network, in which mode, in which order, and where they go."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gannorm.data import to_uint8
from gannorm.rundir import RunDir
from gannorm.seeds import stream
from gannorm.training import prepare
from gannorm.training.callbacks.samples import Samples, encode_grid
from gannorm.training.loggers import RunDirLogger


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
    with RunDir.create(tmp_path / "run", {}) as run:
        Samples(1).act(SimpleNamespace(is_global_zero=True, loggers=[RunDirLogger(run)]), gan)
    z = torch.randn(64, gan.latent_dim, generator=stream(3, "samples"))
    with torch.no_grad():
        expected = to_uint8(gan.ema.module.eval()(z))[:, 0].numpy()
    assert expected.std() > 10  # not all grey
    shown = np.asarray(Image.open(run.sample_file(7)))[::4, ::4]  # 8 pixels are enlarged to 32
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


def test_without_a_logger_that_takes_pictures_samples_are_files(gan, tmp_path):
    trainer = SimpleNamespace(is_global_zero=True, loggers=[object()], log_dir=str(tmp_path), default_root_dir="")
    Samples(1).act(trainer, gan)
    with Image.open(tmp_path / "samples" / "step_00000007.png") as picture:
        assert picture.size == (256, 256)
