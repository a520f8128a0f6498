"""Text that a causal language model writes, the same for the same seed."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from neumeta_hf.errors import TargetError


def sample_tokens(
    network: nn.Module,
    prompts: Tensor,
    *,
    num_tokens: int,
    temperature: float,
    seed: int,
    end: int | Sequence[int] | None,
) -> list[list[int]]:
    """Let a network go on with prompts.

    Global random numbers are left as they were.

    Args:
        network: A causal language model with `generate`, in evaluation mode.
        prompts: int64 `[texts, tokens]`, all of one length.
        num_tokens: How many tokens are added, at most.
        temperature: Divides the logits; 0 always takes the likeliest token.
        seed: Seed of what is drawn.
        end: Token, or tokens, that a text ends with. None: texts have no end.

    Returns:
        Tokens of each text, the prompt first, up to and with the first end that was added.

    Raises:
        TargetError: The network generates no text.
    """
    model: Any = network
    if not (hasattr(model, "generate") and model.can_generate()):
        raise TargetError(f"{type(network).__name__} has no `generate`: only causal language models write text.")
    ends = [] if end is None else [end] if isinstance(end, int) else list(end)
    config = GenerationConfig(
        do_sample=temperature > 0,
        # Whatever the network's own config asks for: here it is its distribution that counts.
        temperature=temperature or 1.0,
        top_k=0,
        top_p=1.0,
        num_beams=1,
        repetition_penalty=1.0,
        max_new_tokens=num_tokens,
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
        use_cache=bool(getattr(getattr(network, "config", None), "use_cache", False)),
    )
    devices = [prompts.device] if prompts.device.type == "cuda" else []
    own, model.generation_config = model.generation_config, config  # what is left open there comes from the former
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            found = model.generate(inputs=prompts, attention_mask=torch.ones_like(prompts), generation_config=config)
    finally:
        model.generation_config = own
    return [_up_to_end(tokens, prompts.shape[1], ends) for tokens in found.tolist()]


def _up_to_end(tokens: list[int], start: int, ends: Sequence[int]) -> list[int]:
    places = [place for place in range(start, len(tokens)) if tokens[place] in ends]
    return tokens[: places[0] + 1] if places else tokens
