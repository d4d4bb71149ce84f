"""Which files of a tree are images, and where symbolic links lead."""

import os
import re

import pytest
from PIL import Image
from support.image_trees import load, write

from gannorm.data.decoding import FORMATS
from gannorm.data.tree import SUFFIXES
from gannorm.errors import UserError


def test_every_suffix_of_the_formats_that_are_read_is_known():
    of_pillow = {suffix for suffix, form in Image.registered_extensions().items() if form in FORMATS}
    assert of_pillow - {".pfm"} <= set(SUFFIXES)  # .pfm holds floats, which have no known range


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_every_image_suffix_are_read_in_any_capitals(suffix, tmp_path):
    write(tmp_path, f"train/a{suffix}", f"train/b{suffix.upper()}", f"test/c{suffix}")
    assert (len(load(tmp_path)), len(load(tmp_path, "test"))) == (2, 1)


def test_links_out_of_the_tree_are_refused_and_links_inside_it_are_not(tmp_path):
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    write(tree, "train/a.png", "test/b.png")
    write(outside, "secret.png", "more/secret.png")
    (tree / "train/inside.png").symlink_to(tree / "train/a.png")
    assert len(load(tree)) == 2
    for link, target in (("file.png", "secret.png"), ("folder", "more")):
        (tree / "train" / link).symlink_to(outside / target)
        with pytest.raises(UserError, match=f"'train/{link}': a link that leads out of the folder"):
            load(tree)
        with pytest.warns(UserWarning, match="skipped 1 of 3"):
            assert len(load(tree, skip_bad=True)) == 2
        assert len(load(tree, follow_links=True)) == 3
        (tree / "train" / link).unlink()


def test_links_to_folders_inside_the_tree_are_followed(tmp_path):
    write(tmp_path, "all/a/1.png", "all/b/2.png", "all/b/3.png")
    for link, target in (("train/a", "a"), ("train/b", "b"), ("test/a", "a"), ("test/b", "b")):
        (tmp_path / link).parent.mkdir(exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / "all" / target)
    with pytest.warns(UserWarning, match=r"3 files left out: .png 3 \(outside the folders of the split\)"):
        images = load(tmp_path)
    assert images.labels.tolist() == [0, 1, 1]
    with pytest.warns(UserWarning) as caught:
        load(tmp_path, "test")
    assert "3 of 3 held-out images are exact duplicates" in str(caught[-1].message)


@pytest.mark.parametrize("links", [{"train/loop": ""}, {"train/loop": "train"}, {"train/x": "test", "test/y": "train"}])
def test_links_into_the_folders_that_they_lie_in_come_to_an_end_and_are_counted(links, tmp_path):
    write(tmp_path, "train/a.png", "test/b.png")
    for link, target in links.items():
        (tmp_path / link).symlink_to(tmp_path / target)
    with pytest.warns(UserWarning, match=r"no suffix \d \(a link to a folder that it lies in\)"):
        assert len(load(tmp_path)) in (1, 2)


def test_a_folder_of_links_that_lead_out_says_why_it_holds_no_image(tmp_path):
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    for k in range(20):
        write(outside, f"{k}.png")
        (tree / f"{k}.png").symlink_to(outside / f"{k}.png")
    expected = r"holds none: 20 files left out: .png 20 \(a link that leads out .*--data.follow_links true"
    for skip_bad in (False, True):
        with pytest.raises(UserError, match=expected):
            load(tree, skip_bad=skip_bad)
    with_links = [len(load(tree, split, follow_links=True)) for split in ("train", "test")]
    assert sum(with_links) == 20


def test_links_that_lead_nowhere_or_to_themselves_are_bad_files(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png")
    (tmp_path / "train/gone.png").symlink_to("nowhere.png")
    (tmp_path / "train/itself.png").symlink_to("itself.png")
    (tmp_path / "train/itself").symlink_to("itself")  # not named as an image
    with pytest.warns(UserWarning) as caught:
        assert len(load(tmp_path, skip_bad=True)) == 1
    counts, skipped = (str(warning.message) for warning in caught)
    assert "1 file left out: no suffix 1 (no image suffix)" in counts
    assert re.search(r"skipped 2 of 3 .*gone.png': not a regular file.*itself.png': not a regular file", skipped)


def test_a_link_may_lead_to_the_tree_itself(tmp_path):
    write(tmp_path / "tree", "train/a.png", "test/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "tree")
    assert len(load(tmp_path / "link")) == 1


def test_pipes_are_not_waited_for(tmp_path):
    write(tmp_path, "train/a.png", "test/b.png")
    os.mkfifo(tmp_path / "train/pipe.png")
    with pytest.raises(UserError, match=r"pipe.png': not a regular file"):
        load(tmp_path)
