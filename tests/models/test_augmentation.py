"""Augmentations draw for each image, from torch's generator, and let gradients through what they show."""

import pytest
import torch
from torch import nn

from gannorm.isolate import modules_in
from gannorm.models.augmentation import AUGMENTATIONS, augmented, coloured, cutout, diffaugment, translated

N = 64


def images(channels=3, size=16):
    return torch.rand(N, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1


def test_none_is_the_very_images():
    x = images()
    assert AUGMENTATIONS["none"](x) is x


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
@pytest.mark.parametrize("channels", [1, 3])
def test_seeded_draws_repeat_and_images_differ(name, channels):
    x = images(channels)[:1].expand(N, -1, -1, -1)  # one image, N draws
    torch.manual_seed(1)
    first = AUGMENTATIONS[name](x)
    assert first.shape == x.shape and first.dtype == x.dtype
    assert not any(torch.equal(first[0], other) for other in first[1:])
    torch.manual_seed(1)
    assert torch.equal(AUGMENTATIONS[name](x), first)
    assert not torch.equal(AUGMENTATIONS[name](x), first)


def test_colour_is_brightness_saturation_and_contrast_in_their_ranges():
    torch.manual_seed(0)
    x = images()
    y = coloured(x)
    # Brightness alone moves the mean of an image, by less than a half.
    shift = (y - x).mean((1, 2, 3))
    assert shift.abs().max() < 0.5 and shift.min() < -0.4 and shift.max() > 0.4
    # Contrast alone scales the distances between the pixels' greys.
    ratio = y.mean(1).flatten(1).std(1) / x.mean(1).flatten(1).std(1)
    assert ratio.min() > 0.5 and ratio.max() < 1.5 and ratio.std() > 0.1
    # Saturation and contrast scale the distances between channels, by 0 to 2 and ½ to 1½.
    chroma = (y - y.mean(1, keepdim=True)).flatten(1).norm(dim=1) / (x - x.mean(1, keepdim=True)).flatten(1).norm(dim=1)
    assert chroma.min() < 0.3 and chroma.max() < 3 and (chroma / ratio).max() < 2


def test_translation_moves_whole_images_by_up_to_an_eighth():
    torch.manual_seed(0)
    x, seen = images(size=16), set()
    padded = nn.functional.pad(x, (2, 2, 2, 2))
    for image, moved in zip(padded, translated(x), strict=True):
        shifts = [(i, j) for i in range(5) for j in range(5) if torch.equal(image[:, i : i + 16, j : j + 16], moved)]
        assert len(shifts) == 1
        seen |= set(shifts)
    assert len(seen) > 15  # 64 draws of 25


def test_cutout_removes_one_square_of_half_the_size():
    torch.manual_seed(0)
    x = images(size=16)
    kept = cutout(x) != 0  # the images are at least 1
    holes = ~kept[:, 0]
    assert torch.equal(kept, ~holes[:, None].expand_as(kept))
    for hole in holes:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns[None, :])  # a rectangle: less than a square at the border
        for side in (rows, columns):
            index = side.nonzero().flatten()
            assert 4 <= len(index) <= 8 and index[-1] - index[0] + 1 == len(index)
    assert max(int(hole.sum()) for hole in holes) == 64


def test_gradients_reach_what_is_shown_and_can_be_differentiated_again():
    x = images()[:4].requires_grad_()
    torch.manual_seed(3)
    y = diffaugment(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    (slope,) = torch.autograd.grad((weights * y.square()).sum(), x, create_graph=True)
    assert slope[0].any()
    (second,) = torch.autograd.grad(slope.square().sum(), x)  # as a gradient penalty asks
    assert second.isfinite().all() and second.any()
    with torch.no_grad():  # against differences, with the same draws
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
        values = []
        for step in (1e-6, -1e-6):
            torch.manual_seed(3)
            values.append((weights * diffaugment(x + step * direction).square()).sum())
        assert ((values[0] - values[1]) / 2e-6).item() == pytest.approx((slope * direction).sum().item(), rel=1e-6)


def test_a_discriminator_that_is_shown_augmented_images_is_found_by_those_who_isolate_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 1)).double()
    judge = augmented(network, diffaugment)
    assert list(modules_in(lambda x: judge(x)).values()) == [network]
    torch.manual_seed(0)
    shown = judge(images())
    torch.manual_seed(0)
    assert torch.equal(shown, network(diffaugment(images())))
