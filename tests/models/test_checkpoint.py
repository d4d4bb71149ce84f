"""A checkpoint is read as it was written, or not at all."""

import io
import random
import zipfile

import pytest
import torch

from gannorm.errors import UserError
from gannorm.models import find_checkpoint, read_checkpoint
from gannorm.models.checkpoint import damage
from gannorm.rundir import RunDir

CONTENT = {"config": {"seed": 1}, "state_dict": {"weight": torch.arange(50.0), "bias": torch.ones(3)}, "step": 2}


@pytest.fixture
def file(tmp_path):
    torch.save(CONTENT, tmp_path / "step_00000002.ckpt")
    return tmp_path / "step_00000002.ckpt"


def test_no_flipped_bit_gets_through(file):
    """In every byte of the file in turn: the damage is found, or it was in bytes that nobody reads."""
    whole, found = file.read_bytes(), 0
    bits = random.Random(0)  # one that finds the bit of a record's attributes that makes it a folder
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << bits.randrange(8)
        file.write_bytes(flipped)
        try:
            content = read_checkpoint(file)
        except UserError as error:
            assert "\n" not in str(error)
            found += 1
            continue
        assert content["config"] == CONTENT["config"] and content["step"] == 2
        assert all(torch.equal(content["state_dict"][k], v) for k, v in CONTENT["state_dict"].items())
    assert found > 500  # 212 bytes are tensors


def test_torch_alone_would_load_a_damaged_tensor(file):
    """Why the checksums are read: the day that this fails, `damage` has become superfluous."""
    whole = file.read_bytes()
    at = whole.index(torch.arange(50.0).numpy().tobytes())
    file.write_bytes(whole[: at + 150] + bytes([whole[at + 150] ^ 1]) + whole[at + 151 :])
    assert not torch.equal(torch.load(file, weights_only=True)["state_dict"]["weight"], torch.arange(50.0))
    assert "does not have its checksum" in damage(file)


@pytest.mark.parametrize(
    "content",
    [[], {"config": "cifar", "state_dict": {}}, {"config": {}, "state_dict": []}, {"config": {}, "state_dict": {1: 2}}],
)
def test_a_checkpoint_of_another_program_is_refused(file, content):
    torch.save(content, file)
    with pytest.raises(UserError, match="a checkpoint must come from `gannorm train`"):
        read_checkpoint(file)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_half_a_file_is_refused(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError, match="a checkpoint must be whole"):
        read_checkpoint(file)


def test_a_record_that_unpacks_to_more_than_the_file_is_refused(file):
    bomb = io.BytesIO()
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for record in source.infolist():
            target.writestr(record.filename, source.read(record))
    file.write_bytes(bomb.getvalue())
    with pytest.raises(UserError, match="its directory of records is not one"):
        read_checkpoint(file)


def test_the_last_whole_checkpoint_serves_and_a_named_one_is_taken_as_it_is(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        for step in (1, 2, 3):
            torch.save(CONTENT, run.checkpoint_file(step))
    assert find_checkpoint(run) == run.checkpoint_file(3)
    for step in (3, 2):
        run.checkpoint_file(step).write_bytes(b"PK")
    with pytest.warns(UserWarning, match=r"step_0000000[23].ckpt is damaged .*; step_00000001.ckpt is used") as warned:
        assert find_checkpoint(run) == run.checkpoint_file(1)
    assert len(warned) == 2
    assert find_checkpoint(run, 3) == run.checkpoint_file(3)
    run.checkpoint_file(1).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"step_00000003.ckpt is damaged"):
        find_checkpoint(run)


def test_a_file_of_a_newer_version_says_what_to_do(file):
    torch.save(CONTENT | {"version": 2}, file)
    with pytest.raises(UserError, match="is of version 2; read it with the gannorm that wrote it, or a newer one"):
        read_checkpoint(file)
    torch.save(CONTENT | {"version": 1}, file)
    assert read_checkpoint(file)["version"] == 1
