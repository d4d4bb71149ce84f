"""The progress bar counts every step, shows the losses, and is closed whatever happens."""

from types import SimpleNamespace

import torch

from gannorm.training.callbacks.progress import Progress


def watched(steps, every=1):
    """A bar after some steps of a training that has 4."""
    trainer = SimpleNamespace(max_steps=4, train_dataloader=SimpleNamespace(batch_size=8), world_size=1)
    trainer.is_global_zero = True
    gan = SimpleNamespace(step=0, losses={"loss/d": torch.tensor(0.25), "loss/g": torch.tensor(1.5)})
    callback = Progress(every)
    callback.on_train_start(trainer, gan)
    for gan.step in range(1, steps + 1):
        callback.on_train_batch_end(trainer, gan)
    return callback, trainer, gan


def test_it_counts_the_steps_and_shows_the_losses(capsys):
    callback, trainer, gan = watched(steps=4, every=3)
    assert callback._bar.n == 4 and callback._bar.total == 4
    assert "loss/d 0.250 loss/g 1.500" in callback._bar.postfix
    callback.on_fit_end(trainer, gan)
    assert callback._bar.disable  # tqdm's mark of a closed bar
    assert "4/4" in capsys.readouterr().err


def test_an_error_closes_it_also_before_the_first_step():
    callback, trainer, gan = watched(steps=1)
    callback.on_exception(trainer, gan, RuntimeError())
    assert callback._bar.disable
    Progress(1).on_exception(trainer, gan, RuntimeError())
