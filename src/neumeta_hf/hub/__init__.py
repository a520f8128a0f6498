"""Sharing families and morphs on the Hub: cards and their facts, and pushing. Knows no network's inside."""

from neumeta_hf.hub.card import FamilyFacts
from neumeta_hf.hub.sharing import MorphOrigin, push_family, push_morph

__all__ = ["FamilyFacts", "MorphOrigin", "push_family", "push_morph"]
