"""Preparing a trained network: BatchNorm fused, channels in an order in which neighbours are alike."""

from neumeta_hf.preparation.blocks import rank_blocks
from neumeta_hf.preparation.cliques import Clique, CliqueMember, apply_order, find_cliques
from neumeta_hf.preparation.fusion import fuse_batch_norm, fuse_conv_bn, fuse_modules
from neumeta_hf.preparation.order import OrderMethod, find_order
from neumeta_hf.preparation.prepare import CliqueReport, Normalization, PreparationReport, prepare
from neumeta_hf.preparation.variation import total_variation

__all__ = [
    "Clique",
    "CliqueMember",
    "CliqueReport",
    "Normalization",
    "OrderMethod",
    "PreparationReport",
    "apply_order",
    "find_cliques",
    "find_order",
    "fuse_batch_norm",
    "fuse_conv_bn",
    "fuse_modules",
    "prepare",
    "rank_blocks",
    "total_variation",
]
