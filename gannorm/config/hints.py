"""Names that papers and other toolkits use → their names here, for the hints in error messages."""

from __future__ import annotations

NONE = "no such key is needed: "  # begins a hint that names no key

_NORMALIZERS = {
    "bn": "'batch'",
    "gn": "'group'",
    "in": "'instance'",
    "ln": "'layer'",
    "adain": "'instance'",
    "brn": "'renorm'",
    "evonorm": "'evonorm_s0'",
    "ghostbn": "'ghost'",
    "identity": "'none'",
    "no": "'none'",
    "syncbn": "'sync'",
    "vbn": "'virtual'",
    "spectral": "a weight normalizer, --model.discriminator.weight_norm spectral",
    "sn": "a weight normalizer, --model.discriminator.weight_norm spectral",
    "weight": "a weight normalizer, --model.discriminator.weight_norm weight",
    "null": "'none'",
    "false": "'none'",
    "spectral_norm": "a weight normalizer, --model.discriminator.weight_norm spectral",
}
_LOSSES = {
    "bce": "'non_saturating'",
    "ns": "'non_saturating'",
    "gan": "'non_saturating'",
    "dcgan": "'non_saturating'",
    "vanilla": "'non_saturating'",
    "logistic": "'non_saturating'",
    "softplus": "'non_saturating'",
    "lsgan": "'least_squares'",
    "ls": "'least_squares'",
    "mse": "'least_squares'",
    "wgan": "'wasserstein'",
    "wgan_gp": "--model.loss wasserstein --model.penalty gradient",
}
_PENALTIES = {
    "gp": "'gradient'",
    "gradient_penalty": "'gradient'",
    "wgan_gp": "'gradient', with --model.loss wasserstein",
}

NAMES: dict[str, dict[str, str]] = {  # registry → foreign name → its name here
    "normalizers": _NORMALIZERS,
    "weight_normalizers": {"sn": "'spectral'", "wn": "'weight'", "spectral_norm": "'spectral'", "no": "'none'"},
    "losses": _LOSSES,
    "penalties": _PENALTIES,
    "initializers": {"he": "'kaiming'", "glorot": "'xavier'", "normal": "'dcgan'"},
    "augmentations": {"diff_augment": "'diffaugment'", "ada": "'diffaugment'"},
    "discriminators": {"resnet": "'residual'", "dcgan": "'vgg'"},
    "generators": {"resnet": "'residual'", "dcgan": "'vgg'"},
    "minibatch": {"minibatch_stddev": "'stddev'", "mbstd": "'stddev'"},
    "datasets": {"cifar": "'cifar10'", "image_folder": "'folder'", "imagefolder": "'folder'"},
}

FLAGS: dict[str, dict[str, str]] = {  # command → foreign flag → its flag here
    "train": {
        "lr": "--model.lr_d 2e-4 --model.lr_g 2e-4",
        "learning_rate": "--model.lr_d 2e-4 --model.lr_g 2e-4",
        "device": "--trainer.accelerator gpu",
        "gpus": "--trainer.accelerator gpu --trainer.devices 2",
        "cuda": "--trainer.accelerator gpu",
        "gpu": "--trainer.accelerator gpu",
        "d_lr": "--model.lr_d 2e-4",
        "g_lr": "--model.lr_g 2e-4",
        "outdir": "--output runs",
        "out": "--output runs",
        "logdir": "--output runs",
        "log_dir": "--output runs",
        "save_dir": "--output runs",
        "epochs": "--steps 1200, in updates of the generator",
        "iterations": "--steps 1200, in updates of the generator",
        "workers": f"{NONE}images are in memory, and no process loads them",
        "num_workers": f"{NONE}images are in memory, and no process loads them",
        "dataset": "--data.name cifar10",
        "groups": "--model.discriminator.norm_options.groups 8",
        "ema": "--model.ema_decay 0.999",
    },
    "evaluate": {
        "metrics": f"{NONE}every score is computed; --reconstruction 64 and --statistics all add more",
        "n": "--samples 50000",
        "num_images": "--samples 50000",
        "checkpoint": "--step 1200, or --all_checkpoints true",
    },
    "sample": {
        "n": "--rows 8, for a grid of 8 by 8 images",
        "num": "--rows 8, for a grid of 8 by 8 images",
        "samples": "--rows 8, for a grid of 8 by 8 images",
        "checkpoint": "--step 1200",
    },
    "probe": {
        "checkpoint": "--step 1200",
        "model": "--module my_nets:Critic",
        "device": f"{NONE}a probe runs on the CPU",
        "shape": "--input 3x32x32",
    },
    "study": {
        "config": f"{NONE}a study is given by its name or file alone, as in gannorm study demo",
        "workers": "--jobs 2",
        "seeds": "`seed: [0, 1, 2]` under `factors` in the study file",
    },
}

VALUES: dict[str, dict[str, str]] = {  # key of a fixed choice → value → what is wanted
    "wandb": {
        **dict.fromkeys(("false", "no", "none", "disabled", "0", "null"), "off"),
        **dict.fromkeys(("true", "yes", "on", "1"), "auto"),
    },
}
