"""What must hold for every batch, every tree of images and every record, not only for examples that somebody chose."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from gannorm import probes
from gannorm.data import load_images
from gannorm.errors import UserError
from gannorm.rundir import RunDir

# Always the same examples: a test that fails by chance teaches to run it again.
SOME = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def network(kind: str, features: int) -> nn.Module:
    norm = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}[kind](features)
    return nn.Sequential(nn.Linear(features, features), norm, nn.Tanh(), nn.Linear(features, 1)).double()


@SOME
@given(st.integers(2, 9), st.integers(2, 6), st.integers(0, 2**31), st.floats(1e-3, 1e3))
def test_a_network_that_judges_samples_has_a_diagonal_coupling_matrix_whatever_the_batch(n, features, seed, scale):
    torch.manual_seed(seed)
    x = scale * torch.randn(n, features, dtype=torch.float64)
    coupling = probes.coupling_matrix(network("layer", features), x)
    assert coupling.shape == (n, n)
    assert torch.equal(coupling, coupling.diag().diag())
    assert probes.coupled_layers(network("layer", features), x) == []


@SOME
@given(st.integers(3, 9), st.integers(2, 6), st.integers(0, 2**31))
def test_reordering_a_batch_reorders_its_coupling_matrix(n, features, seed):
    torch.manual_seed(seed)
    f, x, order = network("batch", features), torch.randn(n, features, dtype=torch.float64), torch.randperm(n)
    coupling = probes.coupling_matrix(f, x)
    assert (coupling - coupling.diag().diag()).max() > 0  # the network does couple
    reordered = probes.coupling_matrix(f, x[order])
    # Sums over the batch are taken in another order: float64 rounding, relative to the largest entry.
    assert torch.allclose(reordered, coupling[order][:, order], rtol=0, atol=1e-9 * coupling.max().item())


@SOME
@given(st.sampled_from(["batch", "layer"]), st.integers(2, 9), st.booleans(), st.integers(0, 2**31))
def test_a_probe_leaves_every_network_as_it_was(kind, n, training, seed):
    torch.manual_seed(seed)
    f = network(kind, 3).train(training)
    before, random = {k: v.clone() for k, v in f.state_dict().items()}, torch.get_rng_state()
    probes.coupling_matrix(f, torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    assert all(torch.equal(v, before[k]) for k, v in f.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert f.training == training


NAMES = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0."), min_size=1, max_size=12)
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))
IMAGES = st.tuples(NAMES, SIZES, st.sampled_from(["RGB", "L", "P", "RGBA", "CMYK", "1"]))


@SOME
@given(st.lists(IMAGES, min_size=1, max_size=8, unique_by=lambda image: image[0].casefold()))
def test_any_tree_of_images_is_loaded_or_refused_and_its_splits_are_disjoint(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("tree")
    os.environ["GANNORM_CACHE"], before = str(folder / "cache"), os.environ.get("GANNORM_CACHE")
    try:
        root = folder / "images"
        root.mkdir()
        for name, size, mode in images:
            Image.new(mode, size).save(root / f"{name}.{'tif' if mode == 'CMYK' else 'png'}")
        found = 0
        for split in ("train", "test"):
            try:
                loaded = load_images("folder", split, image_size=4, root=root)
            except UserError as error:
                assert "\n" not in " ".join(str(error).split())
                assert min(min(size) for _, size, _ in images) < 4 or "training and for testing" in str(error)
                continue
            assert loaded.pixels.shape[1:] == (3, 4, 4)
            assert loaded.pixels.dtype == torch.uint8
            found += len(loaded)
        assert found <= len(images)
    finally:
        os.environ.pop("GANNORM_CACHE") if before is None else os.environ.update(GANNORM_CACHE=before)


VALUES = st.dictionaries(st.text(max_size=8), st.floats(), max_size=4)


@SOME
@given(st.lists(VALUES, max_size=5), st.integers(0, 200))
def test_any_record_comes_back_and_a_cut_costs_the_last_one_alone(tmp_path_factory, records, cut):
    run = RunDir(tmp_path_factory.mktemp("run"))
    for step, values in enumerate(records):
        run.append_metrics(step, values)
    whole = run.metrics()
    assert [r["step"] for r in whole] == list(range(len(records)))
    for record, values in zip(whole, records, strict=True):
        finite = {k: v for k, v in values.items() if abs(v) < float("inf")}
        assert {k: record[k] for k in finite} == finite
    file = run.path / "metrics.jsonl"
    if records:
        content = file.read_bytes()
        file.write_bytes(content[: max(0, len(content) - cut)])
        kept = run.metrics()
        assert kept == whole[: len(kept)]
        assert len(kept) >= content[: max(0, len(content) - cut)].count(b"\n")


def test_a_line_that_is_no_record_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n[]\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2 is not"):
        RunDir(tmp_path).metrics()
