import subprocess
import sys

import pytest
import torch
from PIL import Image

from gannorm.data import ImageData, to_uint8
from gannorm.errors import UserError

pl = pytest.importorskip("lightning.pytorch")


class Watcher(pl.LightningModule):
    """Trains nothing; remembers the batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.automatic_optimization = False
        self.seen = []

    def training_step(self, batch, index):
        self.seen.append(to_uint8(batch))
        self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Saver(pl.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def watch(steps, folder, resume=None):
    module, data = Watcher(), ImageData(image_size=8, batch_size=400)  # 3 batches an epoch
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, callbacks=[Saver(folder)], enable_model_summary=False, **quiet
    )
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return module.seen


@pytest.mark.filterwarnings("ignore:.*(num_workers|LeafSpec|is deprecated|model contains hooks).*")
def test_a_run_resumed_by_lightning_sees_the_batches_of_one_that_never_stopped(tmp_path):
    whole = watch(8, tmp_path)
    assert len({batch.numpy().tobytes() for batch in whole}) == 8
    (tmp_path / "resumed").mkdir()
    for stop in (1, 3, 5):
        resumed = watch(8, tmp_path / "resumed", resume=tmp_path / f"{stop}.ckpt")
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole[stop:], strict=True))


def test_setup_loads_two_disjoint_splits_once():
    data = ImageData(image_size=8)
    data.setup()
    train = data.train
    data.setup("fit")
    assert data.train is train and (train.split, data.test.split) == ("train", "test")
    assert next(data.train_dataloader()).shape == (64, 1, 8, 8)


def test_importing_the_package_does_not_import_what_it_may_not_need():
    code = "import sys, gannorm.data; print(*{'lightning', 'torchvision', 'sklearn'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_one_line_says_how_many_images_of_how_many_classes_were_read_and_which_rule_made_the_split(tmp_path):
    for split, count in (("Training", 3), ("Testing", 2)):
        for kind in ("cat", "dog"):
            (tmp_path / split / kind).mkdir(parents=True)
            for k in range(count):
                Image.new("RGB", (8, 8), (k, count, 0)).save(tmp_path / split / kind / f"{k}.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "Training" / "cat" / "clear.png")
    data = ImageData("folder", 8, str(tmp_path), background="white")
    data.setup()
    assert data.describe() == (
        f"folder ({tmp_path}): 7 training and 4 held-out images of 2 classes; split: by the folders Training and "
        "Testing; train: 1 with transparency composed on white"
    )


def test_images_without_classes_are_described_without(tmp_path):
    for split, colour in (("train", "blue"), ("test", "red")):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8), colour).save(tmp_path / split / "a.png")
    data = ImageData("folder", 8, str(tmp_path))
    data.setup()
    assert "1 training and 1 held-out images without classes" in data.describe()


def test_what_cannot_work_is_named_before_an_image_is_read():
    for options, line in (
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"root": "photos"}, "reads no folder"),
        ({"background": "blakc"}, "must be a colour"),
    ):
        with pytest.raises(UserError, match=line):
            ImageData(**options)


def test_every_option_reaches_the_images(monkeypatch):
    calls = []
    monkeypatch.setattr("gannorm.data.module.load_images", lambda *_, **options: calls.append(options))
    options = {"image_size": 16, "root": "x", "download": True, "skip_bad": True}
    options |= {"enlarge": True, "background": "white", "follow_links": True}
    ImageData("folder", **options)._load("train")
    assert calls == [options]
