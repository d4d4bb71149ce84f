"""Small members of public packages, built without weights, and which of their layers couple: known from the code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Member:
    """One network of a package, and what is known of it."""

    package: str
    name: str
    make: Callable[[], Any]  # the network, or a pair of it and a function that calls it
    x: Callable[[], Any]
    options: dict[str, Any] = field(default_factory=dict)  # of the probes
    train: list[str] | None = None  # the layers that couple in training mode; None: the batch normalizers
    evaluate: list[str] = field(default_factory=list)
    judged: str = ""  # the part of the network that the judged output comes from
    remark: str = ""


def members() -> Iterator[Member]:
    """Every network, built when it is asked for: a package that is missing costs its own rows alone."""
    import torch

    def images(n: int = 4, channels: int = 3, size: int = 32, dims: int = 2) -> Callable[[], Any]:
        return lambda: torch.randn(n, channels, *(size,) * dims)

    def tokens(n: int = 4, length: int = 8, words: int = 50) -> Callable[[], Any]:
        return lambda: torch.randint(words, (n, length))

    # -- torchvision ----------------------------------------------------------------------------------------------
    import torchvision.models as tv

    for name in (
        "resnet18",
        "densenet121",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "mnasnet0_5",
    ):
        yield Member("torchvision", name, lambda n=name: tv.get_model(n, weights=None, num_classes=4), images())
    for name in ("efficientnet_b0", "regnet_y_400mf", "convnext_tiny", "swin_t", "squeezenet1_1"):
        yield Member("torchvision", name, lambda n=name: tv.get_model(n, weights=None, num_classes=4), images())
    vit = lambda: tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=4)  # noqa: E731
    yield Member("torchvision", "VisionTransformer", vit, images(), remark="its head is zero-initialized")
    fcn = lambda: tv.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=2)  # noqa: E731
    yield Member("torchvision", "fcn_resnet50", fcn, images(4), {"output": "out"}, remark="a dictionary")
    yield Member("torchvision", "r3d_18", lambda: tv.video.r3d_18(num_classes=4), images(4, 3, 16, 3))

    # -- timm -----------------------------------------------------------------------------------------------------
    def timm_model(name: str, **options: Any) -> Callable[[], Any]:
        import timm

        return lambda: timm.create_model(name, num_classes=4, **options)

    yield Member(
        "timm",
        "levit_128s",
        timm_model("levit_128s", img_size=64),
        images(size=64),
        remark="BatchNorm1d on (N·T, C)",
    )
    yield Member("timm", "resnet10t", timm_model("resnet10t"), images(size=64))
    yield Member("timm", "vit_tiny", timm_model("vit_tiny_patch16_224", img_size=32), images())
    yield Member("timm", "poolformer_s12", timm_model("poolformer_s12"), images(size=64), remark="GroupNorm")
    yield Member("timm", "nf_regnet_b0", timm_model("nf_regnet_b0"), images(size=64), remark="no normalizer")
    yield Member("timm", "resnetv2_50d_evos", timm_model("resnetv2_50d_evos"), images(size=64), remark="EvoNorm-S0")
    yield Member("timm", "resnetv2_50d_frn", timm_model("resnetv2_50d_frn"), images(size=64), remark="FRN")
    yield Member("timm", "mixer_s32", timm_model("mixer_s32_224", img_size=64), images(size=64))
    yield Member("timm", "ghostnet_100", timm_model("ghostnet_100"), images(size=64))

    # -- transformers ---------------------------------------------------------------------------------------------
    def hugging(model: str, config: str, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            import transformers

            return getattr(transformers, model)(getattr(transformers, config)(**options))

        return make

    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    yield Member(
        "transformers",
        "BertForSequenceClassification",
        hugging("BertForSequenceClassification", "BertConfig", vocab_size=50, **small),
        tokens(),
        remark="integer tokens, by embeddings",
    )
    vit_options = {"image_size": 32, "patch_size": 8, **small}
    yield Member(
        "transformers",
        "ViTForImageClassification",
        hugging("ViTForImageClassification", "ViTConfig", **vit_options),
        images(),
    )
    yield Member(
        "transformers",
        "ResNetForImageClassification",
        hugging(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
        ),
        images(),
    )
    yield Member(
        "transformers",
        "MixtralForCausalLM",
        hugging(
            "MixtralForCausalLM",
            "MixtralConfig",
            vocab_size=50,
            num_key_value_heads=2,
            num_local_experts=4,
            use_cache=False,
            **small,
        ),
        tokens(),
        {"output": "logits"},
        remark="experts: rows of changing samples",
    )
    yield Member(
        "transformers",
        "LlamaForSequenceClassification",
        hugging(
            "LlamaForSequenceClassification",
            "LlamaConfig",
            vocab_size=50,
            num_key_value_heads=2,
            pad_token_id=0,
            use_cache=False,
            **small,
        ),
        tokens(),
        {"output": "logits"},
    )

    # -- diffusers ------------------------------------------------------------------------------------------------
    def diffusing(model: str, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            import diffusers

            return getattr(diffusers, model)(**options)

        return make

    blocks = {"block_out_channels": (8, 16), "norm_num_groups": 4}
    down, up = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
    yield Member(
        "diffusers",
        "AutoencoderKL",
        diffusing("AutoencoderKL", down_block_types=down, up_block_types=up, **blocks),
        images(),
    )
    yield Member(
        "diffusers",
        "VQModel",
        diffusing("VQModel", down_block_types=down, up_block_types=up, **blocks),
        images(),
        {"output": "sample"},
        remark="a straight-through quantizer",
    )
    yield Member(
        "diffusers",
        "AutoencoderTiny",
        diffusing(
            "AutoencoderTiny",
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        images(),
    )

    def unet() -> Any:
        net = diffusing(
            "UNet2DModel",
            sample_size=32,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
            **blocks,
        )()
        return net, lambda x: net(x, 10)

    yield Member("diffusers", "UNet2DModel", unet, images(), remark="through a function")

    # -- monai ----------------------------------------------------------------------------------------------------
    def medical(model: str, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            import monai.networks.nets as nets

            return getattr(nets, model)(**options)

        return make

    patch = {"spatial_dims": 2, "channels": 8, "in_channels": 3, "num_layers_d": 2}
    yield Member(
        "monai",
        "PatchDiscriminator",
        medical("PatchDiscriminator", **patch),
        images(size=64),
        {"output": -1},
        remark="features first",
    )
    yield Member(
        "monai",
        "MultiScalePatchDiscriminator",
        medical("MultiScalePatchDiscriminator", num_d=2, minimum_size_im=64, **patch),
        images(size=64),
        {"output": (0, 0)},
        remark="nested lists; the layers of the scale that is judged",
        judged="discriminator_0",
    )
    shape = {"in_shape": (1, 32, 32), "channels": (4, 8), "strides": (2, 2)}
    yield Member(
        "monai",
        "Discriminator",
        medical("Discriminator", **shape),
        images(channels=1),
        remark="instance normalization",
    )
    yield Member("monai", "Critic", medical("Critic", **shape), images(channels=1))
    channels = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": (4, 8), "strides": (2,)}
    yield Member("monai", "UNet with batch norm", medical("UNet", norm="batch", **channels), images(channels=1))
    yield Member("monai", "UNet", medical("UNet", **channels), images(channels=1))
    dense = {
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": 2,
        "init_features": 8,
        "growth_rate": 4,
        "block_config": (2, 2),
    }
    yield Member("monai", "DenseNet, 3-D", medical("DenseNet", **dense), images(channels=1, size=16, dims=3))

    # -- GANs -----------------------------------------------------------------------------------------------------
    def torchgan(model: str, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            import torchgan.models

            return getattr(torchgan.models, model)(**options)

        return make

    yield Member(
        "torchgan",
        "DCGANDiscriminator",
        torchgan("DCGANDiscriminator", in_size=32, step_channels=8),
        images(8),
    )
    yield Member(
        "torchgan",
        "AutoEncodingDiscriminator",
        torchgan("AutoEncodingDiscriminator", in_size=32, step_channels=8),
        images(8),
    )

    def tabular(pack: bool) -> Callable[[], Any]:
        def make() -> Any:
            from ctgan.synthesizers.ctgan import Discriminator

            net = Discriminator(6, (16,), pac=10)
            return net, (lambda x: net(x.flatten(0, 1))) if pack else net

        return make

    yield Member(
        "ctgan",
        "Discriminator, by packs",
        tabular(True),
        lambda: torch.randn(4, 10, 6),
        remark="ten rows share a logit",
    )
    yield Member(
        "ctgan",
        "Discriminator",
        tabular(False),
        lambda: torch.randn(40, 6),
        train=["packs"],
        evaluate=["packs"],
        remark="refused, with the way to probe by packs",
    )

    # -- other ----------------------------------------------------------------------------------------------------
    def encodec() -> Any:
        from encodec.msstftd import MultiScaleSTFTDiscriminator

        return MultiScaleSTFTDiscriminator(filters=4, n_ffts=[256], hop_lengths=[64], win_lengths=[256])

    yield Member(
        "encodec",
        "MultiScaleSTFTDiscriminator",
        encodec,
        lambda: torch.randn(3, 1, 4000),
        {"output": (0, 0)},
        remark="complex spectrograms; lists of logits and features",
    )

    def quantizer() -> Any:
        from vector_quantize_pytorch import VectorQuantize

        return VectorQuantize(8, 16)

    yield Member(
        "vector-quantize-pytorch",
        "VectorQuantize",
        quantizer,
        lambda: torch.randn(4, 5, 8),
        {"output": 0},
        remark="its codebook moves in training, after the answer",
    )

    def tabnet() -> Any:
        from pytorch_tabnet.tab_network import TabNet

        return TabNet(6, 2, n_d=4, n_a=4, virtual_batch_size=4, group_attention_matrix=torch.eye(6))

    yield Member(
        "pytorch-tabnet",
        "TabNet",
        tabnet,
        lambda: torch.randn(8, 6),
        {"output": 0},
        remark="ghost batch normalization",
    )

    def segmenter() -> Any:
        import segmentation_models_pytorch as smp

        return smp.Unet("resnet18", encoder_weights=None, decoder_channels=(16, 8, 8, 4, 4))

    yield Member("segmentation-models-pytorch", "Unet", segmenter, images(size=64))

    def kornia(model: str, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            import kornia.feature

            return getattr(kornia.feature, model)(pretrained=False, **options)

        return make

    for model in ("HardNet", "SOSNet", "HyNet"):
        yield Member("kornia", model, kornia(model), images(4, 1, 32))

    def diffusion_unet() -> Any:
        from denoising_diffusion_pytorch import Unet

        net = Unet(dim=8, dim_mults=(1, 2))
        return net, lambda x: net(x, torch.zeros(len(x)))

    yield Member("denoising-diffusion-pytorch", "Unet", diffusion_unet, images())

    def vit_pytorch(module: str, model: str, **options: Any) -> Callable[[], Any]:
        def make() -> Any:
            return getattr(__import__(f"vit_pytorch.{module}", fromlist=[model]), model)(**options)

        return make

    common = {
        "image_size": 32,
        "patch_size": 8,
        "num_classes": 4,
        "dim": 16,
        "depth": 2,
        "heads": 2,
        "mlp_dim": 32,
    }
    yield Member("vit-pytorch", "ViT", vit_pytorch("vit", "ViT", **common), images())
    yield Member("vit-pytorch", "SimpleViT", vit_pytorch("simple_vit", "SimpleViT", **common), images())
    mobile = {
        "image_size": (64, 64),
        "dims": [16, 24, 32],
        "channels": [4, 4, 8, 8, 8, 8, 12, 12, 16, 16, 32],
        "num_classes": 4,
    }
    yield Member("vit-pytorch", "MobileViT", vit_pytorch("mobile_vit", "MobileViT", **mobile), images(size=64))
