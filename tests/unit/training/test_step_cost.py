"""What a step costs is arithmetic that the networks of the sizes confirm."""

import pytest
import torch

import tiny_targets
from neumeta_hf import NeuMetaConfig, NeuMetaModel
from neumeta_hf.evaluation import count_macs, count_parameters
from neumeta_hf.training.recipe import LoopRecipe, OptimizerRecipe
from neumeta_hf.training.sampling import SizeSampler
from neumeta_hf.training.step_cost import estimate_step


def estimate(name, widths, *, depths=(1.0,), optimizer="adamw", ema=None, distills=False, **options):
    model = NeuMetaModel(NeuMetaConfig(target_config=tiny_targets.TARGETS[name](), normalization="keep"))
    options = {"sampler": "uniform", "num_random": 1, **options}
    groups = dict.fromkeys(model.width_groups, False)
    sampler = SizeSampler(widths, depths=depths, groups=groups, is_possible=model.has_size, seed=0, **options)
    loop = LoopRecipe(optimizer=OptimizerRecipe(name=optimizer), ema_decay=ema)
    return model, estimate_step(model, sampler, loop, distills=distills)


def test_full_size_alone_is_a_plain_step_and_a_teacher_a_third_more():
    _, alone = estimate("lenet", [1.0])
    _, taught = estimate("lenet", [1.0], distills=True)
    assert (alone.num_sizes, alone.plain_steps) == (1, pytest.approx(1))
    assert taught.plain_steps == pytest.approx(4 / 3)


# Convolutions are exact; products of attention go with the weights, which are fewer than they.
@pytest.mark.parametrize(
    ("name", "error"), [("cifar_resnet", 1e-9), ("mobilenet_v2", 1e-9), ("autoencoder_tiny", 1e-9), ("vit", 0.05)]
)
def test_a_narrow_size_costs_what_its_network_counts_and_nothing_is_drawn(name, error):
    torch.manual_seed(0)
    model, cost = estimate(name, [0.5])
    drawn = torch.rand(3)
    torch.manual_seed(0)
    NeuMetaModel(NeuMetaConfig(target_config=tiny_targets.TARGETS[name](), normalization="keep"))
    assert torch.equal(torch.rand(3), drawn)  # a run draws what it did before it said its cost
    family, config = model.target_family, model.config.target_config
    half, full = (
        count_macs(family.empty(at), family.example_batch(at), family=family)
        for at in (model.target_config_at(0.5), config)
    )
    assert cost.plain_steps == pytest.approx(half / full, abs=error)


def test_sizes_of_a_step_add_up_and_blocks_that_are_left_out_cost_nothing():
    _, sandwich = estimate("vit", [0.5, 1.0], sampler="sandwich", turns=[1.0, 0.5], num_random=0, num_per_group=1)
    _, half = estimate("vit", [0.5])
    assert sandwich.num_sizes == 3
    # Half width at every step, full and half in turn, and one that lies between.
    assert 2 * half.plain_steps + 0.5 < sandwich.plain_steps + half.plain_steps / 2 + 1e-9 < 3.5
    _, shallow = estimate("vit", [1.0], depths=[0.5])
    assert 0.4 < shallow.plain_steps < 0.7


def test_memory_is_of_all_that_training_keeps_of_a_weight():
    model, adamw = estimate("lenet", [1.0])
    _, sgd = estimate("lenet", [1.0], optimizer="sgd")
    _, average = estimate("lenet", [1.0], ema=0.9)
    assert adamw.num_bytes - sgd.num_bytes == average.num_bytes - adamw.num_bytes == 4 * count_parameters(model)
    assert adamw.num_bytes > 4 * 4 * count_parameters(model)
