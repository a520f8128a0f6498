"""Hypernetworks: maps from the coordinates of weights to their values. Adding one is adding a file here."""

from neumeta_hf.hypernetworks.base import (
    Hypernetwork,
    build_hypernetwork,
    complete_options,
    list_hypernetworks,
    register_hypernetwork,
)
from neumeta_hf.hypernetworks.field import Field
from neumeta_hf.hypernetworks.grid import Grid
from neumeta_hf.hypernetworks.inr import INR

__all__ = [
    "INR",
    "Field",
    "Grid",
    "Hypernetwork",
    "build_hypernetwork",
    "complete_options",
    "list_hypernetworks",
    "register_hypernetwork",
]
