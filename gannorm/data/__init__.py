"""Images by name: uint8 tensors in memory (or mapped from a cache), and batches whose order is a pure function.

Small images live decoded, in one tensor, where the training runs: no worker processes, no decoding during training.

    images     the Images type; the fixed map between bytes 0…255 and floats −1…1
    datasets   DATASETS: digits (embedded), torchvision's, a folder of your own
    folder     a tree of image files: which files, which split, which class
    left_out   warnings and errors about files that give no image
    cache      image files → pixels, decoded once into memory-mapped files
    decoding   one image file, possibly hostile → one square of bytes
    loader     batches in an order given by (seed, epoch); stops and resumes anywhere
    module     the Lightning data module around them, imported at first use, since Lightning takes seconds to import
"""

from typing import TYPE_CHECKING, Any

from gannorm.data.datasets import DATASETS, GREY, images_of_run, load_images
from gannorm.data.images import Images, to_float, to_uint8
from gannorm.data.loader import ImageLoader

DATASETS.seal()

if TYPE_CHECKING:
    from gannorm.data.module import ImageData

__all__ = [
    "DATASETS",
    "GREY",
    "ImageData",
    "ImageLoader",
    "Images",
    "images_of_run",
    "load_images",
    "to_float",
    "to_uint8",
]


def __getattr__(name: str) -> Any:
    if name == "ImageData":
        from gannorm.data.module import ImageData

        return ImageData
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
