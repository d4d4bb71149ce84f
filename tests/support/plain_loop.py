"""The training step written out: what every faster form of it must compute."""

import copy
from contextlib import nullcontext

import torch

from gannorm.losses import LOSSES
from gannorm.seeds import stream


def plain_loop(gan, batches, config, bfloat16=False, latents=None):
    """D on real, D on fake, then G, averaging at the end of each step: (state dict of a GAN, its losses by step).

    Everything is as plain as it can be: channels first, Adam without fusion, an autocast around each forward pass, in
    the precision and with the weights that `gan` has. `latents` (n, Z) -> (n, Z) replaces the run's own.
    """
    loss, d_steps = LOSSES["non_saturating"], config["model"]["d_steps"]
    g, d = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    ema, decay = copy.deepcopy(g), config["model"]["ema_decay"]
    adam = {"betas": tuple(config["model"]["betas"])}
    d_optimizer = torch.optim.Adam(d.parameters(), lr=config["model"]["lr_d"], **adam)
    g_optimizer = torch.optim.Adam(g.parameters(), lr=config["model"]["lr_g"], **adam)
    randomness = stream(config["seed"], "latents", 0)
    dtype = next(g.parameters()).dtype
    latents = latents or (lambda n, size: torch.randn(n, size, generator=randomness, dtype=dtype))

    def forward(network, x):
        with torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext():
            return network(x)

    def judge(images):
        return forward(d, images).to(dtype)

    losses = []
    for batch in batches:
        for real in batch.to(dtype).chunk(d_steps):
            fake = forward(g, latents(len(real), g.latent_dim))
            if config["model"]["d_composition"] == "joint":
                real_logits, fake_logits = judge(torch.cat([real, fake.detach()])).chunk(2)
            else:
                real_logits, fake_logits = judge(real), judge(fake.detach())
            d_optimizer.zero_grad()
            d_loss = loss.discriminator(real_logits, fake_logits)
            d_loss.backward()
            d_optimizer.step()
        joint = config["model"]["g_composition"] == "joint"
        logits = judge(torch.cat([real, fake])).chunk(2)[1] if joint else judge(fake)
        g_optimizer.zero_grad()
        g_loss = loss.generator(logits)
        g_loss.backward()
        g_optimizer.step()
        losses.append((d_loss.item(), g_loss.item()))
        with torch.no_grad():
            for average, now in zip(ema.parameters(), g.parameters(), strict=True):
                average.mul_(decay).add_(now, alpha=1 - decay)
            for average, now in zip(ema.buffers(), g.buffers(), strict=True):
                average.copy_(now)
    networks = {"generator.": g, "discriminator.": d, "ema.module.": ema}
    state = {prefix + name: value for prefix, n in networks.items() for name, value in n.state_dict().items()}
    return state, losses


def final_state(run):
    return torch.load(run.checkpoint_file(None), weights_only=True)["state_dict"]
