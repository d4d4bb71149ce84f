"""The Lightning data module: a data set by name, its batches made on the trainer's device."""

from __future__ import annotations

import lightning.pytorch as pl

from gannorm.data.datasets import load_images
from gannorm.data.images import Images
from gannorm.data.loader import ImageLoader


class ImageData(pl.LightningDataModule):
    """A data set by name; after `setup`, `train` and `test` are its two splits.

    Args:
        name: digits, cifar10, cifar100, mnist, fashion_mnist, svhn, stl10, celeba or folder.
        image_size: images are cropped to a square and resized to this many pixels a side.
        root: where the data set's files are; for folder, the tree of images.
        batch_size: images a batch.
        seed: of the order of the images.
        download: get a torchvision data set that is not in root.
        skip_bad: leave out image files that are damaged or too small, and name them, instead of stopping.
    """

    train: Images
    test: Images

    def __init__(
        self,
        name: str = "digits",
        image_size: int = 32,
        root: str = "data",
        batch_size: int = 64,
        seed: int = 0,
        download: bool = False,
        skip_bad: bool = False,
    ) -> None:
        super().__init__()
        self.name: str = name
        self.image_size = image_size
        self.root = root
        self.batch_size = batch_size
        self.seed = seed
        self.download = download
        self.skip_bad = skip_bad

    def prepare_data(self) -> None:
        """Download, in one process only. (The cache of decoded images has a lock of its own.)"""
        if self.download and not hasattr(self, "test"):
            self._load("train", download=True)
            self._load("test", download=True)

    def setup(self, stage: str | None = None) -> None:
        """Load both splits, once."""
        if not hasattr(self, "test"):
            self.train, self.test = self._load("train"), self._load("test")

    def train_dataloader(self) -> ImageLoader:
        """Endless training batches on the trainer's device (on the CPU without a trainer)."""
        trainer = self.trainer
        return _FetchedAhead(
            self.train.pixels,
            self.batch_size,
            self.seed,
            device=trainer.strategy.root_device if trainer else "cpu",
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )

    def _load(self, split: str, download: bool = False) -> Images:
        return load_images(
            self.name,
            split,
            image_size=self.image_size,
            root=self.root,
            download=download,
            skip_bad=self.skip_bad,
        )


class _FetchedAhead(ImageLoader):
    """Lightning draws from a loader without a length one batch ahead of the training step, and saves `state_dict`
    after the step: the batch to resume with is then the one already drawn."""

    def state_dict(self) -> dict[str, int]:
        drawn, self.position = self.position, max(self.position - 1, 0)
        state = super().state_dict()
        self.position = drawn
        return state
