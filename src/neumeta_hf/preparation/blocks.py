"""Which blocks of a network matter least: in what order a size leaves them out."""

import torch
from torch import nn

from neumeta_hf.batches import Inputs
from neumeta_hf.building import fill
from neumeta_hf.preparation.comparison import model_outputs
from neumeta_hf.space import SizeSpace
from neumeta_hf.targets import config_of, find_target


@torch.no_grad()
def rank_blocks(network: nn.Module, space: SizeSpace, batch: Inputs) -> dict[str, list[int]]:
    """Rank the blocks that a size may leave out by how much the output changes without each.

    Args:
        network: The reference, in evaluation mode; unchanged.
        space: Its sizes.
        batch: What it takes; a few hundred samples as in training.

    Returns:
        Stack to the numbers of its blocks but the fixed ones, the one that matters most first.
    """
    config, state = config_of(network), network.state_dict()
    family = find_target(config)
    expected = model_outputs(family.forward(network, batch))
    ranking = {}
    for name, stack in space.depths.items():
        changes = {}
        for number in stack.ranking:
            without = space.with_ranking({name: [*(other for other in stack.ranking if other != number), number]})
            size = without.size(depth={name: stack.full - 1})
            shallow = family.empty(family.config_at(config, size))
            fill(shallow, {named: state[tensor] for tensor, named in without.names(size).items()})
            found = model_outputs(family.forward(shallow.eval(), batch))
            changes[number] = sum((a - b).float().square().mean().item() for a, b in zip(expected, found, strict=True))
        ranking[name] = sorted(changes, key=lambda number: (-changes[number], number))
    return ranking
