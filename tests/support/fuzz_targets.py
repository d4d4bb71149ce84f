"""Readers of strangers' files, each as a function of bytes: it returns, or raises UserError; anything else is a bug.

`tests/fuzz.py` drives them by coverage (atheris), test_fuzz.py by the corpus and by random damage.
"""

import io
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch

from gannorm.commands.inputs.arguments import train_config
from gannorm.errors import UserError
from gannorm.models import load_networks
from gannorm.report.compare import analyse
from gannorm.rundir import RunDir

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
FILES = ("config.yaml", "status.json", "metrics.jsonl", "scores.json")
SETTINGS = ["--data.image_size=8", "--model.generator.width=8", "--model.discriminator.width=8"]
SETTINGS += ["--model.generator.latent_dim=4"]


def config(data: bytes) -> None:
    """A training config, as `gannorm train --config` reads it."""
    file = FOLDER / "config.yaml"
    file.write_bytes(data)
    settle(lambda: train_config(["--config", str(file)]))


def checkpoint(data: bytes) -> None:
    """A checkpoint: the whole file, and the record that says what it holds in an archive whose checksums are right."""
    file = FOLDER / "step_00000001.ckpt"
    file.write_bytes(data)
    settle(lambda: load_networks(file))
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in RECORDS.items():
            archive.writestr(name, data if name.endswith("data.pkl") else content)
    settle(lambda: load_networks(file))


def run_directory(data: bytes) -> None:
    """A finished run of which one file, chosen by the first byte, holds the other bytes; compared with a whole one."""
    file = FILES[data[0] % len(FILES)] if data else FILES[0]
    for run in (GOOD, BAD):
        for name, content in CONTENT.items():
            (run.path / name).write_bytes(content)
    (BAD.path / file).write_bytes(data[1:])
    for read in (BAD.config, BAD.status, BAD.metrics, BAD.scores):
        settle(read)
    comparison = settle(lambda: analyse([GOOD, BAD]))
    assert comparison is not None, "the whole run must be compared"
    known = {run.name for c in comparison.conditions for run in (*c.runs, *c.diverged)}
    known |= {run.name for run in comparison.left_out}
    assert known == {"good", "bad"}, "each run is compared, or named with the reason"
    comparison.to_text()
    comparison.to_csv()


TARGETS = {"config": config, "checkpoint": checkpoint, "run_directory": run_directory}


def settle(read):
    """What the reader returns; None after a UserError of one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except UserError as error:
            assert str(error).strip()
            return None


# -- what the bytes are put into --------------------------------------------------------------------------------------


def seeds(target: str) -> list[bytes]:
    """Where the damage starts: whole files, and inputs that a reader did not survive once."""
    if target == "config":
        known = [b"a: &a [1, *a]", b"model: null", b"data: 3", b"[" * 1000, b"seed: !!python/name:os.system"]
        return [CONTENT["config.yaml"], b"model: {discriminator: {norm: group}}\ntrainer: {max_time: null}\n", *known]
    if target == "checkpoint":
        pickled = next(content for name, content in RECORDS.items() if name.endswith("data.pkl"))
        known = [b"", b"a", b"X\x04", b"K\x01Q.", *map(_foreign, (1, {}))]
        return [CHECKPOINT, pickled, *known]
    known = [
        b"\1null",
        b"\2[]\n[]\n",
        b"\2" + b"[" * 5000,
        b'\2{"step": 1e999}\n',
        b'\3{"scores": null}',
        b"\3" + b"[" * 5000,
        b"\3{}",
        b'\2{"step": 1, "loss_d": 1' + b"0" * 400 + b"}\n",
    ]
    return [*(bytes([i]) + CONTENT[file] for i, file in enumerate(FILES)), *known]


def _foreign(config: object) -> bytes:
    file = io.BytesIO()
    torch.save({"config": config, "state_dict": []}, file)
    return file.getvalue()


def _checkpoint() -> bytes:
    typed = train_config(SETTINGS)
    config = typed.to_dict()
    from gannorm.models import build_networks

    generator, discriminator = build_networks(typed.model, 8, 1)
    state = {f"{p}{k}": v for p in ("generator.", "ema.module.") for k, v in generator.state_dict().items()}
    state |= {f"discriminator.{k}": v for k, v in discriminator.state_dict().items()}
    content = {"config": config, "state_dict": state, "image_size": 8, "channels": 1, "step": 1}
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _run(name: str) -> RunDir:
    config = {"seed": 0, "study": "fuzz", "data": {"name": "digits"}, "model": {"discriminator": {"norm": "group"}}}
    with RunDir.create(FOLDER / name, config) as run:
        for step in (1, 2):
            run.append_metrics(step, {"loss_d": 1.0, "probe/train/accuracy_pure": 0.75, "images_per_second": 10.0})
        run.add_scores({"step": 2, "fid": 3.0, "inception_score": 1.5, "protocol": {"seed": 1, "extractor": "x"}})
        run.set_status("finished", 2)
    return run


CHECKPOINT = _checkpoint()
with zipfile.ZipFile(io.BytesIO(CHECKPOINT)) as whole:
    RECORDS = {name: whole.read(name) for name in whole.namelist()}
GOOD, BAD = _run("good"), _run("bad")
CONTENT = {name: (GOOD.path / name).read_bytes() for name in FILES}
