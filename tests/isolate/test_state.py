"""What is saved comes back, at its place and in its order, and what has not changed is not written to."""

import random
from collections import OrderedDict, deque

import lightning.pytorch
import numpy as np
import pytest
import torch
from torch import nn

from gannorm.errors import UserError
from gannorm.isolate.state import AttributeState, Contents, RandomState, is_plain, random_state


class Keeper:
    """Holds one of everything that code keeps between calls."""

    def __init__(self):
        self.list, self.queue, self.set = [1, [2]], deque([1, 2], maxlen=4), {1, 2}
        self.dict, self.bytes = OrderedDict(a=1, b=2), bytearray(b"ab")
        self.tensor, self.array = torch.arange(3.0), np.arange(3.0)


def content(keeper):
    ordered = [list(keeper.queue), list(keeper.dict.items()), bytes(keeper.bytes)]
    return repr(keeper.list), ordered, set(keeper.set), sorted(vars(keeper))


def test_containers_and_attributes_come_back_in_their_order():
    keeper = Keeper()
    before, state = content(keeper), AttributeState([keeper])
    keeper.list[1].append(9)
    keeper.list.insert(0, 9)
    keeper.queue.rotate()
    keeper.set.add(9)
    keeper.dict.move_to_end("a")
    keeper.bytes.extend(b"c")
    keeper.new = 1
    assert content(keeper) != before
    state.restore()
    assert content(keeper) == before


def test_a_cycle_is_looked_into_once():
    keeper = Keeper()
    keeper.itself = keeper
    state = AttributeState([keeper, keeper])
    assert list(state.tensors.values()) == [keeper.tensor] and len(state.arrays) == 1


def test_numbers_come_back_where_they_are_kept():
    t, a = torch.arange(3.0), np.arange(3.0)
    place, contents = t.data_ptr(), Contents([t], [a])
    assert contents.changes() == []
    t.add_(1)
    a += 1
    assert [written.tensor is kept for written, kept in zip(contents.changes(), (t, a), strict=True)] == [True, True]
    t.data = torch.full((3,), 7.0)  # another place
    contents.restore()
    assert (t.tolist(), a.tolist(), t.data_ptr()) == ([0, 1, 2], [0, 1, 2], place)


def test_what_has_not_changed_is_not_written_to():
    """A write raises the version counter, which breaks graphs that saved the tensor."""
    t = torch.arange(3.0)
    version, contents = t._version, Contents([t])
    contents.restore()
    assert t._version == version
    t.mul_(1)  # the same numbers: restoring has nothing to do
    contents.restore()
    assert t._version == version + 1


def test_a_change_is_undone_unless_somebody_wrote_since():
    t = torch.zeros(2)
    contents = Contents([t])
    t.fill_(1)
    (written,) = contents.changes()
    t.fill_(2)
    written.undo()
    assert t.tolist() == [2, 2]
    t.fill_(1)
    written.undo()
    assert t.tolist() == [0, 0]


def test_gradients_and_their_absence_come_back():
    with_gradient, without = (torch.ones(2, requires_grad=True) for _ in range(2))
    with_gradient.sum().backward()
    gradient, contents = with_gradient.grad, Contents([with_gradient, without], gradients=True)
    (with_gradient.sum() + without.sum()).backward()
    without.requires_grad_(False)
    contents.restore()
    assert with_gradient.grad is gradient and gradient.tolist() == [1, 1]
    assert without.grad is None and without.requires_grad


def test_every_global_generator_repeats():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    state = RandomState()
    first = draw()
    assert draw() != first
    state.restore()
    assert draw() == first


@pytest.mark.parametrize(
    "make,draw",
    [
        (lambda: torch.Generator().manual_seed(0), lambda g: torch.rand((), generator=g).item()),
        (lambda: random.Random(0), lambda g: g.random()),
        (lambda: np.random.RandomState(0), lambda g: g.rand()),
        (lambda: np.random.default_rng(0), lambda g: g.random()),
    ],
    ids=["torch", "python", "numpy, old", "numpy"],
)
def test_every_kind_of_generator_repeats(make, draw):
    generator = make()
    set_state, state = random_state(generator)
    first = draw(generator)
    set_state(state)
    assert draw(generator) == first


def test_buffers_are_replaced_by_copies_and_parameters_are_not():
    norm = nn.BatchNorm1d(2)
    mean, weight, state = norm.running_mean, norm.weight, AttributeState([norm])
    assert len(state.use_copies()) == 3  # running mean, variance, count
    assert norm.weight is weight and norm.running_mean is not mean
    norm.running_mean.fill_(9)
    state.restore()
    assert norm.running_mean is mean and mean.tolist() == [0, 0]


def test_what_cannot_be_put_back_is_refused_with_the_remedy():
    keeper = Keeper()
    keeper.iterator = iter([1])
    with pytest.raises(UserError, match=r"must keep no iterator.*keep a list and an index"):
        AttributeState([keeper])
    with pytest.raises(UserError, match="LazyLinear is not initialized; run the network once first"):
        AttributeState([nn.LazyLinear(2)])


def test_code_and_machinery_of_others_is_not_looked_into():
    assert is_plain(Keeper())
    assert not any(map(is_plain, (Keeper, random, nn.Linear(1, 1), content, torch.Generator(), 1, "text")))


def test_a_trainer_that_somebody_made_from_lightnings_is_not_looked_into_and_what_a_network_holds_is():
    own = type("OwnTrainer", (lightning.pytorch.Trainer,), {})(logger=False, enable_checkpointing=False)
    assert not is_plain(own)  # it holds the callbacks, whose state a measurement may set
    assert is_plain(type("OwnNormal", (torch.distributions.Normal,), {})(0.0, 1.0))
