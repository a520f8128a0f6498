"""Sharing families and morphs on the Hub: cards and their facts, and pushing. Knows no network's inside."""

from neumeta_hf.hub.card import FamilyFacts, MorphFacts, family_card, is_hub_id, merge_card, morph_card
from neumeta_hf.hub.push import explain_hub_errors, push_folder
from neumeta_hf.hub.sharing import MorphOrigin, morph_facts, push_family, push_morph, save_morph

__all__ = [
    "FamilyFacts",
    "MorphFacts",
    "MorphOrigin",
    "explain_hub_errors",
    "family_card",
    "is_hub_id",
    "merge_card",
    "morph_card",
    "morph_facts",
    "push_family",
    "push_folder",
    "push_morph",
    "save_morph",
]
