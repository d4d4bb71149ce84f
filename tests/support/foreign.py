"""Other people's GANs as LightningModules, for either of Lightning's two packages."""

import copy

import torch
from torch import nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
QUIET |= {"accelerator": "cpu", "log_every_n_steps": 1}
SHAPE = (3, 4, 4)


def images(n, seed=0):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed)) + 0.5


def loader(n=128, batch=32):
    return DataLoader(TensorDataset(images(n), torch.arange(n) % 2), batch_size=batch, shuffle=True, drop_last=True)


def modules(library):
    """name -> class: a GAN with manual optimization and two optimizers, and one with automatic and a single one."""

    class Manual(library.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.gen = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 48), nn.Tanh())
            self.critic = nn.Sequential(
                nn.Flatten(),
                nn.Linear(48, 32),
                nn.BatchNorm1d(32),
                nn.LeakyReLU(0.2),
                nn.Dropout(0.1),
                nn.Linear(32, 1),
            )

        def sample(self, n):
            return self.gen(torch.randn(n, 8, device=self.device)).view(n, *SHAPE)

        def losses(self, real):
            fake = self.sample(len(real))
            of_d = softplus(-self.critic(real)).mean() + softplus(self.critic(fake.detach())).mean()
            return of_d, softplus(-self.critic(fake)).mean()

        def training_step(self, batch, _):
            optimizers = self.optimizers()
            for which, optimizer in enumerate(optimizers):
                optimizer.zero_grad()
                self.manual_backward(self.losses(batch[0])[which])
                optimizer.step()
            self.log("mine", 1.0)

        def configure_optimizers(self):
            return [torch.optim.Adam(self.critic.parameters(), 1e-3), torch.optim.Adam(self.gen.parameters(), 1e-3)]

    class Automatic(Manual):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = True

        def training_step(self, batch, _):
            return self.losses(batch[0])[0]

        def configure_optimizers(self):
            return torch.optim.Adam(self.critic.parameters(), 1e-3)

    return {"manual": Manual, "automatic": Automatic}


def fakes(module, n):
    return module.sample(n)


def fit(library, make, callbacks=(), epochs=3, logger=False, **options):
    """Train from one seed: (everything that training leaves, the trainer)."""
    torch.manual_seed(0)
    module = make()
    callbacks = list(callbacks)
    trainer = library.Trainer(max_epochs=epochs, callbacks=callbacks, logger=logger, **{**QUIET, **options})
    trainer.fit(module, loader())
    states = [copy.deepcopy(o.state_dict()["state"]) for o in trainer.optimizers]
    flat = {f"{i}/{p}/{k}": v for i, s in enumerate(states) for p, d in s.items() for k, v in d.items()}
    left = {**module.state_dict(), **flat, "random": torch.get_rng_state(), "step": torch.tensor(trainer.global_step)}
    return left, trainer


def require_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one), [
        name for name in one if not torch.equal(one[name], other[name])
    ]
