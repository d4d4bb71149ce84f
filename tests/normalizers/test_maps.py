"""Memory that is used again is nobody else's as long as a tensor is on it."""

import gc
import threading

import pytest
import torch
from torch import nn

from gannorm.normalizers import NORMALIZERS, maps
from gannorm.normalizers.maps import MOST, map_like

SHAPE = (3, 5, 7, 11)


@pytest.fixture(autouse=True)
def small_maps_and_none_kept(monkeypatch):
    monkeypatch.setattr(maps, "LEAST", 1)
    maps._kept.maps.clear()


def test_memory_comes_back_and_only_from_tensors_that_are_gone():
    x = torch.zeros(SHAPE)
    first, second = map_like(x), map_like(x)
    assert first.data_ptr() != second.data_ptr()
    address, part = first.data_ptr(), first[1:, :2]
    del first
    assert map_like(x).data_ptr() != address  # a view is still on it
    array = part.numpy()
    del part
    gc.collect()
    assert map_like(x).data_ptr() != address  # so is an array
    del array
    others = [map_like(x) for _ in range(3)]
    assert address in {other.data_ptr() for other in others}


def test_what_autograd_keeps_for_later_is_not_lent():
    x = torch.randn(SHAPE, requires_grad=True)
    y = map_like(x).copy_(x.detach()).requires_grad_()
    z = y.sin()  # keeps y for its backward pass
    expected, address = y.detach().cos(), y.data_ptr()
    del y
    assert all(map_like(x).fill_(9.0).data_ptr() != address for _ in range(3))
    (grad,) = torch.autograd.grad(z.sum(), z.grad_fn.next_functions[0][0].variable)
    assert torch.equal(grad, expected)


def test_what_else_one_may_do_with_a_fresh_tensor():
    x = torch.randn(SHAPE, requires_grad=True)
    for name in ("noisy", "evonorm_s0"):
        layer = NORMALIZERS[name](5)
        torch.manual_seed(0)
        plain = torch.autograd.grad(layer(x).relu().mul(2).sum(), x)[0]
        torch.manual_seed(0)
        y = layer(x)
        assert not y._is_view()
        in_place = torch.autograd.grad(y.relu_().mul(2).sum(), x)[0]
        assert torch.equal(in_place, plain)
        layer(x).detach_()
    torch.set_default_dtype(torch.float64)
    try:
        wide = map_like(torch.zeros(SHAPE, dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        elsewhere = map_like(torch.zeros(SHAPE, device="cpu"))
    assert wide.dtype == elsewhere.dtype == torch.float32
    assert elsewhere.device.type == "cpu"


def test_a_map_has_the_layout_and_kind_of_what_it_is_like():
    channels_last = torch.zeros(SHAPE).to(memory_format=torch.channels_last)
    assert map_like(channels_last).stride() == channels_last.stride()
    strided = torch.zeros(SHAPE).transpose(2, 3)
    for x in (torch.zeros(SHAPE, dtype=torch.float64), torch.zeros(SHAPE).bfloat16(), strided, torch.zeros(0)):
        found = map_like(x)
        assert (found.shape, found.dtype, found.device) == (x.shape, x.dtype, x.device)
    assert map_like(torch.zeros(SHAPE, device="meta")).is_meta
    assert torch.func.vmap(lambda x: map_like(x).copy_(x))(torch.ones(2, *SHAPE)).sum() == 2 * 3 * 5 * 7 * 11


def test_no_more_than_so_many_are_kept_and_those_that_came_back_last():
    sizes = [torch.zeros(100 + i) for i in range(MOST + 4)]
    last = {map_like(x).data_ptr() for x in sizes}  # one at a time
    held = [map_like(x) for x in sizes]
    assert len(maps._kept.maps) == 0
    while held:
        del held[0]
    assert [memory.size for memory in maps._kept.maps] == [len(x) for x in sizes[-MOST:]]
    assert len({memory.ctypes.data for memory in maps._kept.maps} & last) > 0


def test_threads_have_memory_of_their_own():
    x, found = torch.zeros(SHAPE), {}

    def keep(name):
        found[name] = [map_like(x).fill_(name) for _ in range(20)]

    threads = [threading.Thread(target=keep, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(bool((map_ == name).all()) for name, maps in found.items() for map_ in maps)


@pytest.mark.parametrize("name", ["noisy", "evonorm_s0"])
def test_a_layer_in_used_memory_computes_what_it_does_in_fresh(name):
    """Twice through two layers, the memory of the first round filled with NaN in between; and for several losses."""
    torch.manual_seed(0)
    layers = nn.Sequential(NORMALIZERS[name](5), nn.ReLU(), NORMALIZERS[name](5))
    x = torch.randn(4, 5, 6, 6, requires_grad=True)

    def gradients():
        torch.manual_seed(1)
        y = layers(x)
        single = torch.autograd.grad(y, x, x.detach().sin(), retain_graph=True)[0]
        (several,) = torch.autograd.grad(y, x, torch.stack([x.detach().sin()] * 3), is_grads_batched=True)
        return [y.detach().clone(), single.clone(), *several.clone()]

    first = gradients()
    for map_ in [map_like(x) for _ in range(20)]:
        map_.fill_(torch.nan)
    second = gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for several in first[2:]:  # another order of the sums
        torch.testing.assert_close(several, first[1], atol=1e-5, rtol=0)
