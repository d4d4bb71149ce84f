"""python pretended_gpu_program.py FOLDER FLAGS…: a tiny run of `train` on the pretended GPU; its step must not wait."""

import sys
from pathlib import Path

from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from support.pretended_gpu import GPU, without_waiting

from gannorm.arguments import train_config
from gannorm.training import GAN, train

TINY = "--data.image_size=8 --data.batch_size=16 --steps=4 --log_every=1 --model.discriminator.width=8"
TINY += " --model.generator.width=8 --model.generator.latent_dim=4 --probe_every=0 --sample_every=0 --wandb=off"
TINY += " --checkpoint_every=4 --progress=false --name=run --precision=exact"
to_device, update = SingleDeviceStrategy.model_to_device, GAN._update


def model_to_device(strategy):
    to_device(strategy)
    strategy.model._trainable = list(strategy.model.discriminator.parameters())  # a GPU keeps the objects


def strictly(gan, batch):
    assert batch.device == GPU
    if gan.watched or gan.accumulate > 1:
        return update(gan, batch)
    with without_waiting():
        return update(gan, batch)


SingleDeviceStrategy.root_device = property(lambda self: GPU)
SingleDeviceStrategy.model_to_device = model_to_device
CPUAccelerator.setup_device = lambda self, device: None
GAN._update = strictly
for number, flags in enumerate(line.split() for line in sys.stdin.read().splitlines()):
    config = train_config([*TINY.split(), f"--output={sys.argv[1]}", *flags]).to_dict()
    try:
        train(config, Path(sys.argv[1]) / str(number) / "run")
    except Exception as error:
        print(f"{' '.join(flags)}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
    print("ran", *flags)
