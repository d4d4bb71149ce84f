"""When a callback acts, and where arrays go."""

from types import SimpleNamespace

import numpy as np

from gannorm.rundir import RunDir
from gannorm.training.callbacks.every import Every, record_arrays
from gannorm.training.loggers import RunDirLogger


class Noted(Every):
    state_key = "Noted"
    at_start = True

    def __init__(self, every):
        super().__init__(every)
        self.steps = []

    def act(self, trainer, gan):
        self.steps.append(gan.step)


def steps_of(every, first=True):
    callback, trainer = Noted(every), SimpleNamespace(is_global_zero=first, max_steps=5)
    callback.on_train_start(trainer, SimpleNamespace(step=0))
    for step in range(1, 6):
        callback.on_train_batch_end(trainer, SimpleNamespace(step=step))
    return callback.steps


def test_it_acts_at_the_start_at_the_steps_that_every_divides_and_at_the_end():
    assert steps_of(2) == [0, 2, 4, 5]
    assert steps_of(0) == []
    assert steps_of(2, first=False) == []  # of several processes the first acts


def test_arrays_of_one_step_stand_beside_each_other_and_the_newer_of_one_name_counts(tmp_path):
    with RunDir.create(tmp_path / "run", {}) as run:
        trainer = SimpleNamespace(is_global_zero=True, loggers=[RunDirLogger(run), object()])
    record_arrays(trainer, 2, {"a": np.ones(2), "b": np.ones(1)})
    record_arrays(trainer, 2, {"b": np.zeros(1), "c": np.ones(3)})
    with np.load(run.probe_file(2)) as file:
        assert {name: array.tolist() for name, array in file.items()} == {"a": [1, 1], "b": [0], "c": [1, 1, 1]}
