import re
import warnings

import pytest
import torch
from PIL import Image
from support.image_trees import load, write

from gannorm.data.folder import HELD_OUT, TRAIN, _by_hash, read_folder
from gannorm.errors import UserError


def write_copies(root, *names, colour="red"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), colour).save(root / name)


def colours(images):
    return sorted(map(tuple, images.pixels[:, :, 0, 0].tolist()))


NAMES = [f"{k}.png" for k in range(40)]


def test_train_and_test_folders_are_the_splits_and_other_folders_are_left_out_with_a_word(tmp_path):
    write(tmp_path, "train/a.png", "train/deep/b.png", "test/c.png")
    assert (len(load(tmp_path)), len(load(tmp_path, "test"))) == (2, 1)
    write(tmp_path, "elsewhere/d.png", "e.png")
    with pytest.warns(UserWarning, match=r"2 files left out: .png 2 \(outside the folders of the split\)"):
        assert len(load(tmp_path)) == 2


@pytest.mark.parametrize("train", TRAIN)
@pytest.mark.parametrize("test", HELD_OUT)
def test_usual_names_of_splits_are_known_in_any_capitals_and_one_folder_deeper(train, test, tmp_path):
    for change in (str.lower, str.upper, str.capitalize):
        for number, place in enumerate(("{split}/{kind}", "archive/{split}/{kind}", "{kind}/{split}")):
            root = tmp_path / f"{change.__name__}{number}"
            for split, count in ((change(train), 3), (change(test), 2)):
                folders = [place.format(split=split, kind=kind) for kind in ("cat", "dog")]
                write(root, *(f"{folder}/{k}.png" for folder in folders for k in range(count)))
            images, held_out = load(root), load(root, "test")
            assert (len(images), len(held_out)) == (6, 4)
            assert images.classes == held_out.classes == ("cat", "dog")
            assert images.labels.tolist() == [0, 0, 0, 1, 1, 1] and held_out.labels.tolist() == [0, 0, 1, 1]
            assert f"by the folders {change(train)} and {change(test)}" in images.split_rule


def test_of_several_held_out_folders_test_is_used_and_the_others_are_left_out_with_a_word(tmp_path):
    write(tmp_path, "train/a.png", "val/b.png", "val/c.png")
    assert len(load(tmp_path, "test")) == 2
    write(tmp_path, "test/d.png")
    with pytest.warns(UserWarning, match=r"2 files left out: .png 2 \(outside the folders of the split\)"):
        assert len(load(tmp_path, "test")) == 1


def test_folders_that_differ_in_capitals_alone_are_one_and_lose_no_image(tmp_path):
    write(tmp_path, "train/a.png", "Train/a.png", "TEST/b.png")
    assert len(load(tmp_path)) == 2
    assert load(tmp_path).split_rule == "by the folders Train/train and TEST"


@pytest.mark.parametrize(
    "folders", [("train2017", "val2017"), ("seg_train", "seg_test"), ("TrainImages", "x"), ("testset", "y")]
)
def test_folders_that_look_like_splits_but_make_none_are_a_warning(folders, tmp_path):
    write(tmp_path, *(f"{folder}/{name}" for folder in folders for name in NAMES))
    with pytest.warns(UserWarning, match=f"{folders[0]}.* named like splits.* call them train and test"):
        assert load(tmp_path).classes == tuple(sorted(folders))


def test_folders_of_classes_do_not_look_like_splits(tmp_path):
    write(tmp_path, *(f"{folder}/{name}" for folder in ("trainer", "valley", "contest", "devil") for name in NAMES))
    assert len(load(tmp_path).classes) == 4


def test_one_folder_around_everything_changes_nothing(tmp_path):
    write(tmp_path, *(f"wrapped/twice/{c}/{name}" for c in ("cat", "dog") for name in NAMES))
    assert load(tmp_path).classes == ("cat", "dog")


def test_every_image_can_be_read_without_a_split(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png", "c.png")
    images = read_folder(tmp_path, "all", image_size=8)
    assert len(images) == 3 and images.split_rule == "no split"


def test_without_them_a_fifth_is_held_out_and_no_image_is_in_both(tmp_path):
    write(tmp_path, *NAMES)
    train, test = colours(load(tmp_path)), colours(load(tmp_path, "test"))
    assert not set(train) & set(test) and len(train) + len(test) == 40
    assert 2 <= len(test) <= 14  # binomial(40, 1/5) ± 2.5 standard deviations


def test_a_new_file_moves_no_other_between_the_splits(tmp_path):
    write(tmp_path, *NAMES[:30])
    train, test = set(colours(load(tmp_path))), set(colours(load(tmp_path, "test")))
    write(tmp_path, *NAMES[30:])
    assert train < set(colours(load(tmp_path))) and test <= set(colours(load(tmp_path, "test")))


def test_without_a_split_the_classes_are_those_of_the_split(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/cat/c.png")
    images = read_folder(tmp_path, "all", image_size=8)
    assert images.classes == ("cat", "dog") and images.labels.tolist() == [0, 0, 1]  # test/cat, train/cat, train/dog


def test_which_files_are_held_out_stays_as_it_is_and_differs_between_classes():
    """Scores against a held-out split compare only while it stays: these files were held out by every version."""
    names = [f"{kind}/{k}.png" for kind in ("cat", "dog") for k in range(12)]
    held_out = [name for name, part in _by_hash(names).parts.items() if part == "test"]
    assert held_out == ["cat/3.png", "dog/1.png", "dog/9.png"]


# -- copies -----------------------------------------------------------------------------------------------------------


def test_no_image_is_in_both_parts_of_a_split_by_hash_even_under_another_name_or_format(tmp_path):
    for k in range(30):
        write_copies(tmp_path, f"{k}.png", f"{k} copy.png", f"more/{k}.bmp", colour=(k, k, k))
    train, test = colours(load(tmp_path)), colours(load(tmp_path, "test"))
    assert not set(train) & set(test) and len(train) + len(test) == 90 and len(test) > 0
    assert all(len(part) == 3 * len(set(part)) for part in (train, test))


def test_copies_keep_their_labels(tmp_path):
    write_copies(tmp_path, *(f"cat/{k}.png" for k in range(30)))
    write_copies(tmp_path, *(f"dog/{k}.png" for k in range(30)), colour="blue")
    [both] = [images for split in ("train", "test") if (images := loaded_or_none(tmp_path, split))]
    assert len(both) == 60 and both.labels.tolist() == [0] * 30 + [1] * 30
    assert both.pixels[:30, 0].min() == 255 and both.pixels[30:, 0].max() == 0


def loaded_or_none(root, split):
    try:
        return load(root, split)
    except UserError as error:
        assert "none of them in the" in str(error)
        return None


def test_copies_on_both_sides_of_a_split_by_folders_are_counted_in_a_warning(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png")
    write_copies(tmp_path, "train/c.png", "test/d.bmp", "test/e.png")
    write_copies(tmp_path, "train/f.png", "train/g.png", colour="blue")  # within a split they are nobody's business
    with pytest.warns(UserWarning, match="2 of 3 held-out images are exact duplicates of training images"):
        assert len(load(tmp_path, "test")) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(tmp_path)) == 4


def test_endings_in_capitals_are_images_too(tmp_path):
    write(tmp_path, "train/A.PNG", "train/b.Jpeg", "test/c.png")
    assert len(load(tmp_path)) == 2


def test_class_folders_give_labels(tmp_path):
    write(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "test/cat/5.png", "test/dog/4.png")
    train, test = load(tmp_path), load(tmp_path, "test")
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [0, 1]


def test_labels_agree_between_splits_that_hold_different_classes_and_a_warning_names_these(tmp_path):
    write(tmp_path, "train/b/1.png", "train/c/2.png", "test/a/2.png", "test/b/3.png")
    line = "classes on one side of the split: 'c' with training images alone; 'a' with held-out images alone"
    with pytest.warns(UserWarning, match=line):
        assert load(tmp_path).labels.tolist() == [1, 2]
    with pytest.warns(UserWarning, match=line):
        assert load(tmp_path, "test").labels.tolist() == [0, 1]


def test_class_folders_without_split_folders_give_labels(tmp_path):
    write(tmp_path, *(f"{c}/{name}" for c in ("cat", "dog") for name in NAMES))
    for split in ("train", "test"):
        images = load(tmp_path, split)
        assert images.classes == ("cat", "dog") and sorted(set(images.labels.tolist())) == [0, 1]


@pytest.mark.parametrize("names", [["a.png", "cat/b.png", "dog/c.png"], ["only/a.png", "only/b.png"]])
def test_images_beside_folders_or_a_single_folder_are_no_classes(names, tmp_path):
    write(tmp_path, *(f"train/{n}" for n in names), "test/cat/d.png" if len(names) == 3 else "test/only/d.png")
    images = load(tmp_path)
    assert images.labels is None and images.classes == ()


def test_labels_stay_with_their_images_when_bad_files_are_skipped(tmp_path):
    write(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "test/cat/4.png", "test/dog/5.png")
    (tmp_path / "train/cat/1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 images in .*'train/cat/1.png': empty file"):
        images = load(tmp_path, skip_bad=True)
    assert images.labels.tolist() == [0, 1]


def test_bad_files_stop_unless_they_may_be_skipped(tmp_path):
    write(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    write(tmp_path, "train/small.png", size=7)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    line = str(error.value)
    assert "1 of 3 images" in line and "'train/small.png': 7x7 pixels are fewer than 8x8" in line
    assert "--data.skip_bad true" in line and "\n" not in line
    with pytest.warns(UserWarning, match="skipped 1 of 3"):
        assert len(load(tmp_path, skip_bad=True)) == 2
    assert len(load(tmp_path, "test")) == 1  # the other split has no part in it


def test_skipping_every_image_is_an_error(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/1.png").write_bytes(b"?")
    write(tmp_path, "test/2.png")
    with pytest.raises(UserError, match=r"1 of 1 images .*; mend or remove them\.$"):
        load(tmp_path, skip_bad=True)


def test_many_bad_files_are_counted_and_the_first_named(tmp_path):
    write(tmp_path, "train/good.png", "test/good.png")
    for k in range(50):
        (tmp_path / f"train/bad\n{k:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match="50 of 51 images") as error:
        load(tmp_path)
    line = str(error.value)
    assert "bad\\n19.png" in line and "bad\\n20.png" not in line and "and 30 more" in line and "\n" not in line


def test_hidden_and_other_files_are_no_images_and_are_counted_by_reason_and_suffix(tmp_path):
    write(tmp_path, "train/a.PNG", "test/b.png")
    for name in (
        "train/._a.png",
        "train/.DS_Store",
        "train/notes.txt",
        "train/c.AVIF",
        "d.avif",
        ".cache/c.png",
        "raw",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    counts = "7 files left out: no suffix 2, .png 1 (hidden); .avif 2, no suffix 1, .txt 1 (no image suffix)"
    with pytest.warns(UserWarning, match=re.escape(counts)):
        assert len(load(tmp_path)) == 1


def test_small_images_are_refused_by_an_error_that_names_the_option_and_enlarged_with_it(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png", size=7)
    with pytest.raises(UserError, match=r"7x7 pixels are fewer than 8x8.*--data.enlarge true or .*--data.image_size"):
        load(tmp_path)
    small = Image.open(tmp_path / "train/a.png").getpixel((0, 0))
    assert colours(load(tmp_path, enlarge=True)) == [small]  # of one colour, at any size


def test_transparency_is_composed_on_the_chosen_colour_and_the_images_are_counted(tmp_path):
    for name, opacity in (("train/a.png", 0), ("train/b.png", 255), ("test/c.png", 0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGBA", (8, 8), (9, 9, 9, opacity)).save(tmp_path / name)
    for background, colour in (("black", (0, 0, 0)), ("white", (255, 255, 255)), ("#010203", (1, 2, 3))):
        images = load(tmp_path, background=background)
        assert colours(images) == sorted([colour, (9, 9, 9)])
        assert images.note == f"1 with transparency composed on {background}"
    assert colours(load(tmp_path)) == [(0, 0, 0), (9, 9, 9)]  # not what the cache holds for another colour


def test_folders_without_enough_images_say_what_they_need(tmp_path):
    with pytest.raises(UserError, match=r"must hold images \(.png .apng .jpg .*holds none; choose another"):
        load(tmp_path)
    write(tmp_path, "a.png")
    splits = {}
    for split in ("train", "test"):
        try:
            splits[split] = len(load(tmp_path, split))
        except UserError as error:
            splits[split] = str(error)
    assert 1 in splits.values()
    assert any("has 1, none of them in the" in str(s) for s in splits.values())
    with pytest.raises(UserError, match=r"must be readable: .*a.png gave Not a directory"):
        load(tmp_path / "a.png")


def test_the_pixels_are_mapped_from_the_cache_and_have_its_fingerprint(tmp_path, cache):
    write(tmp_path, *NAMES)
    images = load(tmp_path)
    assert images.channels == 3 and images.image_size == 8
    [file] = cache.glob("*.train.pixels")
    assert file.read_bytes() == images.pixels.numpy().tobytes()
    copy = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).view(images.pixels.shape)
    assert torch.equal(copy, images.pixels)
    assert images.fingerprint in next(cache.glob("*.json")).read_text()


@pytest.mark.parametrize(
    "options,line",
    [
        ({"background": "blakc"}, "`background` must be a colour: got 'blakc'; give a name such as white, or #rrggbb"),
        ({"image_size": 0}, "`image_size` must be at least 1: got 0"),
        ({"split": "validation"}, "`split` must be train, test or all: got 'validation'"),
    ],
)
def test_a_wrong_option_is_named_once_and_no_file_is_blamed(tmp_path, options, line):
    write(tmp_path, *NAMES)
    with pytest.raises(UserError, match=line):
        read_folder(tmp_path, **{"split": "train", "image_size": 8} | options)


def test_a_folder_of_copies_says_why_nothing_is_held_out(tmp_path):
    write_copies(tmp_path, *NAMES)
    with pytest.raises(UserError, match="none of them in the test split, or copies of images that are not"):
        load(tmp_path)
        load(tmp_path, "test")
