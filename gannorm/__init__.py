"""Does my discriminator judge images, or batches?

`probes` measure on any network how far each answer depends on the other samples of its batch. `normalizers` are the
layers that make the difference and `models` the generator and discriminator that take them in the same places.
`training` is the GAN and one run from one config, `data` its images, `losses` its objectives; `evaluation` scores the
generators, `studies` plan grids of runs and compare them with intervals. `rundir` is the folder that a run leaves,
`isolate` what lets a measurement leave no trace, `cli` the command. The few names that a notebook needs are here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gannorm.config import TrainConfig
    from gannorm.evaluation import evaluate
    from gannorm.models import Discriminator, Generator
    from gannorm.probes import BatchCouplingError, assert_batch_invariant, batch_invariance
    from gannorm.report.compare import compare
    from gannorm.training import train
    from gannorm.training.callbacks.batch_dependence import BatchDependence

__version__ = "0.2.0"

__all__ = [
    "BatchCouplingError",
    "BatchDependence",
    "Discriminator",
    "Generator",
    "TrainConfig",
    "assert_batch_invariant",
    "batch_invariance",
    "compare",
    "evaluate",
    "train",
]

_HOME = {
    "BatchCouplingError": "gannorm.probes",
    "BatchDependence": "gannorm.training.callbacks.batch_dependence",
    "Discriminator": "gannorm.models",
    "Generator": "gannorm.models",
    "TrainConfig": "gannorm.config",
    "assert_batch_invariant": "gannorm.probes",
    "batch_invariance": "gannorm.probes",
    "compare": "gannorm.report.compare",
    "evaluate": "gannorm.evaluation",
    "train": "gannorm.training",
}


def __getattr__(name: str) -> Any:  # torch takes seconds to import, and `gannorm --help` does not need it
    from importlib import import_module

    if name not in _HOME:
        raise AttributeError(f"module 'gannorm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
