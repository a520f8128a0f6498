"""What is checked of a checkpoint before it is trusted: its files, its weights, its sizes. Knows no network."""

from neumeta_hf.checkpoints.configs import check_numbers, forget_origin, without_origin
from neumeta_hf.checkpoints.held import HeldWeights, limit_building
from neumeta_hf.checkpoints.opening import PROCESSOR, Checkpoint, open_checkpoint, open_weights
from neumeta_hf.checkpoints.source import explain_loading_errors, is_hub_name
from neumeta_hf.checkpoints.weights import (
    DIGEST_FILE,
    Fingerprint,
    check_keys,
    check_loaded,
    check_weights,
    save_network,
    weights_digest,
)

__all__ = [
    "DIGEST_FILE",
    "PROCESSOR",
    "Checkpoint",
    "Fingerprint",
    "HeldWeights",
    "check_keys",
    "check_loaded",
    "check_numbers",
    "check_weights",
    "explain_loading_errors",
    "forget_origin",
    "is_hub_name",
    "limit_building",
    "open_checkpoint",
    "open_weights",
    "save_network",
    "weights_digest",
    "without_origin",
]
