"""Sharing families and morphs on the Hub: cards and their facts, and pushing. Knows no network's inside."""

from neumeta_hf.checkpoints import PROCESSOR
from neumeta_hf.hub.family_card import FamilyFacts
from neumeta_hf.hub.preprocessors import TOKENIZER
from neumeta_hf.hub.push import PushPlan
from neumeta_hf.hub.run_files import find_run_file, read_training
from neumeta_hf.hub.sharing import push_family, push_morph, save_morph
from neumeta_hf.hub.space import push_space

__all__ = [
    "PROCESSOR",
    "TOKENIZER",
    "FamilyFacts",
    "PushPlan",
    "find_run_file",
    "push_family",
    "push_morph",
    "push_space",
    "read_training",
    "save_morph",
]
