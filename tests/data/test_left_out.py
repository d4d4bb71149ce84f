"""What a person reads of files that give no image; and docs/images.md, whose table of odd files is checked here."""

import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gannorm.data.cache import decoded
from gannorm.data.decoding import Form
from gannorm.data.folder import ALL, HELD_OUT, TRAIN, read_folder
from gannorm.data.left_out import counted, report_bad
from gannorm.data.tree import SUFFIXES, files_of
from gannorm.errors import UserError

PAGE = Path(__file__).parents[2] / "docs" / "images.md"
SIZE = 8
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
RED, GREY = np.full((SIZE, SIZE, 3), (255, 0, 0), dtype=np.uint8), np.full((SIZE, SIZE, 3), 120, dtype=np.uint8)
BLACK = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)


# -- a folder of odd files --------------------------------------------------------------------------------------------


def frames():
    return [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "lime", "blue")]


def save_frames(file, form):
    first, *others = frames()
    first.save(file, format=form, save_all=True, append_images=others)


def save_turned(file):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by 90°
    Image.fromarray(np.rot90(NOISE)).save(file, exif=exif)


def png(width, height, depth, colour, data=b""):
    """A PNG file with this header and data, true or not."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def save_deep_colour(file):
    deep = NOISE.astype(">u2") * 257
    lines = b"".join(b"\0" + line.tobytes() for line in deep)
    file.write_bytes(png(SIZE, SIZE, 16, 2, lines))


def save_cut(file):
    Image.fromarray(np.tile(NOISE, (8, 8, 1))).save(file, format="JPEG")
    file.write_bytes(file.read_bytes()[:900])


def save_palette(file):
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([10, 20, 30, 255, 0, 0])
    image.save(file, transparency=0)


def link(target):
    return lambda file: file.symlink_to(target)


def content(data):
    return lambda file: file.write_bytes(data)


def noise(form="PNG", **options):
    return lambda file: Image.fromarray(NOISE).save(file, format=form, **options)


def image(mode, colour, size=(SIZE, SIZE), **options):
    return lambda file: Image.new(mode, size, colour).save(file, **options)


def oblong(file):
    Image.fromarray(np.concatenate([BLACK, NOISE, BLACK], axis=1)).save(file)


ODD = {  # file → how it is made
    "turned.jpg.png": save_turned,
    "cmyk.jpg": image("CMYK", (0, 255, 255, 0)),
    "grey-16-bit.png": lambda file: Image.fromarray(GREY[:, :, 0].astype(np.uint16) * 257).save(file),
    "colour-16-bit.png": save_deep_colour,
    "one-bit.pbm": image("1", 0),
    "profile.png": noise(icc_profile=b"of a camera"),
    "animated.gif": lambda file: save_frames(file, "GIF"),
    "animated.webp": image("RGB", "red", lossless=True, save_all=True, append_images=frames()[1:]),
    "animated.apng": lambda file: save_frames(file, "PNG"),
    "two-pictures.jpg": lambda file: save_frames(file, "MPO"),
    "transparent.png": image("RGBA", (9, 9, 9, 0)),
    "transparent-palette.png": save_palette,
    "transparent-grey.png": image("LA", (9, 0)),
    "opaque.png": image("RGBA", (255, 0, 0, 255)),
    "oblong.png": oblong,
    "small.png": image("RGB", "red", (SIZE - 1, SIZE)),
    "CAPITALS.PNG": noise(),
    "old-photo.jfif": image("RGB", "red", format="JPEG"),
    "ünï码 🖼 .png": noise(),
    "png-called.jpg": noise(),
    "text-called.png": content(b"<html>404 Not Found</html>"),
    "postscript-called.png": content(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n"),
    "image-called.dat": noise(),
    "no-suffix": noise(),
    "photo.avif": content(b"whatever"),
    "drawing.svg": content(b"<svg/>"),
    "zero-bytes.png": content(b""),
    "cut-short.jpg": save_cut,
    "bomb.png": content(png(10_000, 10_000, 8, 0)),
    "float.tif": lambda file: Image.fromarray(np.ones((SIZE, SIZE), np.float32)).save(file),
    "._resource-fork.png": content(b"macOS"),
    "link-inside.png": link("CAPITALS.PNG"),
    "link-outside.png": link("../outside.png"),
    "link-nowhere.png": link("gone.png"),
    "link-to-this-folder": link("."),
    "pipe.png": os.mkfifo,
}
PIXELS = {  # file → what it becomes; the others give no image
    "turned.jpg.png": NOISE,
    "cmyk.jpg": RED,
    "grey-16-bit.png": GREY,
    "colour-16-bit.png": NOISE,
    "one-bit.pbm": BLACK,
    "profile.png": NOISE,
    "animated.gif": RED,
    "animated.webp": RED,
    "animated.apng": RED,
    "two-pictures.jpg": RED,
    "transparent.png": BLACK,
    "transparent-palette.png": BLACK,
    "transparent-grey.png": BLACK,
    "opaque.png": RED,
    "oblong.png": NOISE,
    "CAPITALS.PNG": NOISE,
    "old-photo.jfif": RED,
    "ünï码 🖼 .png": NOISE,
    "png-called.jpg": NOISE,
    "link-inside.png": NOISE,
}


@pytest.fixture
def odd(tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    noise()(tmp_path / "outside.png")
    for name, write in ODD.items():
        write(folder / name)
    return folder


def outcomes(folder):
    """File → what happened to it: "read", "refused: why" or "left out: why"."""
    tree = files_of(folder, follow_links=False)
    part = decoded(folder, dict.fromkeys(tree.images, ALL), ALL, Form(SIZE))
    result = {name: f"left out: {reason}" for name, reason in tree.left_out.items()}
    result |= {name: f"refused: {reason}" for name, reason in (tree.bad | part.bad).items()}
    return result | dict.fromkeys(part.names, "read")


def rows():
    """File → the last column of the page's table."""
    table = re.findall(r"^\| `(.+?)` \| .+? \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    return dict(table)


def test_the_page_says_what_happens_to_each_odd_file(odd):
    assert len(ODD) >= 20
    actual, page = outcomes(odd), rows()
    assert actual.keys() == page.keys() == ODD.keys()
    for name, what in page.items():
        kind, _, reason = what.partition(": ")
        assert actual[name].startswith(kind), name
        # What an image becomes is the next test's; Pillow's own words on damaged files depend on its version.
        assert kind == "read" or reason in actual[name], name


def test_the_page_names_every_suffix_and_every_folder_of_a_split():
    words = set(re.findall(r"[.\w]+", PAGE.read_text("utf-8")))
    assert {*SUFFIXES, *TRAIN, *HELD_OUT} <= words


def test_odd_files_that_are_read_become_what_their_makers_meant(odd):
    with pytest.warns(UserWarning):
        images = read_folder(odd, "all", image_size=SIZE, skip_bad=True)
    names = sorted(PIXELS)
    assert [name for name, what in sorted(outcomes(odd).items()) if what == "read"] == names
    for name, pixels in zip(names, images.pixels, strict=True):
        difference = np.abs(pixels.numpy().astype(int) - PIXELS[name].transpose(2, 0, 1)).max()
        assert difference <= (10 if name.endswith(("jpg", "jfif")) and name != "png-called.jpg" else 0), name  # JPEG's
    assert images.note == "3 with transparency composed on black"


def test_of_an_odd_folder_every_file_is_accounted_for(odd):
    with pytest.warns(UserWarning) as caught:
        images = read_folder(odd, "all", image_size=SIZE, skip_bad=True)
    left_out, skipped = (str(warning.message) for warning in caught)
    counts = [int(re.search(r": (\d+) files left out", left_out)[1]), int(re.search(r"skipped (\d+) of", skipped)[1])]
    assert len(images) + sum(counts) == len(ODD)
    assert ".avif 1" in left_out and "'zero-bytes.png': empty file" in skipped


def test_an_odd_folder_stops_a_run_that_may_not_skip_and_names_the_options(odd):
    with pytest.warns(UserWarning, match="files left out"), pytest.raises(UserError) as error:
        read_folder(odd, "all", image_size=SIZE)
    line = str(error.value)
    assert "\n" not in line
    assert all(f"--data.{option} true" in line for option in ("follow_links", "enlarge", "skip_bad"))


# -- counting ---------------------------------------------------------------------------------------------------------


def test_files_are_counted_by_reason_and_suffix_whatever_its_capitals():
    files = {f"{k}.PsD": "odd" for k in range(5)} | {"a": "odd", "b.txt": "other"}
    assert counted(files) == "7 files left out: .psd 5, no suffix 1 (odd); .txt 1 (other)"


def test_many_suffixes_and_hostile_ones_stay_one_short_line():
    line = counted({f"a.{k}" + "\x1b[2J" * 50: "odd" for k in range(1000)})
    assert line.startswith("1000 files left out") and "others 992" in line
    assert line.isprintable() and len(line) < 300


@pytest.mark.parametrize("skip_bad", [False, True])
def test_no_bad_file_is_no_message(skip_bad):
    report_bad(Path("x"), {}, 3, skip_bad)


def test_options_are_named_only_where_they_would_help():
    with pytest.raises(UserError) as error:
        report_bad(Path("x"), {"a.png": "empty file"}, 3, skip_bad=False)
    assert "--data.skip_bad" in str(error.value)
    assert "follow_links" not in str(error.value) and "enlarge" not in str(error.value)
