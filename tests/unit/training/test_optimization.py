import math

import pytest
import torch
from torch import nn

from neumeta_hf.coordinates import make_coordinates
from neumeta_hf.errors import RecipeError
from neumeta_hf.hypernetworks import INR, Grid
from neumeta_hf.training.optimization import build_optimizer, build_schedule, learning_rate_factor
from neumeta_hf.training.recipe import OptimizerRecipe, ScheduleRecipe


def rates(total_steps, **options):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=2.0)
    schedule = build_schedule(optimizer, ScheduleRecipe(**options), total_steps=total_steps)
    found = []
    for _ in range(total_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_constant():
    assert rates(4, name="constant") == [2.0] * 4


def test_warm_up_rises_linearly_from_zero():
    found = rates(10, name="constant", warmup=0.4)
    assert found == pytest.approx([0.25, 0.75, 1.25, 1.75, 2, 2, 2, 2, 2, 2])


def test_cosine():
    assert rates(5, name="cosine") == pytest.approx([1 + math.cos(math.pi * (step + 0.5) / 5) for step in range(5)])
    found = rates(10, name="cosine", warmup=0.2)
    assert found[:2] == pytest.approx([0.5, 1.5])
    assert found[2:] == pytest.approx([1 + math.cos(math.pi * (step + 0.5) / 8) for step in range(8)])


def test_one_cycle_rises_and_falls_linearly():
    assert rates(8, name="one_cycle", warmup=0.25) == pytest.approx(
        [0.5, 1.5, *(2 * (1 - (step + 0.5) / 6) for step in range(6))]
    )


def test_multi_step_falls_at_its_milestones():
    found = rates(8, name="multi_step", milestones=[0.25, 0.75], gamma=0.5)
    assert found == pytest.approx([2, 2, 1, 1, 1, 1, 0.5, 0.5])


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "multi_step"])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
def test_factors_lie_between_zero_and_one(name, warmup):
    recipe = ScheduleRecipe(name=name, warmup=warmup)
    assert all(0 <= learning_rate_factor(progress / 50, recipe) <= 1 for progress in range(51))


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_no_step_is_wasted_on_a_rate_of_zero(name):
    assert min(rates(7, name=name, warmup=0.3)) > 0


def test_optimisers_are_what_the_recipe_says():
    module = nn.Linear(1, 1)
    sgd = build_optimizer(module, OptimizerRecipe(name="sgd", learning_rate=0.3, weight_decay=0.1, momentum=0.8))
    group = sgd.param_groups[0]
    assert isinstance(sgd, torch.optim.SGD)
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (0.3, 0.1, 0.8, True)
    assert build_optimizer(module, OptimizerRecipe(name="sgd", momentum=0.0)).param_groups[0]["nesterov"] is False
    adamw = build_optimizer(module, OptimizerRecipe(name="adamw", learning_rate=0.3, weight_decay=0.1))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parameters_that_need_no_gradient_are_left_out(name):
    frozen, free = nn.Parameter(torch.zeros(1), requires_grad=False), nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(nn.ParameterList([frozen, free]), OptimizerRecipe(name=name))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(free)]


SHAPES = {"conv": (4, 3, 3, 3), "bias": (4,)}


def train(hypernetwork, optimizer, steps):
    coordinates = list(make_coordinates(SHAPES, scale=4).values())
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([value.square().sum() + value.sum() for value in hypernetwork(coordinates)]).sum().backward()
        optimizer.step()


def make_inr():
    torch.manual_seed(0)
    inr = INR(list(make_coordinates(SHAPES, scale=4).values()), hidden_size=8, num_hidden_layers=3)
    for module in inr.modules():
        inr.initialize(module)
    return inr


MUON = OptimizerRecipe(name="muon", learning_rate=0.01, muon_learning_rate=0.05, weight_decay=0.1)


def test_muon_moves_hidden_matrices_and_adamw_the_rest():
    together, apart = make_inr(), make_inr()
    train(together, build_optimizer(together, MUON), 3)
    matrices = apart.hidden_matrices()
    others = [parameter for parameter in apart.parameters() if not any(parameter is matrix for matrix in matrices)]
    parts = [
        torch.optim.Muon(matrices, lr=0.05, weight_decay=0.1),
        torch.optim.AdamW(others, lr=0.01, weight_decay=0.1, fused=True),
    ]

    class Both:
        def zero_grad(self):
            [part.zero_grad() for part in parts]

        def step(self):
            [part.step() for part in parts]

    train(apart, Both(), 3)
    for first, second in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_schedule_drives_both_parts_of_muon():
    inr, frozen = make_inr(), make_inr()
    optimizer = build_optimizer(inr, MUON)
    schedule = build_schedule(optimizer, ScheduleRecipe(name="multi_step", milestones=[0.0], gamma=0.0), total_steps=2)
    train(inr, optimizer, 1)
    schedule.step()
    for first, second in zip(inr.parameters(), frozen.parameters(), strict=True):
        assert torch.equal(first, second)


def test_the_state_of_muon_is_restored_to_the_bit():
    whole, first, second = make_inr(), make_inr(), make_inr()
    train(whole, build_optimizer(whole, MUON), 4)
    before = build_optimizer(first, MUON)
    train(first, before, 2)
    second.load_state_dict(first.state_dict())
    after = build_optimizer(second, MUON)
    after.load_state_dict(before.state_dict())
    train(second, after, 2)
    for wanted, found in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(wanted, found)


def test_muon_without_hidden_matrices_is_refused():
    grid = Grid(list(make_coordinates(SHAPES, scale=4).values()))
    with pytest.raises(RecipeError, match="muon"):
        build_optimizer(grid, MUON)
