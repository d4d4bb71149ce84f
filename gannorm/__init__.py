"""Does my discriminator judge images, or batches?

`probes` measure on any network how far each answer depends on the other samples of its batch. `normalizers` are the
layers that make the difference and `models` the generator and discriminator that take them in the same places.
`training` is the GAN and one run from one config, `data` its images, `losses` its objectives; `evaluation` scores the
generators, `studies` plan grids of runs and compare them with intervals. `rundir` is the folder that a run leaves,
`isolate` what lets a measurement leave no trace, `cli` the command. The few names that a notebook needs are here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gannorm.evaluation import evaluate
    from gannorm.models import Discriminator, Generator
    from gannorm.probes import BatchCouplingError, assert_batch_invariant, batch_invariance
    from gannorm.training.callbacks.batch_dependence import BatchDependence

__all__ = [
    "BatchCouplingError",
    "BatchDependence",
    "Discriminator",
    "Generator",
    "assert_batch_invariant",
    "batch_invariance",
    "evaluate",
]

_HOME = {
    "BatchCouplingError": "gannorm.probes",
    "BatchDependence": "gannorm.training.callbacks.batch_dependence",
    "Discriminator": "gannorm.models",
    "Generator": "gannorm.models",
    "assert_batch_invariant": "gannorm.probes",
    "batch_invariance": "gannorm.probes",
    "evaluate": "gannorm.evaluation",
}


def __getattr__(name: str) -> Any:  # torch takes seconds to import, and `gannorm --help` does not need it
    if name not in _HOME:
        raise AttributeError(f"module 'gannorm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
