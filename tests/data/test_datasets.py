import hashlib
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.io
import torch
import torch.nn.functional as F
import torchvision.datasets
from PIL import Image
from sklearn.datasets import load_digits

from gannorm.data import DATASETS, GREY, Images, images_of_run, load_images
from gannorm.data.datasets import _one_at_a_time, check_source
from gannorm.errors import UserError
from gannorm.registry import UnknownNameError

# -- digits -----------------------------------------------------------------------------------------------------------


def test_digits_at_their_own_size_are_scikit_learns():
    parts = [load_images("digits", split, image_size=8) for split in ("train", "test")]
    ours = {(i.numpy().tobytes(), int(y)) for part in parts for i, y in zip(part.pixels, part.labels, strict=True)}
    data = load_digits()
    pairs = zip(data.images, data.target, strict=True)
    theirs = {(np.rint(i * 255 / 16).astype(np.uint8).tobytes(), int(y)) for i, y in pairs}
    assert ours == theirs
    assert [len(part) for part in parts] == [1438, 359]


def test_digits_are_split_the_same_for_ever():
    # a changed split would make scores of different versions incomparable without a word
    assert load_images("digits", "test", image_size=8).fingerprint.startswith("64a614f630c89028")


def test_every_digit_is_in_both_splits():
    for split in ("train", "test"):
        counts = load_images("digits", split, image_size=8).labels.bincount(minlength=10)
        assert counts.min() > 0.05 * counts.sum()


def test_resizing_is_torchs_antialiased_bilinear():
    small, large = (load_images("digits", "test", image_size=size) for size in (8, 32))
    expected = F.interpolate(small.pixels.double(), (32, 32), mode="bilinear", antialias=True)
    # half a level: rounding to bytes; 1e-4: the product works in float32
    assert (large.pixels.double() - expected).abs().max() <= 0.5 + 1e-4


def test_shrinking_averages_all_the_pixels_as_pillow_does(monkeypatch):
    """Without antialiasing a quarter of the size would be made from a quarter of the pixels."""
    pixels = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setitem(DATASETS._entries, "noise", lambda **_: Images(pixels, None, (), "noise", "train"))
    small = load_images("noise", "train", image_size=8).pixels
    for image, ours in zip(pixels, small, strict=True):
        theirs = Image.fromarray(image[0].numpy()).resize((8, 8), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(theirs, dtype=int) - ours[0].numpy()).max() <= 1  # it rounds after each direction


def test_images_that_are_not_square_lose_the_ends_of_their_longer_side(monkeypatch):
    wide = torch.arange(7, dtype=torch.uint8).expand(2, 1, 3, 7).contiguous()
    monkeypatch.setitem(DATASETS._entries, "wide", lambda split, **_: Images(wide, None, (), "wide", split))
    assert load_images("wide", "train", image_size=3).pixels[0, 0].tolist() == [[2, 3, 4]] * 3


# -- torchvision's, through small files of the real formats -----------------------------------------------------------


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def random_images(*shape):
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def write_cifar(root, monkeypatch, cls, folder, label_key, names_key):
    def write(name, content):
        (root / folder / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, md5(root / folder / name)]

    (root / folder).mkdir()
    pixels, labels = {"train": random_images(6, 3, 32, 32), "test": random_images(4, 3, 32, 32)}, {}
    lists = {}
    for split, images in pixels.items():
        labels[split] = [i % 2 for i in range(len(images))]
        lists[f"{split}_list"] = [
            write(f"{split}_{k}", {"data": images[k::2].reshape(-1, 3072), label_key: labels[split][k::2]})
            for k in range(2)
        ]
        pixels[split] = np.concatenate([images[0::2], images[1::2]])
        labels[split] = labels[split][0::2] + labels[split][1::2]
    name, digest = write("meta", {names_key: ["cat", "dog"]})
    lists["meta"] = {"filename": name, "key": names_key, "md5": digest}
    patch(monkeypatch, cls, **lists)
    return pixels, labels


def write_mnist(root, monkeypatch, cls):
    (root / cls / "raw").mkdir(parents=True)
    pixels = {"train": random_images(6, 1, 28, 28), "test": random_images(4, 1, 28, 28)}
    labels = {split: list(range(len(images))) for split, images in pixels.items()}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        for kind, array in (
            ("images-idx3", pixels[split][:, 0]),
            ("labels-idx1", np.array(labels[split], dtype=np.uint8)),
        ):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
            (root / cls / "raw" / f"{prefix}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return pixels, labels


def write_svhn(root, monkeypatch, cls):
    pixels = {"train": random_images(6, 3, 32, 32), "test": random_images(4, 3, 32, 32)}
    labels, files = {}, {}
    for split, images in pixels.items():
        file = root / f"{split}_32x32.mat"
        written = np.array([10, 1, 2, 3, 4, 5][: len(images)])  # the file's 10 is the digit 0
        scipy.io.savemat(file, {"X": np.transpose(images, (2, 3, 1, 0)), "y": written[:, None]})
        labels[split] = [int(y) % 10 for y in written]
        files[split] = ["", file.name, md5(file)]
    patch(monkeypatch, cls, split_list=files)
    return pixels, labels


def write_stl10(root, monkeypatch, cls):
    folder = root / "stl10_binary"
    folder.mkdir()
    pixels = {"train": random_images(6, 3, 96, 96), "test": random_images(4, 3, 96, 96)}
    labels = {split: list(range(len(images))) for split, images in pixels.items()}
    (folder / "class_names.txt").write_text("\n".join(f"class{k}" for k in range(10)) + "\n")
    (folder / "fold_indices.txt").write_text("0 1\n")
    for split, images in pixels.items():
        (folder / f"{split}_X.bin").write_bytes(np.transpose(images, (0, 1, 3, 2)).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(y + 1 for y in labels[split]))
    (folder / "unlabeled_X.bin").write_bytes(bytes(3 * 96 * 96))
    lists = {"train_list": ["train_X.bin", "train_y.bin", "unlabeled_X.bin"], "test_list": ["test_X.bin", "test_y.bin"]}
    patch(monkeypatch, cls, **{key: [[f, md5(folder / f)] for f in names] for key, names in lists.items()})
    return pixels, labels


def patch(monkeypatch, cls, **attributes):
    """torchvision's own reader, told the check sums of our files."""
    monkeypatch.setattr(torchvision.datasets, cls, type(cls, (getattr(torchvision.datasets, cls),), attributes))


WRITERS = {
    "cifar10": lambda *a: write_cifar(*a, "CIFAR10", "cifar-10-batches-py", "labels", "label_names"),
    "cifar100": lambda *a: write_cifar(*a, "CIFAR100", "cifar-100-python", "fine_labels", "fine_label_names"),
    "mnist": lambda *a: write_mnist(*a, "MNIST"),
    "fashion_mnist": lambda *a: write_mnist(*a, "FashionMNIST"),
    "svhn": lambda *a: write_svhn(*a, "SVHN"),
    "stl10": lambda *a: write_stl10(*a, "STL10"),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_torchvision_files_come_back_byte_for_byte(name, split, tmp_path, monkeypatch):
    pixels, labels = WRITERS[name](tmp_path, monkeypatch)
    loaded = load_images(name, split, image_size=pixels[split].shape[2], root=tmp_path)
    assert np.array_equal(loaded.pixels.numpy(), pixels[split])
    assert loaded.labels.tolist() == labels[split]
    assert (loaded.name, loaded.split, loaded.channels == 1) == (name, split, name in GREY)
    assert len(loaded.classes) > max(labels[split]) and all(isinstance(c, str) for c in loaded.classes)


def test_a_damaged_torchvision_file_is_one_line(tmp_path, monkeypatch):
    WRITERS["cifar10"](tmp_path, monkeypatch)
    with (tmp_path / "cifar-10-batches-py" / "test_1").open("ab") as file:
        file.write(b"!")
    with pytest.raises(UserError, match=r"^cifar10 must be complete in .*cifar-10-batches-py: .*corrupted; download"):
        load_images("cifar10", "train", image_size=32, root=tmp_path)


def test_celeba_is_cropped_to_a_square_and_split_by_its_own_list(tmp_path, monkeypatch):
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    faces = [f"{k:06d}.png" for k in range(5)]
    for k, face in enumerate(faces):
        image = np.full((218, 178, 3), 255, dtype=np.uint8)
        image[20:198] = 10 * k  # the square in the middle
        Image.fromarray(image).save(folder / "img_align_celeba" / face)
    (folder / "list_eval_partition.txt").write_text("".join(f"{f} {s}\n" for f, s in zip(faces, "00122", strict=True)))
    (folder / "identity_CelebA.txt").write_text("".join(f"{f} 1\n" for f in faces))
    for table in ("list_bbox_celeba", "list_landmarks_align_celeba", "list_attr_celeba"):
        (folder / f"{table}.txt").write_text("5\nvalue\n" + "".join(f"{f} 1\n" for f in faces))
    files = [("", md5(file), file.name) for file in folder.glob("*.txt")]
    patch(monkeypatch, "CelebA", file_list=files)
    train, test = (load_images("celeba", split, image_size=32, root=tmp_path) for split in ("train", "test"))
    assert [int(i.unique()) for i in train.pixels] == [0, 10]
    assert [int(i.unique()) for i in test.pixels] == [30, 40]
    assert train.labels is None


# -- every data set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_missing_files_are_one_line_that_says_where_and_how(name, tmp_path):
    with pytest.raises(UserError) as error:
        load_images(name, "train", image_size=32, root=tmp_path / "nowhere")
    line = str(error.value)
    assert "\n" not in line and name in line and str(tmp_path / "nowhere") in line and "--data.root" in line
    assert name == "folder" or "--data.download true" in line


def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.SVHN, "download", no_network)
    with pytest.raises(UserError, match=r"svhn must be complete in .*: no route to host; check the network"):
        load_images("svhn", "train", image_size=32, root=tmp_path, download=True)


def test_processes_of_a_run_unpack_into_one_folder_one_after_the_other(tmp_path):
    inside, most = [], []

    def unpack(folder):
        with _one_at_a_time(folder):
            inside.append(folder)
            time.sleep(0.2)  # long enough to be met, were there no lock
            most.append(len(inside))
            inside.remove(folder)

    with ThreadPoolExecutor(3) as pool:  # each opens the lock's file for itself, as a process would
        list(pool.map(unpack, [tmp_path / "new"] * 3))
        assert most == [1, 1, 1]
        list(pool.map(unpack, [tmp_path / name for name in "abc"]))  # each into its own
        assert max(most) > 1


def test_a_folder_that_cannot_be_written_is_left_to_torchvision(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"cifar10 must be complete in .*file"):
        load_images("cifar10", "train", image_size=32, root=tmp_path / "file", download=True)


def test_wrong_arguments_name_the_right_ones():
    with pytest.raises(UnknownNameError, match="unknown data set 'digit': did you mean 'digits'"):
        load_images("digit", "train", image_size=8)
    with pytest.raises(UserError, match="train or test: got 'valid'"):
        load_images("digits", "valid", image_size=8)
    with pytest.raises(UserError, match="image_size must be at least 1: got 0"):
        load_images("digits", "train", image_size=0)


def test_a_root_for_a_data_set_that_reads_no_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"'digits' .* reads no folder: got data.root=.*--data.name folder"):
        load_images("digits", "train", image_size=8, root=tmp_path)
    for name in set(DATASETS) - {"digits"}:
        check_source(name, tmp_path, "black")


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits", "folder"}))
def test_the_root_of_a_folder_of_images_given_to_another_data_set_names_the_right_one(name, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    with pytest.raises(UserError, match="for images of your own choose"):
        load_images(name, "train", image_size=32, root=tmp_path)


@pytest.mark.parametrize("colour", ["black", "White", "#808080", "#fff", "rgb(1, 2, 3)", "#01020304"])
def test_colours_are_names_or_numbers(colour):
    check_source("folder", "x", colour)


@pytest.mark.parametrize("colour", ["blakc", "", "#12", "255"])
def test_an_unknown_colour_is_one_line(colour):
    with pytest.raises(UserError, match=r"`data.background` must be a colour such as black.*: got "):
        load_images("folder", "train", image_size=8, background=colour)


def test_every_built_in_data_set_says_how_it_is_split(tmp_path, monkeypatch):
    WRITERS["svhn"](tmp_path, monkeypatch)
    assert load_images("svhn", "test", image_size=32, root=tmp_path).split_rule == "the data set's own"
    assert load_images("digits", "test", image_size=8).split_rule == "a fixed fifth is held out"


def test_the_images_of_a_run_are_read_with_all_of_its_options(tmp_path):
    for split, mode in (("train", "RGB"), ("test", "RGBA")):
        (tmp_path / split).mkdir()
        Image.new(mode, (4, 4)).save(tmp_path / split / "a.png")
    data = {"name": "folder", "root": str(tmp_path), "image_size": 8, "batch_size": 64, "download": True}
    images = images_of_run(data | {"enlarge": True, "background": "#070809"}, "test")
    assert images.pixels[0, :, 0, 0].tolist() == [7, 8, 9]
    with pytest.raises(UserError, match="pixels are fewer"):
        images_of_run(data, "test")  # as earlier versions wrote it


def test_runs_of_earlier_versions_may_name_a_root_that_was_not_read():
    images = images_of_run({"name": "digits", "root": "elsewhere", "image_size": 8, "skip_bad": False}, "test")
    assert images.fingerprint == load_images("digits", "test", image_size=8).fingerprint
