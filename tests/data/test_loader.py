from itertools import chain, islice

import pytest
import torch

from gannorm.data import ImageLoader, to_uint8
from gannorm.errors import UserError

PIXELS = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1)  # an image is its index


def indices(loader, batches):
    return [to_uint8(batch).flatten().tolist() for batch in islice(loader, batches)]


def test_an_epoch_holds_every_image_at_most_once_and_all_but_the_ragged_end():
    loader = ImageLoader(PIXELS, 8, seed=0)
    for _ in range(3):
        epoch = list(chain(*indices(loader, loader.batches_per_epoch)))
        assert len(epoch) == len(set(epoch)) == 48


def test_the_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(0)
    first = indices(ImageLoader(PIXELS, 8, seed=3), 20)
    torch.manual_seed(1)
    assert indices(ImageLoader(PIXELS, 8, seed=3), 20) == first
    assert indices(ImageLoader(PIXELS, 8, seed=4), 20) != first
    assert first[:6] != first[6:12]
    # neighbouring seeds do not share epochs, as they would if seed and epoch were added
    assert indices(ImageLoader(PIXELS, 8, seed=4), 6) != first[6:12]


def test_loading_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    indices(ImageLoader(PIXELS, 8, seed=0), 7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stop", [0, 1, 4, 5, 6, 7, 17])  # 6 batches an epoch: within, at and beyond its ends
def test_resuming_anywhere_equals_never_stopping(stop):
    whole = indices(ImageLoader(PIXELS, 8, seed=0), 24)
    stopped = ImageLoader(PIXELS, 8, seed=0)
    indices(stopped, stop)
    resumed = ImageLoader(PIXELS, 8, seed=0)
    resumed.load_state_dict(stopped.state_dict())
    assert indices(resumed, 24 - stop) == whole[stop:]
    assert indices(ImageLoader(PIXELS, 8, seed=0, start=stop), 24 - stop) == whole[stop:]


def test_the_state_is_plain_integers_naming_the_next_batch():
    loader = ImageLoader(PIXELS, 8, seed=0)
    indices(loader, 6)
    assert loader.state_dict() == {"epoch": 1, "batch": 0}


def test_ranks_share_an_epoch_without_overlap():
    ranks = (indices(ImageLoader(PIXELS, 4, seed=0, rank=r, world_size=3), 4) for r in range(3))
    seen = [index for batches in ranks for batch in batches for index in batch]
    assert len(seen) == len(set(seen)) == 48


def test_a_rank_takes_every_so_manyth_image_of_the_one_permutation():
    whole = list(chain(*indices(ImageLoader(PIXELS, 48, seed=0), 1)))
    for rank in range(3):
        mine = list(chain(*indices(ImageLoader(PIXELS, 4, seed=0, rank=rank, world_size=3), 4)))
        assert mine == whole[rank::3]


def test_going_back_to_an_earlier_place_gives_its_batches_again():
    loader = ImageLoader(PIXELS, 8, seed=0)
    start = loader.state_dict()
    first = indices(loader, 14)  # into the third epoch
    loader.load_state_dict(start)
    assert indices(loader, 14) == first


def test_batches_are_floats_between_minus_one_and_one():
    batch = next(ImageLoader(PIXELS * 5, 50, seed=0))
    assert batch.dtype == torch.float32
    assert batch.min() == -1 and batch.max() == 245 / 127.5 - 1


@pytest.mark.parametrize("batch_size", [0, -1, 51])
def test_a_batch_must_fit_into_the_data(batch_size):
    with pytest.raises(UserError, match=f"between 1 and the 50 images: got {batch_size}"):
        ImageLoader(PIXELS, batch_size, seed=0)
    with pytest.raises(UserError, match="the 25 images"):
        ImageLoader(PIXELS, 26, seed=0, world_size=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU, and GANNORM_TEST_GPU=1")
@pytest.mark.parametrize("fits", [True, False])
def test_the_batches_are_the_same_on_a_gpu(fits, monkeypatch):
    monkeypatch.setattr("gannorm.data.loader._fits", lambda *_: fits)
    there = ImageLoader(PIXELS, 8, seed=0, device="cuda")
    assert next(there).device.type == "cuda"
    assert indices(there, 20) == indices(ImageLoader(PIXELS, 8, seed=0, start=1), 20)
