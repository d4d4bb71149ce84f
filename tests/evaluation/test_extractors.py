"""Extractors by name: weights are verified before they are loaded, and a mistake is one line."""

import functools
import hashlib
import os
import pickle
import urllib.error
import warnings

import pytest
import torch
import torch_fidelity
from known_images import Pixels, Replay, images_of
from torch import nn
from torch_fidelity import feature_extractor_clip
from torch_fidelity.feature_extractor_clip import VisionTransformer
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gannorm.errors import UserError
from gannorm.evaluation import Evaluator, build_extractor, evaluate
from gannorm.evaluation.extractors import INCEPTION, default_extractor

COLOUR = images_of(
    torch.randint(0, 256, (8, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8), "colour"
)


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A weight file of Inception's shape with random content: its scores mean nothing, its path is the real one."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        module = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
        patch.setattr(module, lambda *a, **k: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **k: None)
        model = FeatureExtractorInceptionV3(INCEPTION, ["2048"])
    file = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(model.state_dict(), file)
    return file


@pytest.mark.slow
def test_inception_scores_from_a_weight_file_have_the_bits_of_torch_fidelity(inception_weights, monkeypatch):
    # 64 of Inception's features instead of 2048, for the linear algebra's sake: the path is the same.
    layer = staticmethod(lambda metric: "logits_unbiased" if metric == "isc" else "64")
    monkeypatch.setattr(FeatureExtractorInceptionV3, "get_default_feature_layer_for_metric", layer)
    monkeypatch.setattr("torch_fidelity.utils.multiprocessing.cpu_count", lambda: 0)  # its loader, without workers
    extractor = build_extractor(INCEPTION, COLOUR, weights=inception_weights, device="cpu")
    assert extractor.weights_sha256 == hashlib.sha256(inception_weights.read_bytes()).hexdigest()
    with pytest.warns(UserWarning, match="8 images, 64 features"):
        evaluator = Evaluator(COLOUR, extractor=extractor, splits=2)
    fakes = COLOUR.pixels.flip(0).roll(1, dims=3)
    found = evaluator.score(Replay(fakes))
    expected = torch_fidelity.calculate_metrics(
        input1=Pixels(fakes),
        input2=Pixels(COLOUR.pixels),
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(inception_weights),
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        isc_splits=2,
        kid_subset_size=4,
        cuda=False,
        verbose=False,
    )
    assert found.fid == expected["frechet_inception_distance"]
    assert found.inception_score == expected["inception_score_mean"]
    assert found.kid == expected["kernel_inception_distance_mean"]
    assert (found.precision, found.recall) == (expected["precision"], expected["recall"])
    assert found.protocol["extractor"] == INCEPTION


def test_colour_images_default_to_inception_and_others_to_the_in_domain_classifier(digits):
    assert default_extractor(COLOUR) == INCEPTION
    assert default_extractor(digits) == "in_domain"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        UserError, match=r"unknown extractor 'inception': .*choose from in_domain, inception-v3-compat"
    ) as e:
        build_extractor("inception", COLOUR)
    assert all(name in str(e.value) for name in (INCEPTION, "vgg16", "pass_through"))


def test_images_that_an_extractor_cannot_take_are_named(digits, inception_weights):
    with pytest.raises(UserError, match=r"cannot take digits images of \(1, 8, 8\).*choose another extractor"):
        build_extractor(INCEPTION, digits, weights=inception_weights, device="cpu")


def test_without_network_or_weights_the_line_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise urllib.error.URLError(OSError("no route to host"))

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        UserError, match=r"no route to host\); put the file from https://.*6726825d\.pth at .*6726825d\.pth"
    ):
        build_extractor(INCEPTION, COLOUR, device="cpu")
    monkeypatch.setattr("torch_fidelity.utils_torchvision.torchvision.models.vgg16", offline)
    with pytest.raises(UserError, match="'vgg16' needs its weights"):
        build_extractor("vgg16", COLOUR, device="cpu")


def test_a_damaged_file_in_the_place_of_inception_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"weight": torch.zeros(2)}, folder / "weights-inception-2015-12-05-6726825d.pth")
    with pytest.raises(UserError, match="must begin with 6726825d"):
        build_extractor(INCEPTION, COLOUR, device="cpu")


class Exploit:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_weight_file_runs_no_code(tmp_path):
    file, trace = tmp_path / "weights.pth", tmp_path / "trace"
    file.write_bytes(pickle.dumps(Exploit(trace)))
    with pytest.raises(UserError, match="must hold tensors alone"):
        build_extractor(INCEPTION, COLOUR, weights=file, device="cpu")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(UserError, match=f"must be {'ab' * 32}: it is {digest}"):
        build_extractor(INCEPTION, COLOUR, weights=file, sha256="ab" * 32, device="cpu")
    for part in (digest[:8], digest[:63], "not-hex-digits", digest + "0"):  # anyone can choose a file's first digits
        with pytest.raises(UserError, match="must be 64 hex digits"):
            build_extractor(INCEPTION, COLOUR, weights=file, sha256=part, device="cpu")
    assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists()  # the file would have


def test_a_file_of_another_shape_or_none_is_one_line(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth must hold the weights of inception-v3-compat"):
        build_extractor(INCEPTION, COLOUR, weights=tmp_path / "other.pth", device="cpu")
    with pytest.raises(UserError, match="No such file"):
        build_extractor(INCEPTION, COLOUR, weights=tmp_path / "none.pth", device="cpu")


def test_an_extractor_without_weights_is_known_by_its_source(monkeypatch):
    digest = build_extractor("pass_through", COLOUR, device="cpu").weights_sha256
    assert build_extractor("pass_through", COLOUR, device="cpu").weights_sha256 == digest
    monkeypatch.setattr("inspect.getsource", lambda cls: "class PassThrough: ...")
    assert build_extractor("pass_through", COLOUR, device="cpu").weights_sha256 != digest


def test_a_layer_that_cannot_take_the_images_is_one_line(monkeypatch):
    def forward(*_):
        raise RuntimeError("Given groups=1, expected input to have 3 channels")

    monkeypatch.setattr(type(build_extractor("pass_through", COLOUR, device="cpu").module), "forward", forward)
    with pytest.raises(UserError, match=r"'pass_through' cannot take colour images of \(3, 8, 8\): RuntimeError"):
        build_extractor("pass_through", COLOUR, device="cpu")


# -- CLIP and DINOv2, with networks as small as their loaders take --------------------------------------------------


class Clip(nn.Module):
    """The names and shapes of a CLIP archive: a vision transformer of one block, and what is read of the text half."""

    def __init__(self):
        super().__init__()
        self.visual = VisionTransformer(8, 4, 64, 1, 1, 6)
        self.text_projection = nn.Parameter(torch.zeros(3, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on tracing
        torch.jit.trace(Clip().half(), torch.zeros(1)).save(str(file))
    return file


def test_an_archive_of_clip_is_trusted_by_its_whole_digest_alone(clip_weights, monkeypatch):
    build = functools.partial(build_extractor, "clip-vit-b-32", COLOUR, weights=clip_weights, device="cpu")
    with pytest.raises(UserError, match=r"must hold tensors alone.*give its whole sha256"):
        build()
    digest = hashlib.sha256(clip_weights.read_bytes()).hexdigest()
    extractor = build(sha256=digest)
    assert extractor.weights_sha256 == digest and not extractor.classifies
    monkeypatch.setitem(feature_extractor_clip.MODEL_METADATA, "clip-vit-b-32", {"hash": digest, "filename": ""})
    assert build().weights_sha256 == digest  # as OpenAI published it


def test_the_kernel_of_cmmd_scores_clip_features(clip_weights):
    digest = hashlib.sha256(clip_weights.read_bytes()).hexdigest()
    pixels = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    scores = evaluate(
        pixels // 4,
        images_of(pixels),
        extractor="clip-vit-b-32",
        weights=clip_weights,
        sha256=digest,
        kid_kernel="rbf",
        device="cpu",
        splits=1,
    )
    assert scores.inception_score is None and scores.protocol["kid_kernel"] == "rbf"
    assert scores.kid > 3 * scores.kid_std > 0  # darker images lie apart


@pytest.fixture
def hub(monkeypatch):
    """DINOv2's hub, with a linear map in the place of its network."""
    asked = []

    def load(repository, name, pretrained=True):
        asked.append((repository, name, pretrained))
        torch.manual_seed(0 if pretrained else 1)
        return nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 5))

    monkeypatch.setattr(torch.hub, "load", load)
    return asked


def test_dinov2_says_that_it_runs_downloaded_code(hub):
    with pytest.warns(UserWarning, match="dinov2-vit-s-14 runs code that torch.hub downloads"):
        extractor = build_extractor("dinov2-vit-s-14", COLOUR, device="cpu")
    assert hub == [("facebookresearch/dinov2", "dinov2_vits14", True)] and not extractor.classifies


@pytest.mark.filterwarnings("ignore:dinov2")
def test_dinov2_takes_its_weights_from_a_file(hub, tmp_path):
    file, load = tmp_path / "dino.pth", torch.hub.load
    torch.save(load("", "").state_dict(), file)
    hub.clear()
    extractor = build_extractor("dinov2-vit-s-14", COLOUR, weights=file, device="cpu")
    assert [pretrained for *_, pretrained in hub] == [False] and torch.hub.load is load
    assert torch.equal(extractor.module.model[2].weight, load("", "")[2].weight)
    assert extractor.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match="must hold the weights of dinov2-vit-s-14"):
        build_extractor("dinov2-vit-s-14", COLOUR, weights=file, device="cpu")


@pytest.mark.filterwarnings("ignore:dinov2")
def test_dinov2_without_a_network_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError(OSError("no route to host"))

    monkeypatch.setattr(torch.hub, "load", offline)
    with pytest.raises(UserError, match=r"no route to host\); the code needs the network once"):
        build_extractor("dinov2-vit-l-14", COLOUR, device="cpu")
