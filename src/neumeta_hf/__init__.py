"""One trained network turned into a family: a hypernetwork learns the weight manifold, `morph` hands back any size.

Public names are loaded when they are first used: `import neumeta_hf` alone imports neither torch nor datasets. It also
makes sure that transformers' Auto classes know NeuMeta checkpoints as soon as they exist.
"""

import importlib
from typing import TYPE_CHECKING, Any

from neumeta_hf._auto_classes import register_with_auto_classes

if TYPE_CHECKING:
    from neumeta_hf.calibration import calibrate
    from neumeta_hf.configuration_neumeta import MorphConfig, NeuMetaConfig
    from neumeta_hf.data import DataConfig, load_data, load_image_data
    from neumeta_hf.errors import NeuMetaError
    from neumeta_hf.evaluation import draw_networks, find_width, parse_widths, sweep
    from neumeta_hf.family_sizes import SizeWarning
    from neumeta_hf.hypernetworks import Hypernetwork, list_hypernetworks, register_hypernetwork
    from neumeta_hf.modeling_neumeta import NeuMetaModel
    from neumeta_hf.modeling_tasks import (
        NeuMetaForCausalLM,
        NeuMetaForImageClassification,
        NeuMetaForImageGeneration,
        NeuMetaForMaskedLM,
        NeuMetaForSemanticSegmentation,
        NeuMetaForSentenceEmbedding,
    )
    from neumeta_hf.preparation import PreparationReport, prepare
    from neumeta_hf.shipped import example
    from neumeta_hf.targets import TargetFamily, find_target, list_targets, load_network, register_target
    from neumeta_hf.tasks import Task, register_task
    from neumeta_hf.training import Recipe, load_recipe, train

_HOMES = {
    "DataConfig": "data",
    "Hypernetwork": "hypernetworks",
    "MorphConfig": "configuration_neumeta",
    "NeuMetaConfig": "configuration_neumeta",
    "NeuMetaError": "errors",
    "NeuMetaForCausalLM": "modeling_tasks",
    "NeuMetaForImageClassification": "modeling_tasks",
    "NeuMetaForImageGeneration": "modeling_tasks",
    "NeuMetaForMaskedLM": "modeling_tasks",
    "NeuMetaForSemanticSegmentation": "modeling_tasks",
    "NeuMetaForSentenceEmbedding": "modeling_tasks",
    "NeuMetaModel": "modeling_neumeta",
    "PreparationReport": "preparation",
    "Recipe": "training",
    "SizeWarning": "family_sizes",
    "TargetFamily": "targets",
    "Task": "tasks",
    "calibrate": "calibration",
    "draw_networks": "evaluation",
    "example": "shipped",
    "find_target": "targets",
    "find_width": "evaluation",
    "list_hypernetworks": "hypernetworks",
    "list_targets": "targets",
    "load_data": "data",
    "load_image_data": "data",
    "load_network": "targets",
    "load_recipe": "training",
    "parse_widths": "evaluation",
    "prepare": "preparation",
    "register_hypernetwork": "hypernetworks",
    "register_target": "targets",
    "register_task": "tasks",
    "sweep": "evaluation",
    "train": "training",
}

__all__ = [
    "DataConfig",
    "Hypernetwork",
    "MorphConfig",
    "NeuMetaConfig",
    "NeuMetaError",
    "NeuMetaForCausalLM",
    "NeuMetaForImageClassification",
    "NeuMetaForImageGeneration",
    "NeuMetaForMaskedLM",
    "NeuMetaForSemanticSegmentation",
    "NeuMetaForSentenceEmbedding",
    "NeuMetaModel",
    "PreparationReport",
    "Recipe",
    "SizeWarning",
    "TargetFamily",
    "Task",
    "calibrate",
    "draw_networks",
    "example",
    "find_target",
    "find_width",
    "list_hypernetworks",
    "list_targets",
    "load_data",
    "load_image_data",
    "load_network",
    "load_recipe",
    "parse_widths",
    "prepare",
    "register_hypernetwork",
    "register_target",
    "register_task",
    "sweep",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("neumeta_hf")
    if name not in _HOMES:
        raise AttributeError(f"module 'neumeta_hf' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"neumeta_hf.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_with_auto_classes()
