import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gannorm.data import cache as module
from gannorm.data.decoding import Decoded, Form
from gannorm.errors import UserError


def write(root, name, level):
    Image.new("RGB", (8, 8), (level, 0, 0)).save(root / name, format="BMP")
    return name


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path, f"{k}.png", k) for k in range(5)]


def decoded(root, names, size, part):
    """All of a list of files as one part."""
    return module.decoded(root, dict.fromkeys(names, part), part, Form(size))


@pytest.fixture
def decodings(monkeypatch):
    """The lists of files decoded so far."""
    calls, real = [], module._decode_all
    monkeypatch.setattr(module, "_decode_all", lambda root, names, form: calls.append(names) or real(root, names, form))
    return calls


def levels(root, names):
    part = decoded(root, names, 8, "train")
    assert part.names == [name for name in names if name not in part.bad]
    return part.pixels[:, 0, 0, 0].tolist(), part.bad


def test_a_second_start_reads_the_cache_and_decodes_nothing(tmp_path, files, decodings):
    first = decoded(tmp_path, files, 8, "train")
    second = decoded(tmp_path, files, 8, "train")
    assert len(decodings) == 1
    assert torch.equal(first.pixels, second.pixels) and first.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_parts_and_sizes_have_caches_of_their_own(tmp_path, files, decodings):
    for size, part in ((8, "train"), (4, "train"), (8, "test")) * 2:
        assert decoded(tmp_path, files, size, part).pixels.shape == (5, 3, size, size)
    assert len(decodings) == 3


def edit_with_the_old_times(root):
    file = root / "2.png"
    before = file.stat()
    Image.new("RGB", (8, 8), (99, 0, 0)).save(file, format="BMP")
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_one_with_the_old_times(root):
    edit = root / "new"
    before = (root / "2.png").stat()
    Image.new("RGB", (8, 8), (99, 0, 0)).save(edit, format="BMP")
    os.utime(edit, ns=(before.st_atime_ns, before.st_mtime_ns))
    edit.rename(root / "2.png")


@pytest.mark.parametrize(
    "change", [lambda root: write(root, "2.png", 99), edit_with_the_old_times, replace_by_one_with_the_old_times]
)
def test_a_changed_file_is_noticed_even_with_its_old_size_and_time(change, tmp_path, files):
    assert levels(tmp_path, files)[0] == [0, 1, 2, 3, 4]
    change(tmp_path)
    assert levels(tmp_path, files)[0] == [0, 1, 99, 3, 4]


def test_added_removed_and_renamed_files_are_noticed(tmp_path, files):
    levels(tmp_path, files)
    assert levels(tmp_path, [*files, write(tmp_path, "9.png", 9)])[0] == [0, 1, 2, 3, 4, 9]
    assert levels(tmp_path, files[1:])[0] == [1, 2, 3, 4]
    (tmp_path / "1.png").rename(tmp_path / "5.png")
    assert levels(tmp_path, ["5.png", *files[2:]])[0] == [1, 2, 3, 4]


def test_a_file_changed_while_others_are_decoded_is_noticed_at_the_next_start(tmp_path, files, monkeypatch):
    real = module._decode_all

    def meddled(*arguments):
        for k, answer in enumerate(real(*arguments)):
            yield answer
            if k == 4:
                write(tmp_path, "0.png", 77)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_decode_all", meddled)
        levels(tmp_path, files)
    assert levels(tmp_path, files)[0] == [77, 1, 2, 3, 4]


def test_pixels_in_use_do_not_change_with_the_files_or_the_cache(tmp_path, files):
    pixels = decoded(tmp_path, files, 8, "train").pixels
    write(tmp_path, "0.png", 77)
    assert levels(tmp_path, files)[0][0] == 77
    assert pixels[0, 0, 0, 0] == 0


def test_writing_into_the_pixels_never_reaches_the_cache(tmp_path, files, decodings):
    decoded(tmp_path, files, 8, "train").pixels.fill_(5)
    assert levels(tmp_path, files)[0] == [0, 1, 2, 3, 4] and len(decodings) == 1


def test_a_cache_larger_than_the_memory_can_be_mapped(tmp_path):
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    images = 3 * memory // (3 * 64 * 64)
    with (tmp_path / "large.pixels").open("wb") as file:
        file.truncate(images * 3 * 64 * 64)  # a sparse file: no disk is used
    assert module._map(tmp_path / "large.pixels", images, 64)[-1].sum() == 0


def cut(file):
    file.write_bytes(file.read_bytes()[:-9])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("suffix", [".pixels", ".json"])
@pytest.mark.parametrize(
    "damage", [cut, flip, lambda f: f.unlink(), lambda f: f.write_bytes(b""), lambda f: f.write_text("[]")]
)
def test_a_damaged_cache_is_made_anew(suffix, damage, tmp_path, files, cache, decodings):
    whole = decoded(tmp_path, files, 8, "train").pixels.clone()
    [file] = cache.glob(f"*{suffix}")
    damage(file)
    assert torch.equal(decoded(tmp_path, files, 8, "train").pixels, whole)
    assert len(decodings) == 2


def test_an_index_that_was_edited_is_made_anew(tmp_path, files, cache):
    levels(tmp_path, files)
    [file] = cache.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"bad": {"0.png": "not true"}}))
    assert levels(tmp_path, files) == ([0, 1, 2, 3, 4], {})


def test_an_interrupted_build_leaves_nothing_behind(tmp_path, files, cache, monkeypatch):
    def interrupted(*_):
        yield Decoded(bytes(3 * 64), False)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_decode_all", interrupted)
        with pytest.raises(KeyboardInterrupt):
            levels(tmp_path, files)
    assert [f.suffix for f in cache.iterdir()] == [".lock"]
    assert levels(tmp_path, files)[0] == [0, 1, 2, 3, 4]


def test_two_at_once_share_one_decoding(tmp_path, files, decodings):
    # The lock belongs to an open file, so that threads exclude each other as processes do.
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: levels(tmp_path, files)[0], range(4)))
    assert answers == [[0, 1, 2, 3, 4]] * 4 and len(decodings) == 1


def test_bad_files_are_left_out_and_named_also_by_the_cache(tmp_path, files, decodings):
    (tmp_path / "2.png").write_bytes(b"")
    for _ in range(2):
        numbers, bad = levels(tmp_path, [*files, "gone.png"])
        assert numbers == [0, 1, 3, 4] and bad["2.png"] == "empty file" and "No such file" in bad["gone.png"]
    assert len(decodings) == 1


def test_a_file_that_kills_its_decoder_is_named_and_the_others_are_read(tmp_path, files, monkeypatch):
    killer = tmp_path / "killer.py"
    killer.write_text(
        f"import sys; sys.path.insert(0, {str(Path(module.DECODER).parent)!r})\n"
        "import decoding, os, signal\n"
        "real = decoding.decode\n"
        "def decode(file, form):\n"
        "    if file.endswith(('1.png', '4.png')): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return real(file, form)\n"
        "decoding.decode = decode\n"
        "decoding._serve(decoding.Form(int(sys.argv[1])))\n"
    )
    monkeypatch.setattr(module, "DECODER", str(killer))
    reason = "crashes the image library"
    assert levels(tmp_path, files) == ([0, 2, 3], {"1.png": reason, "4.png": reason})


def test_a_decoder_that_cannot_start_is_a_bug_and_no_bad_file(tmp_path, files, monkeypatch):
    monkeypatch.setattr(module, "DECODER", str(tmp_path / "nothing.py"))
    with pytest.raises(RuntimeError, match="ended with status"):
        levels(tmp_path, files)


def test_many_files_on_several_workers_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3), raising=False)
    colours = np.random.default_rng(0).integers(0, 256, 800).tolist()
    names = [write(tmp_path, f"{k}.png", colour) for k, colour in enumerate(colours)]
    (tmp_path / "100.png").write_bytes(b"")
    numbers, bad = levels(tmp_path, names)
    assert numbers == colours[:100] + colours[101:] and list(bad) == ["100.png"]


def test_odd_names_are_names(tmp_path):
    names = [write(tmp_path, name, k) for k, name in enumerate(["a b.png", "ü.png", "new\nline.png", "\udcff.png"])]
    (tmp_path / "\udcfe.png").write_bytes(b"")
    for _ in range(2):
        assert levels(tmp_path, [*names, "\udcfe.png"]) == ([0, 1, 2, 3], {"\udcfe.png": "empty file"})


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, files, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GANNORM_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match=r"must be writable .*Not a directory.*GANNORM_CACHE"):
        levels(tmp_path, files)


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path, files, cache, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"0 MiB free: .*No space left on device; choose another folder"):
        levels(tmp_path, files)
    assert [f.suffix for f in cache.iterdir()] == [".lock"]


def test_the_index_is_readable_and_versioned(tmp_path, files, cache):
    levels(tmp_path, files)
    [file] = cache.glob("*.json")
    index = json.loads(file.read_text())
    assert (
        index["version"] == module.VERSION and index["parts"]["train"]["images"] == 5 and index["root"] == str(tmp_path)
    )


# -- parts ------------------------------------------------------------------------------------------------------------


def parts_of(root, parts, wanted, **options):
    part = module.decoded(root, parts, wanted, Form(8), **options)
    return part.names, part.pixels[:, 0, 0, 0].tolist()


def test_all_parts_are_decoded_together_and_each_has_its_own_files_in_their_order(tmp_path, files, decodings):
    parts = {name: "test" if k in (1, 3) else "train" for k, name in enumerate(files)}
    assert parts_of(tmp_path, parts, "test") == (["1.png", "3.png"], [1, 3])
    assert parts_of(tmp_path, parts, "train") == (["0.png", "2.png", "4.png"], [0, 2, 4])
    assert len(decodings) == 1


def test_a_file_that_moves_to_another_part_is_noticed(tmp_path, files):
    parts = dict.fromkeys(files, "train") | {"1.png": "test"}
    assert parts_of(tmp_path, parts, "test")[1] == [1]
    assert parts_of(tmp_path, parts | {"2.png": "test"}, "test")[1] == [1, 2]


def test_bad_files_belong_to_their_part(tmp_path, files):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"")
    parts = dict.fromkeys(files, "train") | {"1.png": "test", "3.png": "test"}
    for wanted, bad in (("train", "2.png"), ("test", "1.png")):
        assert module.decoded(tmp_path, parts, wanted, Form(8)).bad == {bad: "empty file"}


def test_a_part_without_a_single_image_is_empty(tmp_path, files):
    (tmp_path / "1.png").write_bytes(b"")
    assert parts_of(tmp_path, dict.fromkeys(files, "train") | {"1.png": "test"}, "test") == ([], [])


@pytest.mark.parametrize("repeat", [1, 2])  # the second time from the cache
def test_copies_go_where_the_first_of_them_goes_if_they_are_kept_together(repeat, tmp_path):
    levels_of = {"a.png": 5, "b.png": 6, "c.png": 5, "d.png": 7, "e.png": 6}
    for name, level in levels_of.items():
        write(tmp_path, name, level)
    parts = {"a.png": "train", "b.png": "test", "c.png": "test", "d.png": "test", "e.png": "train"}
    for _ in range(repeat):
        assert parts_of(tmp_path, parts, "train", together=True) == (["a.png", "c.png"], [5, 5])
        assert parts_of(tmp_path, parts, "test", together=True) == (["b.png", "d.png", "e.png"], [6, 7, 6])
        assert parts_of(tmp_path, parts, "train") == (["a.png", "e.png"], [5, 6])


def test_copies_in_other_parts_are_counted_and_those_in_the_same_part_are_not(tmp_path):
    for name, level in {"a.png": 5, "b.png": 5, "c.png": 5, "d.png": 7, "e.png": 7}.items():
        write(tmp_path, name, level)
    parts = {"a.png": "train", "b.png": "test", "c.png": "test", "d.png": "test", "e.png": "test"}
    counts = {wanted: module.decoded(tmp_path, parts, wanted, Form(8)).copies for wanted in ("train", "test")}
    assert counts == {"train": 1, "test": 2}
    assert module.decoded(tmp_path, parts, "test", Form(8), together=True).copies == 0


def test_images_with_transparent_pixels_are_counted(tmp_path):
    for name, opacity in {"a.png": 255, "b.png": 254, "c.png": 0}.items():
        Image.new("RGBA", (8, 8), (0, 0, 0, opacity)).save(tmp_path / name)
    assert (
        module.decoded(tmp_path, dict.fromkeys(["a.png", "b.png", "c.png"], "train"), "train", Form(8)).transparent == 2
    )


@pytest.mark.parametrize("form", [Form(8, enlarge=True), Form(8, background="white"), Form(4)])
def test_each_form_of_an_image_has_a_cache_of_its_own(form, tmp_path, decodings):
    Image.new("RGBA", (8, 8)).save(tmp_path / "a.png")
    for wanted in (Form(8), form) * 2:
        module.decoded(tmp_path, {"a.png": "train"}, "train", wanted)
    assert len(decodings) == 2
