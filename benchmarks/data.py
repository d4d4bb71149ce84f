"""Images per second from memory and from files."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.core import Bench, Row, row
from benchmarks.loops import Items, random_images
from gannorm.data import to_float
from gannorm.data.loader import ImageLoader


def data(bench: Bench) -> Iterator[Row]:
    from PIL import Image

    images, batch = random_images(32, "train"), 64
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(512)]
        for file, pixels in zip(files, images.pixels, strict=False):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file)

        def decoded(index: int) -> Tensor:
            with Image.open(files[index]) as image:
                return to_float(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8))

        def drained(dataset: Dataset[Tensor]) -> list[Tensor]:
            batches = DataLoader(dataset, batch, shuffle=True, drop_last=True)
            return [found.to(bench.device) for found in islice(batches, 8)]

        ours = ImageLoader(images.pixels, batch, seed=0, device=bench.device)
        times = bench.interleaved(
            {
                "ours": lambda: [next(ours) for _ in range(8)],
                "decoded": lambda: drained(Items(len(files), decoded)),
                "resident": lambda: drained(Items(len(images), lambda index: to_float(images.pixels[index]))),
            }
        )
    note = f"{8 * batch / statistics.median(times['ours']):,.0f} img/s"
    yield row("data", "8 batches of 64, 32×32×3", times, "ours", "decoded", True, "DataLoader, PIL", note=note)
    yield row("data", "8 batches of 64, 32×32×3", times, "ours", "resident", True, "DataLoader, in memory")
