import subprocess
import sys

import pytest
import torch

from gannorm.data import ImageData, to_uint8

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
