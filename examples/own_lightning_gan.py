"""One callback for your own LightningModule: does its discriminator judge images, or batches?

    python examples/own_lightning_gan.py

It works the same with `import pytorch_lightning as pl`, and with any logger. The images are made here.
"""

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import softplus

import gannorm


class MyGAN(pl.LightningModule):
    """A GAN as people write it: manual optimization, its own names, nothing of this package."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.netG = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh())
        self.netD = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)),
            *(nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(64, 1)),
        )

    def sample(self, n: int) -> torch.Tensor:
        return self.netG(torch.randn(n, 16, device=self.device)).view(n, 1, 8, 8)

    def training_step(self, batch: list[torch.Tensor], _: int) -> None:
        real, (d_optimizer, g_optimizer) = batch[0], self.optimizers()
        fake = self.sample(len(real))
        d_loss = softplus(-self.netD(real)).mean() + softplus(self.netD(fake.detach())).mean()
        d_optimizer.zero_grad()
        self.manual_backward(d_loss)
        d_optimizer.step()
        g_loss = softplus(-self.netD(fake)).mean()
        g_optimizer.zero_grad()
        self.manual_backward(g_loss)
        g_optimizer.step()
        self.log_dict({"loss_d": d_loss, "loss_g": g_loss})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (self.netD, self.netG)]


def stripes(n: int) -> torch.Tensor:
    """(n, 1, 8, 8) images in [−1, 1]: stripes of random phase."""
    phase = 6.3 * torch.rand(n, 1, 1, 1)
    return torch.sin(torch.arange(8) + phase).expand(n, 1, 8, 8).clone()


def main(folder: str = "runs/own_lightning_gan", batches: int = 60) -> gannorm.BatchDependence:
    pl.seed_everything(0, verbose=False)
    watch = gannorm.BatchDependence(
        discriminator="netD",
        fakes=lambda module, n: module.sample(n),
        real=stripes(128),  # held out; without it, the training batches seen last
        every_n_batches=30,
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(stripes(32 * batches)), batch_size=32)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    logger = CSVLogger(folder)
    pl.Trainer(max_epochs=1, accelerator="cpu", logger=logger, callbacks=[watch], **quiet).fit(MyGAN(), loader)
    return watch  # watch.last["train"].verdict; its numbers are in the logger, as batch_dependence/train/…


if __name__ == "__main__":
    main()
