import math

import pytest
import torch
from torch import nn

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
    parameter = nn.Parameter(torch.zeros(1))
    sgd = build_optimizer([parameter], OptimizerRecipe(name="sgd", learning_rate=0.3, weight_decay=0.1, momentum=0.8))
    group = sgd.param_groups[0]
    assert isinstance(sgd, torch.optim.SGD)
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (0.3, 0.1, 0.8, True)
    assert build_optimizer([parameter], OptimizerRecipe(name="sgd", momentum=0.0)).param_groups[0]["nesterov"] is False
    adamw = build_optimizer([parameter], OptimizerRecipe(name="adamw", learning_rate=0.3, weight_decay=0.1))
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.param_groups[0]["lr"], adamw.param_groups[0]["weight_decay"]) == (0.3, 0.1)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parameters_that_need_no_gradient_are_left_out(name):
    frozen, free = nn.Parameter(torch.zeros(1), requires_grad=False), nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer([frozen, free], OptimizerRecipe(name=name))
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(free)]
