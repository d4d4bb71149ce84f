import os
import zlib

import pytest
import torch
from PIL import Image

from gannorm.data import load_images
from gannorm.data.folder import _splits
from gannorm.errors import UserError


def write(root, *names, size=8):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), zlib.crc32(name.encode()) & 0xFFFFFF).save(root / name)  # its name's own colour


def load(root, split="train", **options):
    return load_images("folder", split, image_size=8, root=root, **options)


def colours(images):
    return sorted(map(tuple, images.pixels[:, :, 0, 0].tolist()))


NAMES = [f"{k}.png" for k in range(40)]


def test_train_and_test_folders_are_the_splits(tmp_path):
    write(tmp_path, "train/a.png", "train/deep/b.png", "test/c.png", "elsewhere/d.png")
    assert (len(load(tmp_path)), len(load(tmp_path, "test"))) == (2, 1)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_held_out_folder_are_known_and_test_goes_first(name, tmp_path):
    write(tmp_path, "train/a.png", f"{name}/b.png", f"{name}/c.png")
    assert len(load(tmp_path, "test")) == 2
    write(tmp_path, "test/d.png")
    assert len(load(tmp_path, "test")) == 1


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


def test_which_files_are_held_out_stays_as_it_is_and_differs_between_classes():
    """Scores against a held-out split compare only while it stays: these files were held out by every version."""
    names = [f"{kind}/{k}.png" for kind in ("cat", "dog") for k in range(12)]
    assert list(_splits(names)["test"]) == ["cat/3.png", "dog/1.png", "dog/9.png"]


def test_endings_in_capitals_are_images_too(tmp_path):
    write(tmp_path, "train/A.PNG", "train/b.Jpeg", "test/c.png")
    assert len(load(tmp_path)) == 2


def test_class_folders_give_labels(tmp_path):
    write(tmp_path, "train/cat/1.png", "train/dog/2.png", "train/dog/3.png", "test/dog/4.png")
    train, test = load(tmp_path), load(tmp_path, "test")
    assert train.classes == test.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [1]


def test_labels_agree_between_splits_that_hold_different_classes(tmp_path):
    write(tmp_path, "train/b/1.png", "test/a/2.png", "test/b/3.png")
    assert load(tmp_path).labels.tolist() == [1]
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
    write(tmp_path, "train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "test/cat/4.png")
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
    with pytest.raises(UserError, match=r"1 of 1 images .*; mend or remove them.$"):
        load(tmp_path, skip_bad=True)


def test_many_bad_files_are_counted_and_the_first_named(tmp_path):
    write(tmp_path, "train/good.png", "test/good.png")
    for k in range(50):
        (tmp_path / f"train/bad\n{k:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match="50 of 51 images") as error:
        load(tmp_path)
    line = str(error.value)
    assert "bad\\n19.png" in line and "bad\\n20.png" not in line and "and 30 more" in line and "\n" not in line


def test_links_out_of_the_tree_are_refused_and_links_inside_it_are_not(tmp_path):
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    write(tree, "train/a.png", "test/b.png")
    write(outside, "secret.png", "more/secret.png")
    (tree / "train/inside.png").symlink_to(tree / "train/a.png")
    (tree / "train/loop").symlink_to(tree)
    assert len(load(tree)) == 2
    for link, target in (("file.png", "secret.png"), ("folder", "more")):
        (tree / "train" / link).symlink_to(outside / target)
        with pytest.raises(UserError, match=f"'train/{link}': a link that leads out of the folder"):
            load(tree)
        with pytest.warns(UserWarning, match="skipped 1 of 3"):
            assert len(load(tree, skip_bad=True)) == 2
        (tree / "train" / link).unlink()


def test_links_that_lead_nowhere_or_to_themselves_are_bad_files(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png")
    (tmp_path / "train/gone.png").symlink_to("nowhere.png")
    (tmp_path / "train/itself.png").symlink_to("itself.png")
    (tmp_path / "train/itself").symlink_to("itself")  # no image, no folder: nothing to us
    with pytest.warns(UserWarning, match=r"skipped 2 of 3 .*gone.png': not a regular file.*itself.png': not a reg"):
        assert len(load(tmp_path, skip_bad=True)) == 1


def test_a_link_may_lead_to_the_tree_itself(tmp_path):
    write(tmp_path / "tree", "train/a.png", "test/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    assert len(load(tmp_path / "link")) == 1


def test_pipes_are_not_waited_for(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png")
    os.mkfifo(tmp_path / "train/pipe.png")
    with pytest.raises(UserError, match=r"pipe.png': not a regular file"):
        load(tmp_path)


def test_hidden_and_other_files_are_no_images(tmp_path):
    write(tmp_path, "train/a.PNG", "test/b.png")
    for name in ("train/._a.png", "train/.DS_Store", "train/notes.txt", ".cache/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert len(load(tmp_path)) == 1


def test_folders_without_enough_images_say_what_they_need(tmp_path):
    with pytest.raises(UserError, match=r"must hold images \(.png .jpg .*holds none"):
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
    [file] = cache.glob("train*.pixels")
    assert file.read_bytes() == images.pixels.numpy().tobytes()
    copy = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8).view(images.pixels.shape)
    assert torch.equal(copy, images.pixels)
    assert images.fingerprint in next(cache.glob("train*.json")).read_text()
