"""Target families: the architectures whose weights can be generated, and their sizes."""

from typing import TYPE_CHECKING, Any

from neumeta_hf.targets.autoencoder_kl import AutoencoderKLTargetConfig
from neumeta_hf.targets.autoencoder_tiny import AutoencoderTinyTargetConfig
from neumeta_hf.targets.autoencoding import AutoencoderFamily, AutoencoderOutput
from neumeta_hf.targets.bert import (
    NeuMetaBertConfig,
    NeuMetaBertForMaskedLM,
    NeuMetaBertModel,
    NeuMetaRobertaConfig,
    NeuMetaRobertaForMaskedLM,
    NeuMetaRobertaModel,
)
from neumeta_hf.targets.cifar_resnet import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
    load_cifar_checkpoint,
)
from neumeta_hf.targets.convnext import (
    NeuMetaConvNextConfig,
    NeuMetaConvNextForImageClassification,
    NeuMetaConvNextV2Config,
    NeuMetaConvNextV2ForImageClassification,
)
from neumeta_hf.targets.image_processing import (
    GrayscaleImageProcessor,
    build_image_processor,
    build_segmentation_processor,
    load_image_processor,
)
from neumeta_hf.targets.lenet import LeNetConfig, LeNetForImageClassification
from neumeta_hf.targets.llama import (
    NeuMetaLlamaConfig,
    NeuMetaLlamaForCausalLM,
    NeuMetaMistralConfig,
    NeuMetaMistralForCausalLM,
    NeuMetaQwen2Config,
    NeuMetaQwen2ForCausalLM,
    NeuMetaQwen3Config,
    NeuMetaQwen3ForCausalLM,
)
from neumeta_hf.targets.loading import load_config
from neumeta_hf.targets.mlp_vae import MlpVaeTargetConfig
from neumeta_hf.targets.mobilenet_v2 import NeuMetaMobileNetV2Config, NeuMetaMobileNetV2ForImageClassification
from neumeta_hf.targets.registry import (
    TargetFamily,
    config_of,
    family_of,
    find_target,
    list_targets,
    load_network,
    register_target,
)
from neumeta_hf.targets.resnet import NeuMetaResNetBackbone, NeuMetaResNetConfig, NeuMetaResNetForImageClassification
from neumeta_hf.targets.segformer import NeuMetaSegformerConfig, NeuMetaSegformerForSemanticSegmentation
from neumeta_hf.targets.sizes import ratios, resize, size_of
from neumeta_hf.targets.swin import NeuMetaSwinConfig, NeuMetaSwinForImageClassification
from neumeta_hf.targets.transformer import TransformerFamily
from neumeta_hf.targets.upernet import UperNetFamily
from neumeta_hf.targets.vit import (
    NeuMetaDeiTConfig,
    NeuMetaDeiTForImageClassification,
    NeuMetaDinov2Config,
    NeuMetaDinov2ForImageClassification,
    NeuMetaDinov2WithRegistersConfig,
    NeuMetaDinov2WithRegistersForImageClassification,
    NeuMetaViTConfig,
    NeuMetaViTForImageClassification,
)

if TYPE_CHECKING:
    from neumeta_hf.targets.diffusers_networks import MlpVae, NeuMetaAutoencoderKL, NeuMetaAutoencoderTiny

__all__ = [
    "AutoencoderFamily",
    "AutoencoderKLTargetConfig",
    "AutoencoderOutput",
    "AutoencoderTinyTargetConfig",
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "GrayscaleImageProcessor",
    "LeNetConfig",
    "LeNetForImageClassification",
    "MlpVae",
    "MlpVaeTargetConfig",
    "NeuMetaAutoencoderKL",
    "NeuMetaAutoencoderTiny",
    "NeuMetaBertConfig",
    "NeuMetaBertForMaskedLM",
    "NeuMetaBertModel",
    "NeuMetaConvNextConfig",
    "NeuMetaConvNextForImageClassification",
    "NeuMetaConvNextV2Config",
    "NeuMetaConvNextV2ForImageClassification",
    "NeuMetaDeiTConfig",
    "NeuMetaDeiTForImageClassification",
    "NeuMetaDinov2Config",
    "NeuMetaDinov2ForImageClassification",
    "NeuMetaDinov2WithRegistersConfig",
    "NeuMetaDinov2WithRegistersForImageClassification",
    "NeuMetaLlamaConfig",
    "NeuMetaLlamaForCausalLM",
    "NeuMetaMistralConfig",
    "NeuMetaMistralForCausalLM",
    "NeuMetaMobileNetV2Config",
    "NeuMetaMobileNetV2ForImageClassification",
    "NeuMetaQwen2Config",
    "NeuMetaQwen2ForCausalLM",
    "NeuMetaQwen3Config",
    "NeuMetaQwen3ForCausalLM",
    "NeuMetaResNetBackbone",
    "NeuMetaResNetConfig",
    "NeuMetaResNetForImageClassification",
    "NeuMetaRobertaConfig",
    "NeuMetaRobertaForMaskedLM",
    "NeuMetaRobertaModel",
    "NeuMetaSegformerConfig",
    "NeuMetaSegformerForSemanticSegmentation",
    "NeuMetaSwinConfig",
    "NeuMetaSwinForImageClassification",
    "NeuMetaViTConfig",
    "NeuMetaViTForImageClassification",
    "TargetFamily",
    "TransformerFamily",
    "UperNetFamily",
    "build_image_processor",
    "build_segmentation_processor",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "config_of",
    "family_of",
    "find_target",
    "list_targets",
    "load_cifar_checkpoint",
    "load_config",
    "load_image_processor",
    "load_network",
    "ratios",
    "register_target",
    "resize",
    "size_of",
]


def __getattr__(name: str) -> Any:
    # Only who names one of these waits for the import of diffusers.
    if name not in ("MlpVae", "NeuMetaAutoencoderKL", "NeuMetaAutoencoderTiny"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from neumeta_hf.targets import diffusers_networks

    return getattr(diffusers_networks, name)
