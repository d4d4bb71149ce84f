"""The Lightning data module: a data set by name, its batches made on the trainer's device."""

from __future__ import annotations

import lightning.pytorch as pl

from gannorm.data.datasets import EMBEDDED, check_source, load_images
from gannorm.data.images import Images
from gannorm.data.loader import ImageLoader
from gannorm.errors import UserError, printable


class ImageData(pl.LightningDataModule):
    """A data set by name; after `setup`, `train` and `test` are its two splits.

    Args:
        name: a name in DATASETS.
        image_size: images are cropped to a square and resized to this many pixels a side.
        root: where the data set's files are; for folder, the tree of images.
        batch_size: images a batch, on each device.
        seed: of the order of the images.
        download: get a torchvision data set that is not in root.
        skip_bad: leave out image files that are damaged or too small, and name them, instead of stopping.
        enlarge: enlarge image files that are smaller than image_size, instead of refusing them.
        background: colour under transparent pixels of image files: a name (white) or #rrggbb.
        follow_links: follow symbolic links that lead out of a folder.
        labelled: batches are (images, labels) and the data set must have labels.

    Raises:
        UserError: an unknown data set or colour, a root for a data set that reads none; in `setup`, no labels where
            they are wanted.
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
        enlarge: bool = False,
        background: str = "black",
        follow_links: bool = False,
        labelled: bool = False,
    ) -> None:
        super().__init__()
        check_source(name, root, background)
        self.name: str = name
        self.image_size = image_size
        self.root = root
        self.batch_size = batch_size
        self.seed = seed
        self.download = download
        self.skip_bad = skip_bad
        self.enlarge = enlarge
        self.background = background
        self.follow_links = follow_links
        self.labelled = labelled

    def setup(self, stage: str | None = None) -> None:
        """Load both splits, once."""
        if not hasattr(self, "test"):
            self.train, self.test = self._load("train"), self._load("test")
            if self.labelled and (self.train.labels is None or self.test.labels is None):
                raise UserError(
                    f"a classifier needs labels: data set {self.name!r} has none; choose another, or sort a folder's "
                    "images into one folder a class."
                )

    def describe(self) -> str:
        """How many images of how many classes were read, and which rule made the split, in one line.

        >>> data = ImageData(image_size=8)
        >>> data.setup()
        >>> data.describe()
        'digits: 1438 training and 359 held-out images of 10 classes; split: a fixed fifth is held out'
        """
        place = "" if self.name in EMBEDDED else f" ({self.root})"
        classes = f"of {len(self.train.classes)} classes" if self.train.classes else "without classes"
        counts = f"{len(self.train)} training and {len(self.test)} held-out images {classes}"
        parts = [f"{self.name}{place}: {counts}", f"split: {self.train.split_rule or 'not stated'}"]
        parts += [f"{images.split}: {images.note}" for images in (self.train, self.test) if images.note]
        return printable("; ".join(parts))

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
            labels=self.train.labels if self.labelled else None,
        )

    def _load(self, split: str) -> Images:
        return load_images(
            self.name,
            split,
            image_size=self.image_size,
            root=self.root,
            download=self.download,
            skip_bad=self.skip_bad,
            enlarge=self.enlarge,
            background=self.background,
            follow_links=self.follow_links,
        )


class _FetchedAhead(ImageLoader):
    """Lightning draws from a loader without a length once ahead of the training step, and saves `state_dict` after the
    step: the batch to resume with is then the one already drawn."""

    def state_dict(self) -> dict[str, int]:
        drawn, self.position = self.position, max(self.position - 1, 0)
        state = super().state_dict()
        self.position = drawn
        return state
