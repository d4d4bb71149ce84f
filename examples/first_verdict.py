"""Train a small GAN on scikit-learn's digits, then ask: does its discriminator judge images, or batches? Seconds."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import softplus

import gannorm

torch.manual_seed(0)
images = torch.tensor(load_digits().data, dtype=torch.float32) / 8 - 1  # (1797, 64): digits of 8×8 pixels
train, held_out = images[:1200], images[1200:]


def block(n_in: int, n_out: int) -> list[nn.Module]:
    return [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.LeakyReLU(0.2)]


G = nn.Sequential(*block(16, 128), nn.Linear(128, 64), nn.Tanh())
D = nn.Sequential(*block(64, 128), *block(128, 128), nn.Linear(128, 1))
g_optimizer, d_optimizer = (torch.optim.Adam(net.parameters(), 5e-4, betas=(0.5, 0.999)) for net in (G, D))

for _ in range(200):
    real, fake = train[torch.randint(len(train), (64,))], G(torch.randn(64, 16))
    d_optimizer.zero_grad()
    (softplus(-D(real)) + softplus(D(fake.detach()))).mean().backward()  # a real batch, then a fake one, as usual
    d_optimizer.step()
    g_optimizer.zero_grad()
    softplus(-D(fake)).mean().backward()
    g_optimizer.step()

fakes = G(torch.randn(len(held_out), 16)).detach()
print(gannorm.batch_invariance(D, held_out, fakes, cost="quick"))
