"""What a loss or a penalty assumes of the discriminator: a warning where it does not hold, and none where it does."""

import pytest

from gannorm.training import train


def test_a_penalty_warns_of_a_coupled_discriminator_only(configure, tmp_path):
    penalty = ("--model.penalty", "gradient", "--steps", "1")
    with pytest.warns(UserWarning, match="assumes that the discriminator judges each image alone"):
        train(configure(*penalty, "--model.discriminator.norm", "batch"), tmp_path / "batch")
    train(configure(*penalty, "--model.discriminator.norm", "group"), tmp_path / "group")  # warnings are errors


def test_a_loss_that_couples_warns_of_a_discriminator_that_judges_single_images_only(configure, tmp_path):
    average = ("--model.loss", "relativistic_average", "--steps", "1")
    with pytest.warns(UserWarning, match="'relativistic_average' compares it with the mean of its batch"):
        train(configure(*average, "--model.discriminator.norm", "group"), tmp_path / "group")
    train(configure(*average, "--model.discriminator.norm", "batch"), tmp_path / "batch")  # warnings are errors
    pairs = ("--model.loss", "relativistic", "--steps", "1", "--model.discriminator.norm", "group")
    train(configure(*pairs), tmp_path / "pairs")
