"""Names that papers and other toolkits use → their names here, for the hints in error messages."""

from __future__ import annotations

from collections.abc import Mapping

from gannorm.registry import compact, spellings

NONE = "no such key is needed: "  # begins a hint that names no key

# Names are written as a person may type them and compared without case, punctuation and endings such as Norm2d.
_SPECTRAL = "a weight normalizer, --model.discriminator.weight_norm spectral"
_NORMALIZERS = {
    "bn": "'batch'",
    "gn": "'group'",
    "in": "'instance'",
    "ln": "'layer'",
    "adain": "'instance'",
    "brn": "'renorm'",
    "batch_renorm": "'renorm'",
    "batch_renormalization": "'renorm'",
    "vbn": "'virtual'",
    "virtual_batch": "'virtual'",
    "gbn": "'ghost'",
    "ghost_bn": "'ghost'",
    "ghost_batch": "'ghost'",
    "sync_bn": "'sync'",
    "sync_batch": "'sync'",
    "evonorm": "'evonorm_s0'",
    "filter_response": "'frn'",
    "dynamic_tanh": "'dyt'",
    "dynamic_erf": "'derf'",
    **dict.fromkeys(("identity", "no", "off", "null", "false"), "'none'"),
    **dict.fromkeys(("spectral", "sn"), _SPECTRAL),
    **dict.fromkeys(("weight", "wn"), "a weight normalizer, --model.discriminator.weight_norm weight"),
}
_NON_SATURATING = (
    "bce",
    "bce_with_logits",
    "cross_entropy",
    "binary_cross_entropy",
    "minimax",
    "saturating",
    "ns",
    "nsgan",
)
_LOSSES = {
    **dict.fromkeys((*_NON_SATURATING, "gan", "dcgan", "vanilla", "logistic", "softplus"), "'non_saturating'"),
    **dict.fromkeys(("lsgan", "ls", "mse"), "'least_squares'"),
    **dict.fromkeys(("wgan", "w"), "'wasserstein'"),
    **dict.fromkeys(("wgan_gp", "wasserstein_gp"), "--model.loss wasserstein --model.penalty gradient"),
    **dict.fromkeys(("rgan", "rpgan", "rsgan"), "'relativistic'"),
    **dict.fromkeys(("ragan", "rasgan"), "'relativistic_average'"),
    "r3gan": "the recipe r3gan",
}
_PENALTIES = {
    "gp": "'gradient'",
    "wgan_gp": "'gradient', with --model.loss wasserstein",
    "zero_centered": "'r1'",
    **dict.fromkeys(("no", "off", "null", "false"), "'none'"),
}
_OWN_IMAGES = "--data.name folder --data.root PATH"

NAMES: dict[str, dict[str, str]] = {  # registry → foreign name → its name here
    "normalizers": _NORMALIZERS,
    "weight_normalizers": {
        "sn": "'spectral'",
        "wn": "'weight'",
        "ws": "'standardization'",
        **dict.fromkeys(("no", "off", "null", "false"), "'none'"),
    },
    "losses": _LOSSES,
    "penalties": _PENALTIES,
    "initializers": {"he": "'kaiming'", "glorot": "'xavier'", "normal": "'dcgan'"},
    "augmentations": {"ada": "'diffaugment'", "diffaug": "'diffaugment'", "true": "'diffaugment'", "false": "'none'"},
    "discriminators": {"resnet": "'residual'", "dcgan": "'vgg'"},
    "generators": {"resnet": "'residual'", "dcgan": "'vgg'"},
    "minibatch": {"minibatch_stddev": "'stddev'", "mbstd": "'stddev'"},
    "datasets": {
        "cifar": "'cifar10'",
        "image_folder": "'folder'",
        **dict.fromkeys(("imagenet", "lsun", "ffhq", "afhq", "celeba_hq"), _OWN_IMAGES),
    },
}

_COUNTS = ("n", "num", "num_images", "n_images", "n_samples", "num_samples", "count")
_CHECKPOINTS = ("checkpoint", "ckpt", "ckpt_path", "epoch")

FLAGS: dict[str, dict[str, str]] = {  # command → foreign flag → its flag here
    "train": {
        **dict.fromkeys(("lr", "learning_rate", "ttur"), "--model.lr_d 2e-4 --model.lr_g 2e-4"),
        **dict.fromkeys(("d_lr", "lr_d", "lr_disc"), "--model.lr_d 2e-4"),
        **dict.fromkeys(("g_lr", "lr_g", "lr_gen"), "--model.lr_g 2e-4"),
        **dict.fromkeys(("beta1", "beta2", "betas", "b1", "b2"), "--model.betas [0.5, 0.999]"),
        **dict.fromkeys(("gpus", "num_gpus", "ngpu"), "--trainer.accelerator gpu --trainer.devices 2"),
        **dict.fromkeys(("device", "cuda", "gpu", "accelerator"), "--trainer.accelerator gpu, or cpu"),
        **dict.fromkeys(("cpu", "no_cuda"), "--trainer.accelerator cpu"),
        **dict.fromkeys(("ddp", "distributed", "devices"), "--trainer.devices 2"),
        **dict.fromkeys(("outdir", "out", "output_dir", "logdir", "save_dir"), "--output runs"),
        **dict.fromkeys(
            ("epochs", "n_epochs", "iterations", "iters", "n_iters", "niter", "max_steps", "num_steps", "total_steps"),
            "--steps 1200, in updates of the generator",
        ),
        **dict.fromkeys(("workers", "num_workers"), f"{NONE}images are in memory, and no process loads them"),
        **dict.fromkeys(
            ("optimizer", "optim"), f"{NONE}both networks are trained by Adam; --model.betas sets its betas"
        ),
        **dict.fromkeys(("amp", "fp16", "bf16", "half"), "--precision auto, which takes bf16 where it is fast"),
        **dict.fromkeys(("n_critic", "d_iters", "n_dis", "critic_iters"), "--model.d_steps 5"),
        **dict.fromkeys(("nz", "z_dim", "dim_z", "latent_size", "latent"), "--model.generator.latent_dim 64"),
        **dict.fromkeys(("ndf", "d_width", "d_channels"), "--model.discriminator.width 32"),
        **dict.fromkeys(("ngf", "g_width", "g_channels"), "--model.generator.width 32"),
        **dict.fromkeys(("d_norm", "norm_d"), "--model.discriminator.norm group"),
        **dict.fromkeys(("g_norm", "norm_g"), "--model.generator.norm group"),
        **dict.fromkeys(("spectral_norm", "sn"), "--model.discriminator.weight_norm spectral"),
        **dict.fromkeys(
            ("gamma", "lambda_gp", "gp_weight", "gp_lambda", "r1_gamma", "r1_weight"), "--model.penalty_weight 10"
        ),
        **dict.fromkeys(("gp", "gradient_penalty"), "--model.penalty gradient"),
        **dict.fromkeys(("arch", "architecture"), "--model.discriminator.architecture residual"),
        **dict.fromkeys(("resolution", "img_size", "size", "res"), "--data.image_size 32"),
        **dict.fromkeys(("bs", "batch"), "--data.batch_size 64"),
        **dict.fromkeys(
            ("data", "path", "dataroot", "data_dir", "data_path"), f"{_OWN_IMAGES}, for images of your own"
        ),
        **dict.fromkeys(("checkpoint", "ckpt", "continue", "restart"), "--resume runs/digits/batch_0"),
        "no_wandb": "--wandb off",
        **dict.fromkeys(("quiet", "no_progress"), "--progress false"),
        "dataset": "--data.name cifar10",
        "diffaugment": "--model.augment diffaugment",
        "groups": "--model.discriminator.norm_options.groups 8",
        "ema": "--model.ema_decay 0.999",
    },
    "evaluate": {
        **dict.fromkeys(
            ("metric", "metrics", "fid", "kid", "is", "isc", "prc"),
            f"{NONE}every score is computed; --reconstruction 64 and --statistics all add more",
        ),
        **dict.fromkeys(_COUNTS, "--samples 50000"),
        **dict.fromkeys(_CHECKPOINTS, "--step 1200, or --all_checkpoints true"),
        **dict.fromkeys(("real_path", "dataset", "data", "reference"), "--real FOLDER, or --real cifar10"),
        **dict.fromkeys(("fake_path", "generated", "images"), "--fake FOLDER"),
    },
    "sample": {
        **dict.fromkeys((*_COUNTS, "samples", "nrow", "cols", "grid"), "--rows 8, for a grid of 8 by 8 images"),
        **dict.fromkeys(_CHECKPOINTS, "--step 1200"),
        **dict.fromkeys(("out", "outdir", "file", "o"), "--output samples.png"),
        **dict.fromkeys(("truncation", "psi"), f"{NONE}latents are drawn as in training"),
    },
    "probe": {
        **dict.fromkeys(_CHECKPOINTS, "--step 1200, of a run, or --weights FILE, of a module"),
        **dict.fromkeys(("model", "network", "net", "discriminator"), "--module my_nets:Critic"),
        **dict.fromkeys(("device", "cuda", "gpu"), f"{NONE}a probe runs on the CPU"),
        **dict.fromkeys(("shape", "input_shape", "input_size", "size"), "--input 3x32x32"),
        **dict.fromkeys(("key", "state_dict"), "--weights_key netD"),
        **dict.fromkeys(("kwargs", "arguments"), "--args '{width: 64}'"),
        "n": "--images 256",
        "bs": "--batch_size 64",
        "eval": "--mode eval",
    },
    "study": {
        "config": f"{NONE}a study is given by its name or file alone, as in gannorm study demo",
        **dict.fromkeys(("workers", "num_workers", "parallel", "n_jobs", "processes", "max_workers"), "--jobs 2"),
        **dict.fromkeys(("seed", "seeds", "n_seeds"), "`seed: [0, 1, 2]` under `factors` in the study file"),
    },
    "compare": {
        **dict.fromkeys(("metric", "metrics", "score"), f"{NONE}all quantities of the runs are compared"),
        **dict.fromkeys(("out", "report", "outdir"), "--output report"),
        **dict.fromkeys(("reference", "control", "base"), "--baseline batch"),
    },
}

VALUES: dict[str, dict[str, str]] = {  # key of a fixed choice → value → what is wanted
    "precision": {
        **dict.fromkeys(("fp32", "float32", "32", "32-true", "full", "high", "highest"), "exact"),
        **dict.fromkeys(("bf16", "bfloat16", "bf16-mixed", "fp16", "16", "16-mixed", "mixed", "amp", "half"), "auto"),
    },
    "wandb": {
        **dict.fromkeys(("false", "no", "none", "disabled", "0", "null"), "off"),
        **dict.fromkeys(("true", "yes", "on", "1"), "auto"),
    },
}


def flag_hint(command: str, name: str) -> str:
    """The error for a flag from elsewhere that a command does not have; "" if nothing is known of it."""
    hint = foreign(name, FLAGS.get(command, {}))
    if not hint:
        return ""
    return f"unknown key {name!r}: {hint}." if hint.startswith(NONE) else f"unknown key {name!r}: did you mean {hint}?"


def foreign(name: str, hints: Mapping[str, str]) -> str:
    """The hint for a name from elsewhere, whatever its case, punctuation and ending; "" if there is none."""
    known = {compact(each): hint for each, hint in hints.items()}
    return next((known[spelling] for spelling in spellings(name) if spelling in known), "")
