"""Target families: the architectures whose weights can be generated, and their sizes."""

from neumeta_hf.targets.cifar_resnet import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
    load_checkpoint,
)
from neumeta_hf.targets.image_processing import GrayscaleImageProcessor, build_image_processor
from neumeta_hf.targets.lenet import LeNetConfig, LeNetForImageClassification
from neumeta_hf.targets.registry import TargetFamily, config_of, find_target, list_targets, register_target
from neumeta_hf.targets.resnet import NeuMetaResNetConfig, NeuMetaResNetForImageClassification
from neumeta_hf.targets.sizes import ratios, resize, scale_channels

__all__ = [
    "CifarResNetConfig",
    "CifarResNetForImageClassification",
    "GrayscaleImageProcessor",
    "LeNetConfig",
    "LeNetForImageClassification",
    "NeuMetaResNetConfig",
    "NeuMetaResNetForImageClassification",
    "TargetFamily",
    "build_image_processor",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "config_of",
    "find_target",
    "list_targets",
    "load_checkpoint",
    "ratios",
    "register_target",
    "resize",
    "scale_channels",
]
