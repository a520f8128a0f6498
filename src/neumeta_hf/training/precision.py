"""Which precision a run computes in: bf16 helps only where the hardware multiplies in it."""

import logging
from typing import Literal

import torch

Precision = Literal["no", "bf16"]

logger = logging.getLogger(__name__)


def has_native_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 in hardware.

    Args:
        device: A GPU of NVIDIA or AMD, or a CPU; others are taken as unable.

    Returns:
        False also for a CPU whose torch cannot tell. Emulation does not count: on a CPU without AVX-512 a training
        step in bf16 takes many times as long as in full precision.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def choose_precision(asked: Literal["no", "bf16", "auto"], device: torch.device) -> Precision:
    """Choose the precision of a run's training steps.

    Args:
        asked: Precision of the recipe; "auto" is bf16 where the device has it.
        device: Device of this process.

    Returns:
        What Accelerate is told. A bf16 that was asked for by name is kept, with a warning where it is emulated.
    """
    native = has_native_bf16(device)
    if asked == "auto":
        logger.info("Training in %s.", "bf16" if native else "full precision")
        return "bf16" if native else "no"
    if asked == "bf16" and not native:
        logger.warning(
            "mixed_precision=bf16: this %s has no bf16 instructions, and emulating them takes many times as long as "
            "full precision. mixed_precision=auto takes bf16 only where it is fast.",
            device.type.upper(),
        )
    return asked
