"""What a person types wrong: one line that helps, exit status 2, nothing lost."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from support.users_nets import NETS

from gannorm.cli import COMMANDS, main

TINY = ["--data.image_size=8", "--data.batch_size=16", "--steps=2", "--model.discriminator.width=8", "--wandb=off"]
TINY += [
    "--study=runs",
    "--model.generator.width=8",
    "--probe_every=0",
    "--sample_every=2",
    "--log_every=1",
    "--progress=false",
]


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fails(capsys, *argv):
    """The one line of a command that must fail as a caller's mistake."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("gannorm")
    return err


MISTAKES = [
    (["trian"], "did you mean 'train'"),
    (["--import"], "must be followed by a module"),
    (["--import", "no_such_module", "train"], "'no_such_module' is not"),
    (["train", "--sede", "1"], "unknown key 'sede': did you mean 'seed'"),
    (["train", "--step", "5"], "unknown key 'step': did you mean 'steps'"),  # no abbreviations
    (["train", "--conf", "hostile.yaml"], "unknown key 'conf'"),
    (["train", "--seed", "one"], "`seed` must be int: got one"),
    (["train", "--steps", "1e3"], "`steps` must be int: got 1000.0; did you mean '1000'"),
    (["train", "--evaluate"], "give --evaluate true or --evaluate false"),
    (["train", "--wandb", "none"], "got none; did you mean 'off'"),
    (["train", "--wandb", "true"], "got true; did you mean 'auto'"),
    (["train", "--num_workers", "2"], "no such key is needed: images are in memory"),
    (["train", "--logdir", "x"], "did you mean --output runs"),
    (["train", "--lrD", "1e-4"], "did you mean --model.lr_d 2e-4?"),
    (["train", "--n-critic", "5"], "did you mean --model.d_steps 5?"),
    (["train", "--model", "resnet"], "did you mean 'model.loss' or 'model.lr_d' or 'model.lr_g'?"),
    (["train", "--precision", "bf16-mixed"], "did you mean 'auto'?"),
    (["train", "--config", "mnist"], "a data set by --data.name"),
    (["train", "cifar"], "did you mean --config cifar10?"),
    (["train", "--trainer", "5"], "`trainer` must be a mapping, such as {key: value}: got 5"),
    (["train", "digits"], "did you mean --config digits"),
    (["train", "--config"], "a config must be a recipe or a file: got nothing; choose from cifar10"),
    (["train", "--model.discriminator.norm", "nn.GroupNorm"], "did you mean 'group'"),
    (["train", "--model.discriminator.norm", "torch.nn.Identity"], "did you mean 'none'"),
    (["train", "--model.discriminator.norm", "null"], "did you mean 'none'"),
    (["describe", "digits"], "give --config digits"),
    (["study", "demo", "--parallel", "2"], "did you mean --jobs 2?"),
    (["compare", "--metric", "fid"], "all quantities of the runs are compared"),
    (["study", "--config", "demo"], "a study is given by its name or file alone"),
    (["probe", "--module", "nets_for_cli:Critic", "--device", "cuda"], "a probe runs on the CPU"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "0x3"], "must be a shape such as 3x32x32"),
    (["probe", "--module", "nets_for_cli:Critic", "--real", "folder"], "give both folders"),
    (["probe", "--module", "nets_for_cli:Critic", "--real", "none", "--fake", "none"], "none is no folder"),
    (["probe", "empty_run", "--real", "folder", "--fake", "folder"], "belongs to --module, as `--real`"),
    (["train", "--norm", "group"], "did you mean 'model.discriminator.norm' or 'model.generator.norm'"),
    (["train", "--trainer.accelerator", "tpu"], "Lightning's Trainer refuses its options"),
    (
        ["probe", "--module", "nets_for_cli:Critic", "--input", "4", "--batch_size", "0"],
        "`batch_size` must be at least 1",
    ),
    (["train", "--steps", "0"], "`steps` must be at least 1"),
    (["train", "--config", "nowhere.yaml"], "a config must be readable: nowhere.yaml: No such file"),
    (["train", "--config", "broken.yaml"], "broken.yaml"),
    (["train", "--config", "hostile.yaml"], "could not determine a constructor"),
    (["train", "--config", "misspelt.yaml"], "did you mean 'model.discriminator.norm'"),
    (["train", "--model.discriminator.nrom", "group"], "did you mean 'model.discriminator.norm'"),
    (["train", "--model.discriminator.norm", "grup"], "did you mean 'group'"),
    (["train", "--model.discriminator.weight_norm", "spectrum"], "did you mean 'spectral'"),
    (
        ["train", "--model.discriminator.norm", "group", "--model.discriminator.norm_options.groups", "3"],
        "try groups=4",
    ),
    (["train", "--model.d_composition", "mixed"], "`model.d_composition` must be one of separate, joint: got mixed"),
    (["train", "--model.loss", "hinges"], "did you mean 'hinge'"),
    (["train", "--model.penalty", "r3"], "unknown penalty 'r3'"),
    (["train", "--model.initialization", "he"], "`model.initialization` has no 'he': did you mean 'kaiming'"),
    (["train", "--model.d_steps", "0"], "`model.d_steps` must be at least 1"),
    (["train", "--model.lr_g", "-1"], "`model.lr_g` must be above 0: got -1"),
    (["train", "--data.name", "digit"], "did you mean 'digits'"),
    (["train", "--data.image_size", "20"], "`image_size` must be one of 8, 16, 32, 64, 128: got 20"),
    (["train", "--data.batch_size", "0"], "batch_size must be between 1 and"),
    (["train", "--data.batch_size", "99999"], "batch_size must be between 1 and"),
    (["train", "--data.name", "folder", "--data.root", "nowhere"], "nowhere"),
    (["train", "--data.name", "cifar10"], "--data.download true"),
    (["train", "--trainer.acelerator", "cpu"], "did you mean 'accelerator'"),
    (["train", "--trainer.callbacks", "mine"], "`trainer.callbacks` is decided by the run"),
    (["train", "--trainer.max_steps", "5"], "use --steps"),
    (["train", "--trainer.accelerator", "gup"], "Trainer refuses"),
    (["train", "--trainer.precision", "7"], "Trainer refuses"),
    (["train", "--seed", "-1"], "`seed` must be in [0, 4294967295]: got -1"),
    (["train", "--probe_every", "-5"], "`probe_every` must be at least 0"),
    (["train", "--probe_images", "0"], "`probe_images` must be at least 1"),
    (["train", "--name", "../escape"], "`name` must be a folder's plain name"),
    (["train", "--study", "a/b"], "`study` must be a folder's plain name"),
    (["train", "--config", "picture.png"], "a config must be well-formed YAML: picture.png"),
    (["train", "config.yaml"], "did you mean --config config.yaml"),
    (["train", "--model.discriminator.norm", "none", "--model.discriminator.norm_options.g", "7"], "takes no options"),
    (["train", "--trainer.profiler", "{class_path: os.system}"], "must be a plain value"),
    (["train", "--trainer.precision", "16-mixed"], "bf16-mixed"),
    (["train", *TINY, "--output", "a_file"], "the output must be writable"),
    (["sample", "nowhere"], "a run directory must hold config.yaml"),
    (["sample", "nowhere.ckpt"], "a checkpoint must be readable"),
    (["sample", "damaged.ckpt"], "a checkpoint must be whole"),
    (["sample", "damaged.ckpt", "--step", "3"], "a checkpoint file has a step of its own"),
    (["probe"], "takes a run or --module: got neither"),
    (["probe", "nets_for_cli.py"], "give --module nets_for_cli.py:Class --input"),
    (["probe", "nets_for_cli:Critic"], "give --module nets_for_cli:Critic --input"),
    (["probe", "d.pth"], "give their network too: --module nets.py:Class --weights d.pth"),
    (["probe", "--weights", "d.pt"], "give their network too"),
    (["evaluate", "."], "is a folder of images; give --fake"),
    (["describe", "demo"], "demo is a study; run `gannorm study demo`"),
    (["probe", "nowhere", "--module", "nets:Critic"], "got both"),
    (["probe", "nowhere"], "a run directory must hold config.yaml"),
    (["probe", "no\x1b[2Jwhere"], "no?[2Jwhere does not"),  # nor does a name steer the terminal
    (["probe", "nowhere", "--input", "3"], "`--input` belongs to --module"),
    (["probe", "--module", "nets_for_cli:Critic"], "`--module` needs --input"),
    (["probe", "--module", ":Critic", "--input", "4"], "must be package.module:Class"),
    (["probe", "--module", "nets_for_cli:Critik", "--input", "4"], "has no 'Critik'"),
    (["probe", "--module", "nets_for_cli:needs", "--input", "4"], "must be callable without arguments"),
    (["probe", "--module", "nets_for_cli:number", "--input", "4"], "must be callable without arguments"),
    (["probe", "--module", "nets_for_cli:text", "--input", "4"], "made str"),
    (["probe", "--module", "nets_for_cli:broken", "--input", "4"], "nets_for_cli.py, line 20: KeyError: 'key'"),
    (["probe", "--module", "nets_for_cli:Refuses", "--input", "4"], "Refuses on 512x4 gave: "),
    (["--import", "broken_for_cli", "train"], "broken_for_cli.py, line 2: ZeroDivisionError: division by zero"),
    (["--import", "unparsed_for_cli", "train"], "unparsed_for_cli.py, line 1: SyntaxError"),
    (["--import", "needy_for_cli", "train"], "line 1: ModuleNotFoundError: No module named 'not_installed_for_cli'"),
    (["train", "--config", "scalar.yaml"], "`model` must be a mapping of keys: got 'batch'"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "3x32x32"], "must take the input"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "nowhere.npy"], "must be a readable array"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "objects.npy"], "must be a readable array"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "4", "--images", "-4"], "`images` must be at least 1"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "4", "--images", "1"], "`images`, of each half, must be"),
    (["--import", "", "train"], "must be followed by a module"),
    (["--import=no_such_module", "train"], "'no_such_module' is not"),
    (["--import", "../my_norms", "train"], "must be named as in python"),
    (["train", "--seed", ""], "`seed` must be int: got nothing"),
    (["train", "--seed"], "`--seed` must be followed by a value"),
    (["train", "-c", "digits.yaml"], "unknown key '-c'"),
    (["train", "--config", "list.yaml"], "a config must be a mapping of keys: list.yaml"),
    (["train", "--config", "empty.yaml"], "a config must be a mapping of keys: empty.yaml"),
    (["train", "--config", "."], "a config must be readable: .: Is a directory"),
    (["train", "--config", "null.yaml"], "`model.generator` must be a mapping of keys: got None"),
    (["train", "--config", "number.yaml"], "`data` must be a mapping of keys: got 3"),
    (["train", "--config", "itself.yaml"], "nested too deeply, or in itself"),
    (["train", "--config", "deep.yaml"], "nested too deeply, or in itself"),
    (["train", "--config", "billion.yaml"], "more than 100000"),
    (["train", "--config", "class.yaml"], "unknown key 'model.class_path'"),
    (["train", "--name", "x" * 300], "`name` must be a folder's plain name"),
    (["train", "--name", "two\nlines"], "`name` must be a folder's plain name"),
    (["train", "--name", "plan"], "`name` must be a folder's plain name"),
    (["train", "--model.betas", "0.5"], "`model.betas` must be a list of 2 numbers"),
    (["train", "--model.ema_decay", "1"], "0 switches averaging off"),
    (["train", "--model.lr_d", "nan"], "`model.lr_d` must be a finite number"),
    (["sample"], "`gannorm sample` needs an argument: run is missing"),
    (["sample", "empty_run"], "has no checkpoint"),
    (["sample", "empty_run", "--step", "last"], ": got last"),
    (["sample", "empty_run", "--rows", "0"], "`rows` must be at least 1"),
    (["probe", "empty_run"], "a config must be a mapping of keys"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "4x"], "must be a shape such as 3x32x32"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "4", "--batch_size", "0"], "`batch_size` must be"),
    (["probe", "--module", "nets_for_cli:Critic", "--input", "4", "--mode", "tarin"], "must be one of train, eval"),
    (["evaluate"], "takes runs, --module or --fake: got none of them; give one"),
    (["evaluate", "empty_run", "--fake", "folder"], "takes runs, --module or --fake: got several of them"),
    (["evaluate", "empty_run", "--real", "digits"], "`--real` belongs to --module or --fake: leave it out"),
    (["evaluate", "empty_run", "--weights", "w"], "leave it out; the extractor's weights are --extractor_weights"),
    (["evaluate", "--fake", "folder", "--again", "true"], "`--again` belongs to runs"),
    (["evaluate", "--fake", "folder", "--latent_dim", "3"], "`--latent_dim` belongs to --module"),
    (["evaluate", "--fake", "folder"], "`--real` must name the real images: got none"),
    (["evaluate", "--fake", "nowhere", "--real", "digits"], "must hold some (.png"),
    (["evaluate", "--module", "nets_for_cli:Critic", "--real", "digits"], "give latent_dim=100"),
    (
        ["evaluate", "--module", "nets_for_cli:Critic", "--latent_dim", "5", "--real", "digits"],
        "the generator must take latents (N, 5): Critic gave RuntimeError",
    ),
    (
        ["evaluate", "--module", "nets_for_cli:Critic", "--latent_dim", "4", "--real", "digits"],
        "must return 2 images (N, C, H, W), floats or uint8: Critic returned float32 (2, 1)",
    ),
    (
        ["evaluate", "--module", "nets_for_cli:Critic", "--latent_shape", "4by4", "--real", "digits"],
        "`--latent_shape` must be a shape such as 100x1x1: got '4by4'",
    ),
    (["evaluate", "empty_run", "--statistics", "runing"], "must be one of running, batch, standing, all"),
    (["extractor", "tran"], "`action` must be one of train"),
    (["compare", "empty_run"], "at least one run must have finished: got 1 damaged"),
    (["study", "nowhere.yaml"], "a study file must be readable"),
    (["study", "misspelt.yaml"], "misspelt.yaml is one config; run `gannorm train --config misspelt.yaml`"),
    (["study", "itself.yaml"], "nested too deeply, or in itself"),
    (["study", "misspelt.yaml", "--jobs", "0"], "`jobs` must be at least 1"),
    (["train", "--resume"], "must be followed by a run directory"),
    (["train", "--resume", "nowhere"], "a run directory must hold config.yaml"),
    (["train", "--resume", "empty_run", "--seed", "3"], "takes no flags but --progress and --wandb: got --seed"),
    (["train", "--task", "clasifier"], "did you mean 'classifier'"),
    (["train", "--task", "classifier", "--model.discriminator.norm", "group"], "did you mean 'model.classifier.norm'"),
    (
        ["train", "--task", "classifier", "--model.classifier.depth", "-2"],
        "`model.classifier.depth` must be at least 0: got -2",
    ),
    (["train", "--optimization_every", "10", "--optimization_budget", "2"], "`optimization_budget` must be in (0, 1]"),
    (["train", "--optimization_layers", "7"], "`optimization_layers` must be a list"),
    (["train", "--model.accumulate", "3"], "`accumulate` must divide the batch"),
    (["train", "--why_every", "10"], "`--why_every` was renamed: give --optimization_every"),
    (["train", "--model.los", "hinge"], "did you mean 'model.loss'"),
    (["train", "--stepz", "3"], "did you mean 'steps'"),
    (["train", "--model.discriminator.norm", "GroupNorm"], "did you mean 'group'"),
    (["train", "--model.discriminator.norm", "gn"], "did you mean 'group'"),
    (["train", "--model.discriminator.norm", "spectral"], "--model.discriminator.weight_norm spectral"),
    (["train", "--model.loss", "wgan-gp"], "--model.loss wasserstein --model.penalty gradient"),
    (["train", "--model.loss", "bce"], "did you mean 'non_saturating'"),
    (["train", "--data.name", "CIFAR10"], "did you mean 'cifar10'"),
    (["train", "--lr", "1e-3"], "--model.lr_d 2e-4 --model.lr_g 2e-4"),
    (["train", "--device", "cuda"], "--trainer.accelerator gpu"),
    (["evaluate", "empty_run", "--metrics", "fid"], "every score is computed"),
    (["sample", "empty_run", "--n", "9"], "--rows 8"),
    (["train", "--config", "no_such_recipe"], "choose from cifar10, classifier, demo, digits, folder"),
    (["train", "--config", "configs/digits.yaml"], "give its name, digits"),
    (["train", "--config", "demo"], "run `gannorm study demo`"),
    (["train", "demo"], "'demo'; it is a study: run `gannorm study demo`"),
    (["train", "digits"], "'digits'; did you mean --config digits?"),
    (["study", "digits"], "run `gannorm train --config digits`"),
    (["train", "--wandb", "yes"], "must be one of auto, online, offline, off: got yes"),
    (["study", "misspelt.yaml", "--engine", "rey"], "`engine` must be one of local, ray"),
    (["compare", "empty_run", "--wandb", "maybe"], "must be one of auto, online, offline, off: got maybe"),
    (["dashboard", "--study"], "`gannorm dashboard --help` lists the keys"),
    (["evaluate", "empty_run", "--device", "gpu"], "`device` must be available: got 'gpu'"),
    (["evaluate", "empty_run", "--device", "cuda:99"], "`device` must be available: got 'cuda:99'"),
    (["describe", "a_run"], "a_run does not exist"),
    (["compare", "nowhere"], "nowhere does not exist"),
    (["evaluate", "nowhere"], "nowhere does not exist"),
]


@pytest.mark.parametrize("argv,message", MISTAKES, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else "")
def test_mistakes_get_one_line_that_helps(capsys, tmp_path, monkeypatch, argv, message):
    (tmp_path / "broken.yaml").write_text("seed: [1\n")
    (tmp_path / "hostile.yaml").write_text("seed: !!python/object/apply:os.system ['touch owned']\n")
    (tmp_path / "misspelt.yaml").write_text("model: {discriminator: {nrom: group}}\n")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 half a checkpoint")
    (tmp_path / "a_file").write_text("not a folder")
    (tmp_path / "nets_for_cli.py").write_text(NETS)
    (tmp_path / "broken_for_cli.py").write_text("half = 1\nhalf /= 0\n")
    (tmp_path / "unparsed_for_cli.py").write_text("def f(:\n")
    (tmp_path / "needy_for_cli.py").write_text("import not_installed_for_cli\n")
    (tmp_path / "scalar.yaml").write_text("model: batch\n")
    np.save(tmp_path / "objects.npy", np.array([{"code": "here"}], dtype=object), allow_pickle=True)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "null.yaml").write_text("model: {generator: null}\n")
    (tmp_path / "number.yaml").write_text("data: 3\n")
    (tmp_path / "itself.yaml").write_text("a: &a [*a]\n")
    (tmp_path / "deep.yaml").write_text("a: " + 100_000 * "[" + 100_000 * "]")
    nine = "".join(f"{b}: &{b} [{', '.join(9 * [f'*{a}'])}]\n" for a, b in pairwise("abcdefghij"))
    (tmp_path / "billion.yaml").write_text(f"a: &a [x]\n{nine}")
    (tmp_path / "class.yaml").write_text("model: {class_path: os.system, init_args: {command: touch owned}}\n")
    (tmp_path / "empty_run").mkdir()
    (tmp_path / "empty_run" / "config.yaml").write_text("")
    before = sorted(p.name for p in tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert message in fails(capsys, *argv)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


TOO_WIDE = "--model.discriminator.width=1000000000000"


@pytest.mark.parametrize(
    "argv,reason",
    [
        (["describe", TOO_WIDE], "can't allocate memory"),
        (["train", TOO_WIDE], "can't allocate memory"),
        (["train", f"{TOO_WIDE}{0:020}"], "a size is beyond 64 bits"),
        (["probe", "--module", "torch.nn:ReLU", "--input", f"{9**20}"], "a size is beyond 64 bits"),
        (["probe", "--module", "torch.nn:ReLU", "--input", f"{9**15}x{9**15}"], "a size is beyond 64 bits"),
    ],
    ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else "",
)
def test_networks_too_large_for_the_memory_are_one_line_with_status_1(capsys, argv, reason):
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"networks and batches must fit into memory: they do not; make them smaller ({reason}" in err


def test_help_needs_no_heavy_import():
    script = "import sys; from gannorm.cli import main; main(['--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.endswith("False\n")
    assert all(name in out for name in COMMANDS)
