"""Statistics of kernels' gradients against summands taken one image and one pixel at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.toys import EPS, DetachedBatchNorm
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gannorm.errors import UserError
from gannorm.probes import gradient_statistics

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "3×3": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided, with a rest": lambda: nn.Conv2d(4, 6, 4, stride=2),
    "uneven": lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(0, 1)),
    "dilated": lambda: nn.Conv2d(4, 6, 2, dilation=2, padding=1),
    "same": lambda: nn.Conv2d(4, 6, 4, padding="same"),
    "reflected": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "weight norm": lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1),
    "transposed, output padding": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "transposed, grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2),
    "linear on positions": lambda: nn.Sequential(nn.Flatten(2), nn.Linear(25, 6)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(100, 6)),
}


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def wave(f: nn.Module, x: Tensor) -> Tensor:
    return f(x).sin().square().mean()


def kernel_of(f: nn.Module) -> Tensor:
    return f[-1].weight if isinstance(f, nn.Sequential) else f.weight  # type: ignore[return-value]


def summands(f: nn.Module, x: Tensor) -> Tensor:
    """(N, P, *kernel): the part of the gradient that passes one image and one position.

    A position of a transposed convolution is one of its input.
    """
    layer = f[-1] if isinstance(f, nn.Sequential) else f
    inside = f[:-1](x) if isinstance(f, nn.Sequential) else x
    weight, out = kernel_of(f).detach().requires_grad_(), layer(inside).detach().requires_grad_()
    (cotangent,) = torch.autograd.grad(out.sin().square().mean(), out)

    def by_weight(inside: Tensor, cotangent: Tensor) -> Tensor:
        out = torch.func.functional_call(nn.utils.skip_init(type(layer), **options), {"weight": weight}, (inside,))
        return torch.autograd.grad(out, weight, cotangent)[0]

    if isinstance(layer, nn.Linear):
        options = {"in_features": layer.in_features, "out_features": layer.out_features, "bias": False}
    else:
        names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode output_padding"
        options = {n: getattr(layer, n) for n in names.split() if n != "output_padding" or layer.transposed}
        options["bias"] = False
    options["dtype"] = torch.float64
    one_position = inside if isinstance(layer, nn.ConvTranspose2d) else cotangent
    # positions: all but images and channels
    channel = one_position.dim() - 1 if isinstance(layer, nn.Linear) else 1
    shape = [1 if d in (0, channel) else s for d, s in enumerate(one_position.shape)]
    rows = []
    for i in range(len(x)):
        row = []
        for mask in torch.eye(math.prod(shape), dtype=torch.float64):
            part = (one_position * mask.view(shape))[i : i + 1]
            if isinstance(layer, nn.ConvTranspose2d):
                row.append(by_weight(part, cotangent[i : i + 1]))
            else:
                row.append(by_weight(inside[i : i + 1], part))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # the uneven padding is the point
@pytest.mark.parametrize("name", LAYERS)
def test_sums_agree_with_the_summands(name: str) -> None:
    torch.manual_seed(0)
    f, x = LAYERS[name]().double(), images()
    result = gradient_statistics(f, wave, x)
    d = summands(f, x)
    g = d.sum((0, 1))
    # 1e-9: the same sums in float64, in another order
    assert result.gradient_norm.item() == pytest.approx(g.norm().item(), rel=1e-9)
    assert result.sum_of_sizes.item() == pytest.approx(d.abs().sum((0, 1)).mean().item(), rel=1e-9)
    assert result.size_of_sum.item() == pytest.approx(g.abs().mean().item(), rel=1e-9)
    assert result.coherence.item() >= 1
    m = d.sum(0).abs().sum(0).flatten(2).sum(2) if g.dim() > 2 else d.sum(0).abs().sum(0)
    groups = getattr(f, "groups", 1)
    singular = torch.linalg.svdvals(torch.block_diag(*m.chunk(groups)))
    p = singular[singular > 0] / singular.sum()
    assert result.alignment.item() == pytest.approx((singular[0] ** 2 / singular.square().sum()).item(), rel=1e-9)
    assert result.effective_rank.item() == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-9)
    cosine = torch.cosine_similarity(kernel_of(f).detach().flatten(), g.flatten(), dim=0).item()
    assert result.radial.item() == pytest.approx(cosine, rel=1e-9)


def test_the_gradient_is_that_of_the_parameter() -> None:
    torch.manual_seed(0)
    f = nn.Sequential(nn.Conv2d(4, 4, 3), nn.LeakyReLU(0.2, inplace=True), nn.Flatten(), nn.Linear(36, 1)).double()

    def two_calls(f: nn.Module, x: Tensor) -> Tensor:
        return wave(f, x[:2]) - wave(f, 2 * x[2:])

    result = gradient_statistics(f, two_calls, images(6), layers=["3", "0"], bins=7)
    two_calls(f, images(6)).backward()
    assert result.layers == ("3", "0")
    for i, layer in enumerate((f[3], f[0])):
        g = layer.weight.grad.flatten().numpy()
        assert result.gradient_norm[i] == pytest.approx(np.linalg.norm(g), rel=1e-12)
        z = (g - g.mean()) / g.std()
        assert result.kurtosis[i] == pytest.approx((z**4).mean(), rel=1e-9)
        assert result.range_ratio[i] == pytest.approx(np.ptp(z), rel=1e-9)
        assert result.histogram[i].sum() == g.size
        assert result.edges[i][-1] == -result.edges[i][0] == pytest.approx(np.abs(g).max(), rel=1e-12)


def test_summands_of_one_sign_are_coherent_and_opposite_ones_cancel() -> None:
    f = nn.Linear(1, 1, bias=False).double()
    for x, coherence in [([1.0, 2.0, 3.0], 1.0), ([2.0, -2.0, 1.0, 1.0], 3.0)]:
        result = gradient_statistics(f, lambda f, x: f(x).mean(), torch.tensor(x).double()[:, None])
        assert result.coherence.item() == pytest.approx(coherence, rel=1e-12)


def test_one_pattern_has_rank_one_and_orthogonal_ones_full_rank() -> None:
    f = nn.Linear(4, 4, bias=False).double()
    one = gradient_statistics(f, lambda f, x: f(x).sum(), torch.ones(4, 4).double())
    assert (one.alignment.item(), one.effective_rank.item()) == pytest.approx((1, 1), rel=1e-6)
    # each image reaches one output from one input
    full = gradient_statistics(f, lambda f, x: f(x).diagonal().sum(), torch.eye(4).double())
    assert (full.alignment.item(), full.effective_rank.item()) == pytest.approx((1 / 4, 4), rel=1e-12)


@pytest.mark.parametrize(
    "norm,is_radial",
    [
        (nn.BatchNorm2d(6, eps=EPS), False),
        (nn.GroupNorm(2, 6, eps=EPS), False),
        (DetachedBatchNorm(), True),  # the loss ignores the length, its gradient does not know
        (nn.BatchNorm2d(6, eps=EPS).eval(), True),
        (nn.Identity(), True),
    ],
    ids=["batch", "group", "detached", "eval", "none"],
)
def test_weights_that_feed_a_normalizer_have_no_radial_gradient(norm: nn.Module, is_radial: bool) -> None:
    torch.manual_seed(0)
    f = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), norm, nn.Flatten(), nn.Tanh(), nn.Linear(54, 1)).double()
    radial = gradient_statistics(f, wave, images(8), layers=["0"]).radial.item()
    # 1e-10: rounding of float64; the others differ from 0 in the second digit
    assert (abs(radial) > 1e-2) == is_radial
    assert (abs(radial) < 1e-10) != is_radial


def test_without_norm_gradients_of_a_deep_network_are_heavy_tailed() -> None:
    # The direction of Bjorck 2018, Fig. 4, at initialization.
    def deep(norm: Callable[[int], nn.Module]) -> nn.Sequential:
        torch.manual_seed(0)
        stages = [m for i in range(16) for m in (nn.Conv2d(4 if i == 0 else 12, 12, 3, padding=1), norm(12), nn.ReLU())]
        for conv in stages[::3]:
            nn.init.kaiming_normal_(conv.weight)
        return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))

    def loss(f: nn.Module, x: Tensor) -> Tensor:
        return nn.functional.cross_entropy(f(x), torch.arange(len(x)) % 10)

    x = images(20).float()
    plain = np.median(gradient_statistics(deep(lambda c: nn.Identity()), loss, x).kurtosis[4:14])
    batch = np.median(gradient_statistics(deep(nn.BatchNorm2d), loss, x).kurtosis[4:14])
    assert batch < 4 < 1.5 * batch < plain  # a Gaussian has 3


def test_a_dead_layer_is_undefined_and_not_an_error() -> None:
    f = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    nn.init.zeros_(f[1].weight)
    result = gradient_statistics(f, lambda f, x: f(x).mean(), torch.randn(4, 2)).to_dict()
    assert result["gradient_norm"][0] == 0 < result["gradient_norm"][1]
    for name in ("kurtosis", "range_ratio", "coherence", "alignment", "effective_rank", "radial"):
        assert result[name][0] is None


def test_layers_that_do_not_exist_or_have_no_kernel_are_refused() -> None:
    f = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    for name in ("conv", "1"):
        with pytest.raises(UserError, match=f"that the loss uses: got '{name}'.* choose from 0"):
            gradient_statistics(f, lambda f, x: f(x).square().mean(), torch.randn(4, 2), layers=[name])
    with pytest.raises(UserError, match="`layers` must name at least one"):
        gradient_statistics(f, lambda f, x: f(x).square().mean(), torch.randn(4, 2), layers=[])
    with pytest.raises(UserError, match="must use a Linear, Conv2d or ConvTranspose2d layer"):
        gradient_statistics(f[1], lambda f, x: f(x).square().mean(), torch.randn(4, 2))
    with pytest.raises(UserError, match="`bins` must be at least 1"):
        gradient_statistics(f, lambda f, x: f(x).square().mean(), torch.randn(4, 2), bins=0)
