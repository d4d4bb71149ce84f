import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from gannorm.data.decoding import MAX_PIXELS, BadImage, Form, decode


def read(file, size, **options):
    return np.frombuffer(decode(file, Form(size, **options)).pixels, dtype=np.uint8).reshape(3, size, size)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(width, height, data=b"", bit_depth=8, colour=0):
    """A PNG file that claims a size, whatever its data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# -- what an image becomes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp"])
def test_lossless_files_come_back_byte_for_byte(suffix, tmp_path):
    image = pixels(8, 8, 3)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read(tmp_path / f"a.{suffix}", 8), image.transpose(2, 0, 1))


def test_the_content_counts_and_not_the_name(tmp_path):
    Image.fromarray(pixels(8, 8, 3)).save(tmp_path / "a.gif", format="PNG")
    assert np.array_equal(read(tmp_path / "a.gif", 8), pixels(8, 8, 3).transpose(2, 0, 1))


def test_an_oblong_loses_the_ends_of_its_longer_side(tmp_path):
    image = pixels(4, 11, 3)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(read(tmp_path / "a.png", 4), image[:, 3:7].transpose(2, 0, 1))


def test_shrinking_sees_nothing_of_what_was_cut_off(tmp_path):
    image = np.zeros((16, 32, 3), dtype=np.uint8)
    image[:, :8] = image[:, 24:] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    assert read(tmp_path / "a.png", 4).max() == 0


def test_shrinking_averages_every_pixel(tmp_path):
    # A one-pixel checkerboard is mid-grey from afar; without antialiasing it would be black, white or moiré.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    # 2 levels: the triangle filter meets the border with half of its width
    assert np.abs(read(tmp_path / "a.png", 8).astype(int) - 127.5).max() <= 2


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(suffix, tmp_path):
    grey = (np.arange(64, dtype=np.uint32).reshape(8, 8) * 65535 // 63).astype(np.uint16)
    if suffix == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    expected = np.rint(grey / 257).astype(np.uint8)
    assert np.array_equal(read(tmp_path / f"a.{suffix}", 8), np.stack([expected] * 3))


def test_big_endian_sixteen_bits_are_read_as_numbers(tmp_path):
    tiff = io.BytesIO(b"MM\0*" + struct.pack(">I", 8))
    tags = [(256, 4, 2), (257, 4, 2), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8 + 2 + 12 * 8 + 4)]
    tags += [(278, 4, 2), (279, 4, 8)]
    body = struct.pack(">H", len(tags))
    for tag, kind, value in tags:
        body += struct.pack(">HHI", tag, kind, 1) + (
            struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value)
        )
    data = tiff.getvalue() + body + struct.pack(">I", 0) + np.array([0, 257, 25700, 65535], dtype=">u2").tobytes()
    (tmp_path / "a.tif").write_bytes(data)
    assert read(tmp_path / "a.tif", 2)[0].tolist() == [[0, 1], [100, 255]]


def test_transparent_pixels_lie_on_black(tmp_path):
    colour = np.full((4, 4, 4), (200, 100, 50, 0), dtype=np.uint8)
    colour[2:, :, 3] = 255
    colour[0, 0, 3] = 128
    Image.fromarray(colour).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png", 4)
    assert image[:, 3, 3].tolist() == [200, 100, 50] and image[:, 1, 1].tolist() == [0, 0, 0]
    assert np.abs(image[:, 0, 0] - np.array([100, 50, 25])).max() <= 1  # half of it, to rounding


def test_palettes_with_a_transparent_entry_lie_on_black(tmp_path):
    indexed = Image.fromarray(np.array([[0, 1], [1, 0]], dtype=np.uint8), mode=None).convert("P")
    indexed.putpalette([10, 20, 30, 40, 50, 60])
    indexed.save(tmp_path / "a.png", transparency=0)
    assert read(tmp_path / "a.png", 2)[0].tolist() == [[0, 40], [40, 0]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")  # magenta and yellow ink: red
    red = read(tmp_path / "a.jpg", 8).astype(int)
    assert red[0].min() > 245 and red[1:].max() < 10  # JPEG's rounding


def test_animations_give_their_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read(tmp_path / "a.gif", 8)[:, 0, 0].tolist() == [255, 0, 0]


def test_photographs_stand_upright(tmp_path):
    image = Image.fromarray(pixels(8, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by 90°
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(tmp_path / "a.png", 8), np.rot90(pixels(8, 8, 3), -1).transpose(2, 0, 1))


# -- what is refused --------------------------------------------------------------------------------------------------


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(pixels(64, 64, 3)).save(buffer, "JPEG")
    return buffer.getvalue()


REFUSED = {
    "empty file": b"",
    "not one of PNG, JPEG": b"hello",
    "pixels are fewer than 8x8": png(40, 7, bytes(7 * 41)),
    "10000x10000 pixels are too many": png(10_000, 10_000),
    "decompression bomb": png(100_000, 100_000),
    "truncated": jpeg()[:900],
    "broken PNG": png(16, 16)[:40] + b"\0\0\0\1",
    "unrecognized data stream contents": b"RIFF\x24\0\0\0WEBPVP8 \x18\0\0\0" + bytes(24),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_damaged_files_are_refused_with_a_reason(reason, tmp_path):
    (tmp_path / "a.png").write_bytes(REFUSED[reason])
    with pytest.raises(BadImage) as error:
        decode(tmp_path / "a.png", Form(8))
    assert "\n" not in str(error.value)
    if reason in ("broken PNG", "unrecognized data stream contents"):
        return  # how Pillow words these depends on its version
    assert reason in str(error.value)


def test_every_cut_of_a_file_is_refused_or_read_and_never_a_crash(tmp_path):
    whole = jpeg()
    for end in range(0, len(whole) - 2, 97):
        (tmp_path / "a.jpg").write_bytes(whole[:end])
        with pytest.raises(BadImage):
            decode(tmp_path / "a.jpg", Form(8))


@pytest.mark.parametrize("seed", range(40))
def test_scrambled_files_are_refused_or_read_and_never_a_crash(seed, tmp_path):
    draw = np.random.default_rng(seed)
    buffer = io.BytesIO()
    kind = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")[seed % 7]
    Image.fromarray(pixels(16, 16, 3)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    for place in draw.integers(0, min(len(data), 200), 8):
        data[place] = draw.integers(256)
    (tmp_path / "a.png").write_bytes(data)
    try:
        assert len(decode(tmp_path / "a.png", Form(8)).pixels) == 3 * 64
    except BadImage as error:
        assert str(error) and "\n" not in str(error)


def test_bombs_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    side = int(MAX_PIXELS**0.5) + 1
    (tmp_path / "bomb.png").write_bytes(png(side, side))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadImage, match="too many"):
            decode(tmp_path / "bomb.png", Form(8))


def test_no_other_format_is_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    with pytest.raises(BadImage, match="not one of"):  # Pillow would call Ghostscript
        decode(tmp_path / "a.png", Form(8))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_greys_without_a_range_are_refused(dtype, tmp_path):
    Image.fromarray(np.ones((8, 8), dtype=dtype)).save(tmp_path / "a.tif")
    with pytest.raises(BadImage, match="32 bits"):
        decode(tmp_path / "a.tif", Form(8))
