"""Configs of tiny networks of every registered target, and networks with weights that are all different."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import (
    BertConfig,
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    MobileNetV2Config,
    PreTrainedConfig,
    Qwen3Config,
    ResNetConfig,
    SegformerConfig,
    SwinConfig,
    UperNetConfig,
    ViTConfig,
)

from neumeta_hf.targets import (
    AutoencoderKLTargetConfig,
    AutoencoderTinyTargetConfig,
    CifarResNetConfig,
    LeNetConfig,
    MlpVaeTargetConfig,
    find_target,
)


def lenet(**options) -> LeNetConfig:
    return LeNetConfig(**{"hidden_channels": [4, 6, 8], "kernel_size": 3, "image_size": 8, "num_labels": 3, **options})


def cifar_resnet(**options) -> CifarResNetConfig:
    sizes = {"num_blocks": [1, 1, 2], "stage_channels": [4, 6, 8], "image_size": 8, "num_labels": 3}
    return CifarResNetConfig(**{**sizes, **options})


def stock_resnet(**options) -> ResNetConfig:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic", "num_labels": 3}
    return ResNetConfig(**{**sizes, "image_size": 32, **options})


def convnext(cls=ConvNextConfig, **options) -> PreTrainedConfig:
    sizes = {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2, "patch_size": 2}
    scale = {"layer_scale_init_value": 0.5} if cls is ConvNextConfig else {}
    return cls(**{**sizes, **scale, "image_size": 16, "num_labels": 3, **options})


def mobilenet_v2(**options) -> MobileNetV2Config:
    # With weights of no training, layers of so few channels may be dead under ReLU6.
    steps = {
        "hidden_act": "gelu",
        "depth_divisible_by": 1,
        "min_depth": 1,
        "expand_ratio": 2.0,
        "finegrained_output": False,
    }
    sizes = {"depth_multiplier": 0.25, "classifier_dropout_prob": 0.0, "image_size": 32, "num_labels": 3}
    return MobileNetV2Config(**{**steps, **sizes, **options})


def upernet(**options) -> UperNetConfig:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 1, 2], "layer_type": "basic"}
    backbone = ResNetConfig(**sizes, out_features=["stage1", "stage2", "stage3"])
    fields = {"hidden_size": 8, "pool_scales": [1, 2], "image_size": [32, 48], "num_labels": 3}
    return UperNetConfig(**{**fields, "backbone_config": backbone, "use_auxiliary_head": False, **options})


def segformer(cls=SegformerConfig, **options) -> PreTrainedConfig:
    stages = {"depths": [1, 2], "hidden_sizes": [12, 24], "num_attention_heads": [3, 6], "mlp_ratios": [2, 1]}
    steps = {"num_encoder_blocks": 2, "sr_ratios": [2, 1], "patch_sizes": [7, 3], "strides": [4, 2]}
    fields = {"decoder_hidden_size": 10, "image_size": [32, 16], "num_labels": 3}
    return cls(**{**stages, **steps, **fields, "drop_path_rate": 0.0, "initializer_range": 0.2, **options})


def swin(cls=SwinConfig, **options) -> PreTrainedConfig:
    stages = {"embed_dim": 12, "depths": [1, 3], "num_heads": [3, 6], "mlp_ratio": 2.0, "window_size": 2}
    images = {"image_size": 16, "patch_size": 2, "num_labels": 3}
    return cls(**{**stages, **images, "drop_path_rate": 0.0, "initializer_range": 0.2, **options})


def autoencoder_kl() -> AutoencoderKLTargetConfig:
    vae = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 2}
    return AutoencoderKLTargetConfig(image_size=8, num_channels=1, vae=vae)


def autoencoder_tiny() -> AutoencoderTinyTargetConfig:
    vae = {"num_encoder_blocks": [1, 1], "num_decoder_blocks": [2, 1], "latent_channels": 2}
    widths = {"encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8]}
    return AutoencoderTinyTargetConfig(image_size=16, num_channels=1, vae={**vae, **widths})


def mlp_vae() -> MlpVaeTargetConfig:
    sizes = {"encoder_hidden_channels": [16], "decoder_hidden_channels": [16], "latent_channels": 3}
    return MlpVaeTargetConfig(image_size=8, num_channels=1, **sizes)


def vit(cls=ViTConfig, **options) -> PreTrainedConfig:
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "image_size": 8, "patch_size": 4}
    mlp = {"intermediate_size": 20} if cls is ViTConfig else {"mlp_ratio": 2}
    return cls(**{**sizes, **mlp, "num_labels": 3, **options})


def llama(cls=LlamaConfig, **options) -> PreTrainedConfig:
    sizes = {"hidden_size": 18, "num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 2}
    fields = {"vocab_size": 11, "intermediate_size": 20, "head_dim": 4, "tie_word_embeddings": True}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 32}
    return cls(**{**sizes, **fields, **tokens, **options})


def bert(cls=BertConfig, **options) -> PreTrainedConfig:
    sizes = {"hidden_size": 12, "num_attention_heads": 3, "num_hidden_layers": 2, "intermediate_size": 20}
    return cls(**{**sizes, "vocab_size": 11, "max_position_embeddings": 32, **options})


TARGETS: dict[str, Callable[[], PreTrainedConfig]] = {
    "lenet": lenet,
    "lenet_batch_norm": lambda: lenet(batch_norm=True),
    "cifar_resnet": cifar_resnet,
    "cifar_resnet_identity": lambda: cifar_resnet(shortcut="identity"),
    "resnet": stock_resnet,
    "resnet_bottleneck": lambda: stock_resnet(hidden_sizes=[16, 32], layer_type="bottleneck"),
    "convnext": convnext,
    "convnextv2": lambda: convnext(ConvNextV2Config),
    "mobilenet_v2": mobilenet_v2,
    "upernet": upernet,
    "segformer": segformer,
    "swin": swin,
    "autoencoder_kl": autoencoder_kl,
    "autoencoder_tiny": autoencoder_tiny,
    "mlp_vae": mlp_vae,
    "vit": vit,
    "dinov2": lambda: vit(Dinov2WithRegistersConfig),
    "bert": bert,
    "bert_masked_lm": lambda: bert(architectures=["BertForMaskedLM"]),
    "llama": llama,
    "qwen3": lambda: llama(Qwen3Config, tie_word_embeddings=False),
}


def make_network(config: PreTrainedConfig, seed: int = 0) -> Any:
    """A network as training leaves it: no affine parameter is 1 or 0, and running statistics are of a run."""
    model = find_target(config).build(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(torch.randn(module.weight.shape, generator=generator) * (2 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.1)
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.5, 0.5, generator=generator)
            if isinstance(module, _BatchNorm):
                for tensor, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.5, 0.5),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    tensor.uniform_(low, high, generator=generator)
                module.num_batches_tracked.fill_(7)
    return model.eval()
