"""Two lines in a training loop of your own: does its discriminator judge images, or batches?

    python examples/own_loop.py

Everything is made here: points in two dimensions stand for images. With a logger, `metrics` is what you log.
"""

import torch
from torch import nn
from torch.nn.functional import softplus

import gannorm


def main(steps: int = 200) -> dict[str, float]:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    d_optimizer = torch.optim.Adam(discriminator.parameters(), 2e-3, betas=(0.5, 0.999))
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.999))
    held_out = torch.randn(256, 2) + 1
    metrics: dict[str, float] = {}
    for step in range(1, steps + 1):
        real, fake = torch.randn(64, 2) + 1, generator(torch.randn(64, 4))
        d_loss = softplus(-discriminator(real)).mean() + softplus(discriminator(fake.detach())).mean()
        d_optimizer.zero_grad()
        d_loss.backward()
        d_optimizer.step()

        g_optimizer.zero_grad()
        softplus(-discriminator(fake)).mean().backward()
        g_optimizer.step()

        if step % 100 == 0:
            with torch.no_grad():
                fakes = generator(torch.randn(256, 4))
            result = gannorm.batch_invariance(discriminator, held_out, fakes, cost="quick")
            metrics = result.metrics(prefix="batch_dependence/train/")  # for wandb.log, or any other logger
            print(f"step {step}: {result.verdict}")
    return metrics


if __name__ == "__main__":
    main()
