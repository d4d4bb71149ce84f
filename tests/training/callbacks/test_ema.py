"""The average of a module against its closed form."""

import torch

from gannorm.training.callbacks.ema import EMA


def test_ema_follows_in_closed_form():
    module = torch.nn.BatchNorm1d(1)
    ema = EMA(module, decay=0.5)
    for value in (2.0, 4.0):
        module.weight.data.fill_(value)
        module.running_mean.fill_(value)
        ema.update(module)
    assert ema.module.weight.item() == 0.25 * 1 + 0.25 * 2 + 0.5 * 4
    assert ema.module.running_mean.item() == 4.0  # buffers are carried, not averaged
    assert not any(p.requires_grad for p in ema.parameters())
