"""One image file, perhaps a hostile one, to one square of RGB bytes; also run as a process by `gannorm.data.cache`.

Imports nothing of gannorm and no torch, so that a worker process starts in a tenth of a second. A file that crashes an
image library takes down a worker and not the training.
"""

from __future__ import annotations

import os
import struct
import sys
import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

# By content, whatever the file's name says: Pillow would start Ghostscript on a PostScript file called cat.png.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
HEADER = struct.Struct("<?I")  # of an answer: readable?, bytes that follow
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # Pillow's own limit: a quarter of a GiB in RGB


class BadImage(Exception):
    """Why a file gives no image."""


def decode(file: str | os.PathLike[str], image_size: int) -> bytes:
    """Read an image as RGB bytes of shape (3, image_size, image_size).

    The first frame of an animation, upright (EXIF orientation), the centre square, bilinear with antialiasing. Grey,
    palette and CMYK become RGB; 16-bit greys are divided by 257; transparent pixels are laid on black.

    Args:
        file: PNG, JPEG, BMP, WebP, GIF, TIFF or PPM, by its content.
        image_size: pixels a side.

    Raises:
        BadImage: unreadable or truncated; another format; more than 89 million pixels (refused before decoding);
            greys without a known range (32-bit, float); smaller than image_size, since enlarging would invent detail.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, and Pillow's own word on the sizes refused below
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(f"{image.width}x{image.height} pixels are too many (a decompression bomb?)")
                if min(image.size) < image_size:
                    raise BadImage(f"{image.width}x{image.height} pixels are fewer than {image_size}x{image_size}")
                ImageOps.exif_transpose(image, in_place=True)
                return _square(_rgb(image), image_size)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("empty file" if Path(file).stat().st_size == 0 else f"not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # on damaged data decoders raise anything: OSError, SyntaxError, struct.error …
        raise BadImage(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        import numpy as np  # here, since few images need it and every worker would wait for it

        wide = np.asarray(image).astype(np.uint32)  # 65535 = 255 · 257; Pillow's own conversion clips at 255
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise BadImage("pixels of 32 bits have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> bytes:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.width != image.height:  # not by resize(box=…), whose filter reaches over the box's border
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return b"".join(band.tobytes() for band in image.split())


def _serve(image_size: int) -> None:
    """Answer the file names on standard input (each ended by a NUL) in their order, on standard output."""
    for name in sys.stdin.buffer.read().split(b"\0")[:-1]:
        try:
            ok, content = True, decode(os.fsdecode(name), image_size)
        except BadImage as error:
            ok, content = False, str(error).encode(errors="replace")
        sys.stdout.buffer.write(HEADER.pack(ok, len(content)) + content)
        sys.stdout.buffer.flush()  # a later crash must not take this answer along


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
