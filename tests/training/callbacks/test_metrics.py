"""What is logged of a step, and which figures end a run."""

from types import SimpleNamespace

import pytest
import torch

from gannorm.training import prepare
from gannorm.training.callbacks import metrics as callbacks
from gannorm.training.callbacks.metrics import Metrics, why_it_ends


@pytest.mark.parametrize(("d_steps", "processes"), [(1, 1), (2, 3)])
def test_the_speed_counts_the_real_images_of_all_processes(configure, monkeypatch, d_steps, processes):
    gan, data = prepare(configure("--model.d_steps", str(d_steps)))
    records, clock = [], iter([10.0, 14.0])
    logger = SimpleNamespace(log_metrics=lambda metrics, step: records.append(metrics))
    parts = {"train_dataloader": data.train_dataloader(), "is_global_zero": True, "loggers": [logger]}
    trainer = SimpleNamespace(world_size=processes, **parts)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: next(clock))
    metrics = Metrics(3)
    metrics.on_train_start(trainer, gan)
    gan.step = 3
    metrics.act(trainer, gan)
    assert records[0]["images_per_second"] == 3 * 16 * d_steps * processes / 4


def test_losses_of_either_sign_that_exploded_or_are_not_finite_end_the_run(configure):
    gan, _ = prepare(configure())
    gan.step = 7
    gan.max_loss = 10.0
    for value, ends in ((9.0, False), (-9.0, False), (11.0, True), (-11.0, True), (float("nan"), True)):
        gan.losses = {"loss/d": torch.tensor(value)}
        assert bool(why_it_ends(gan)) == ends, value
    gan.losses = {"loss/d": torch.tensor(1.0)}
    next(gan.generator.parameters()).data.view(-1)[0] = torch.nan
    assert "non-finite weights at step 7" in why_it_ends(gan)
