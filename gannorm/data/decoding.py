"""One image file, possibly hostile, to one square of RGB bytes; also run as a process by `gannorm.data.cache`.

Imports nothing of gannorm and no torch, so that a worker process starts in a tenth of a second. A file that crashes an
image library ends a worker and not the training.
"""

from __future__ import annotations

import os
import struct
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

# By content, whatever the file's name says: Pillow would start Ghostscript on a PostScript file called cat.png.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
HEADER = struct.Struct("<??I")  # of an answer: readable?, transparent?, bytes that follow
MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485  # Pillow's own limit: a quarter of a GiB in RGB
TOO_SMALL = "pixels are fewer than"  # in the reason for refusing an image that `enlarge` would take


class BadImage(Exception):
    """The reason why a file gives no image."""


class Form(NamedTuple):
    """The common form of all images of a data set."""

    image_size: int  # pixels a side
    enlarge: bool = False  # smaller images too, bilinearly; otherwise they are bad ones
    background: str = "black"  # the colour under transparent pixels, as Pillow's ImageColor reads it


class Decoded(NamedTuple):
    """One image."""

    pixels: bytes  # (3, image_size, image_size)
    transparent: bool  # whether some of its pixels were not opaque


def decode(file: str | os.PathLike[str], form: Form) -> Decoded:
    """Read an image as RGB bytes.

    The first frame of an animation, upright (EXIF orientation), the centre square, bilinear with antialiasing. Grey,
    palette and CMYK become RGB; 16-bit greys are divided by 257; transparent pixels are composed on `form.background`.

    Args:
        file: PNG, JPEG, BMP, WebP, GIF, TIFF or PPM, by its content.
        form: what to make of it.

    Raises:
        BadImage: unreadable or truncated; another format; more than 89 million pixels (refused before decoding);
            greys without a known range (32-bit, float); smaller than form.image_size without form.enlarge.
    """
    size = form.image_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata, and Pillow's warning about sizes that are refused below
            with Image.open(file, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(f"{image.width}x{image.height} pixels are too many (a decompression bomb?)")
                if min(image.size) < size and not form.enlarge:
                    raise BadImage(f"{image.width}x{image.height} {TOO_SMALL} {size}x{size}")
                ImageOps.exif_transpose(image, in_place=True)
                opaque, transparent = _rgb(image, form.background)
                return Decoded(_square(opaque, size), transparent)
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("empty file" if Path(file).stat().st_size == 0 else f"not one of {', '.join(FORMATS)}") from None
    except Exception as error:  # on damaged data decoders raise anything: OSError, SyntaxError, struct.error …
        raise BadImage(" ".join(str(error).split())[:200] or type(error).__name__) from None


def _rgb(image: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """The image in RGB, and whether some of its pixels were transparent."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        import numpy as np  # here, since few images need it and every worker would wait for it

        wide = np.asarray(image).astype(np.uint32)  # 65535 = 255 · 257; Pillow's own conversion clips at 255
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB"), False
    if image.mode in ("I", "F"):
        raise BadImage("pixels of 32 bits have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        under = Image.new("RGBA", image.size, (*ImageColor.getrgb(background)[:3], 255))
        least = image.getchannel("A").getextrema()[0]
        return Image.alpha_composite(under, image).convert("RGB"), least != 255
    return image.convert("RGB"), False


def _square(image: Image.Image, size: int) -> bytes:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.width != image.height:  # not by resize(box=…), whose filter reaches over the box's border
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return b"".join(band.tobytes() for band in image.split())


def _serve(form: Form) -> None:
    """Answer the file names on standard input (each ended by a NUL) in their order, on standard output."""
    for name in sys.stdin.buffer.read().split(b"\0")[:-1]:
        readable, transparent = True, False
        try:
            content, transparent = decode(os.fsdecode(name), form)
        except BadImage as error:
            readable, content = False, str(error).encode(errors="replace")
        sys.stdout.buffer.write(HEADER.pack(readable, transparent, len(content)) + content)
        sys.stdout.buffer.flush()  # a later crash must not take this answer along


if __name__ == "__main__":
    _serve(Form(int(sys.argv[1]), enlarge=sys.argv[2] == "True", background=sys.argv[3]))
