"""Training: recipes, the sizes of a step, losses, the loop, and a whole run."""

from neumeta_hf.training.layout import CpuConvolutions, to_channels_last
from neumeta_hf.training.objectives import NeuMetaObjective, ReferenceObjective, fit_to_reference
from neumeta_hf.training.precision import choose_precision
from neumeta_hf.training.recipe import LoopRecipe, Recipe, load_recipe, recipe_from_dict
from neumeta_hf.training.reference import load_target, start_target, task_of
from neumeta_hf.training.run import train
from neumeta_hf.training.sampling import SizeSampler, make_sampler, training_widths
from neumeta_hf.training.statistics import calibration_batches
from neumeta_hf.training.synthesis import synthesize_images

__all__ = [
    "CpuConvolutions",
    "LoopRecipe",
    "NeuMetaObjective",
    "Recipe",
    "ReferenceObjective",
    "SizeSampler",
    "calibration_batches",
    "choose_precision",
    "fit_to_reference",
    "load_recipe",
    "load_target",
    "make_sampler",
    "recipe_from_dict",
    "start_target",
    "synthesize_images",
    "task_of",
    "to_channels_last",
    "train",
    "training_widths",
]
