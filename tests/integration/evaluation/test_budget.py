"""Widths by budget: the one that is named fits, and no wider one does."""

import numpy as np
import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.errors import SizeError
from neumeta_hf.evaluation import count_macs, count_parameters, find_width
from neumeta_hf.evaluation.budget import uniform_widths
from neumeta_hf.modeling_neumeta import NeuMetaModel
from target_axes import num_channels


def costs(family):
    """Width to parameters and MACs of its morph."""
    images = family.target_family.example_batch(family.reference_config)["pixel_values"]
    found = {}
    for width in uniform_widths(family):
        with torch.device("meta"):
            network = family.target_family.build(family.target_config_at(width))
        found[width] = {
            "parameters": count_parameters(network),
            "macs": count_macs(network, images, family=family.target_family),
        }
    return found


@pytest.mark.parametrize("name", [("lenet", "fuse"), ("cifar_resnet", "keep"), ("resnet", "keep")], ids="-".join)
def test_the_widest_network_within_the_budget_is_found(make_case, name):
    family = make_case(*name).family()
    found = costs(family)
    assert min(found) == 0.5
    assert max(found) == 1.0
    for cost in ("parameters", "macs"):
        by_width = {width: values[cost] for width, values in found.items()}
        first, *_, last = values = sorted(set(by_width.values()))
        middle = values[len(values) // 2]
        for budget in (first, middle - 1, middle, middle + 1, last - 1, last, last + 1):
            widest = max(width for width, value in by_width.items() if value <= budget)
            assert find_width(family, budget, cost=cost) == widest


@pytest.mark.parametrize("depth", [0.5, {"stage3": 1}])
def test_the_width_is_that_of_networks_of_the_depth_asked_for(make_case, depth):
    family = make_case("cifar_resnet", "keep").family()

    def parameters_at(width):
        return count_parameters(family.skeleton_at(family.size_at(width, depth=depth)))

    widths = uniform_widths(family)
    for budget in sorted({parameters_at(width) for width in widths}):
        found = find_width(family, budget, cost="parameters", depth=depth)
        assert found == max(width for width in widths if parameters_at(width) <= budget)
        assert found == find_width(family, budget, cost=count_parameters, depth=depth)
    full = parameters_at(1.0)
    assert find_width(family, full, cost="parameters", depth=depth) == 1.0
    assert find_width(family, full, cost="parameters") < 1.0
    with pytest.raises(SizeError, match="depth"):
        find_width(family, full, depth=3)


@pytest.mark.parametrize("name", ["upernet", "autoencoder_kl", "mlp_vae"])
def test_of_other_tasks_too(networks, name):
    family = NeuMetaModel.from_reference(
        networks[name], hypernetwork={"type": "grid"}, normalization="keep", trained_widths=[0.5, 1.0]
    )
    by_width = {width: values["macs"] for width, values in costs(family).items()}
    smallest = min(by_width)
    assert find_width(family, by_width[smallest]) >= smallest
    assert find_width(family, by_width[1.0]) == 1.0


def test_every_network_of_a_uniform_width_has_a_width(lenet_case):
    family = lenet_case.family()

    def sizes(widths):
        return {tuple(num_channels(family.target_family, family.target_config_at(width)).values()) for width in widths}

    assert sizes(uniform_widths(family)) == sizes(number / 1000 for number in range(500, 1001))


def test_every_number_of_channels_has_a_width(lenet_case):
    family = lenet_case.family()
    sizes = [
        tuple(num_channels(family.target_family, family.target_config_at(width)).values())
        for width in uniform_widths(family)
    ]
    for group in range(3):
        full = sizes[-1][group]
        assert {size[group] for size in sizes} == set(range(full // 2, full + 1))


def test_a_function_is_asked_for_the_cost_of_real_networks_in_evaluation_mode(make_case):
    family = make_case("cifar_resnet", "keep").family()
    seen = []

    def seconds(network):
        assert not any(module.training for module in network.modules() if isinstance(module, _BatchNorm))
        assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
        seen.append(count_parameters(network))
        return seen[-1] / 1000

    budget = count_parameters(family.target_family.build(family.target_config_at(0.75))) / 1000
    assert find_width(family, budget, cost=seconds) == find_width(family, budget * 1000, cost="parameters")
    assert len(seen) < len(uniform_widths(family))


def test_impossible_sizes_are_passed_over(make_case):
    family = make_case("resnet_bottleneck").family(width_groups=["stage1", "stage2"], trained_widths=[0.25, 1.0])
    assert not family.has_size(0.5)  # as many channels as the stem: the shortcut between the two would vanish
    widths = uniform_widths(family)
    assert 0.5 not in widths
    assert len(widths) > 5
    with pytest.raises(SizeError, match="less than the"):
        find_width(family, 1)


def test_too_small_a_budget_names_the_smallest_cost(lenet_case):
    family = lenet_case.family()
    smallest = costs(family)[0.5]["parameters"]
    with pytest.raises(SizeError, match=rf"less than the {smallest:,g} of the smallest width, 0\.5: give more"):
        find_width(family, smallest - 1, cost="parameters")


def test_an_unknown_cost_is_refused(lenet_case):
    with pytest.raises(SizeError, match="cost='flops': give one of parameters, macs, or a function"):
        find_width(lenet_case.family(), 1, cost="flops")


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), -5, 0, "200k", None, True, [1], 10**400])
def test_a_budget_that_is_no_number_above_0_is_refused(lenet_case, budget):
    for cost in ("macs", "parameters", count_parameters):
        with pytest.raises(SizeError, match="budget=.*give a finite number above 0"):
            find_width(lenet_case.family(), budget, cost=cost)


@pytest.mark.parametrize("value", [float("nan"), -1, -float("inf"), None, "5", True, [5], 1j, torch.zeros(2)])
def test_a_cost_that_is_no_number_is_refused(lenet_case, value):
    with pytest.raises(SizeError, match="cost returned .* for the network of width"):
        find_width(lenet_case.family(), 1e9, cost=lambda network: value)


@pytest.mark.parametrize("number", [int, float, np.float32, torch.tensor])
def test_costs_of_other_libraries_are_numbers(lenet_case, number):
    family = lenet_case.family()
    budget = count_parameters(family.target_family.build(family.target_config_at(0.75)))
    found = find_width(family, np.int64(budget), cost=lambda network: number(count_parameters(network)))
    assert found == find_width(family, budget, cost="parameters")


def test_what_does_not_fit_a_device_may_cost_infinitely_much(lenet_case):
    family = lenet_case.family()
    full = count_parameters(family.target_family.build(family.reference_config))
    found = find_width(
        family, full, cost=lambda network: count_parameters(network) if len(network.conv1.weight) < 4 else float("inf")
    )
    assert family.target_config_at(found).hidden_channels[0] == 3


@pytest.mark.parametrize("multiple_of", [0, -8, 2.0, float("nan"), "8", True, None])
def test_multiples_of_no_number_are_refused(lenet_case, multiple_of):
    with pytest.raises(SizeError, match="multiple_of=.*give a number of channels from 1 up"):
        find_width(lenet_case.family(), 1e9, multiple_of=multiple_of)


@pytest.mark.parametrize("multiple_of", [2, 4])
def test_only_widths_of_multiples_are_found(make_case, multiple_of):
    family = make_case("resnet").family()
    by_width = {width: values["macs"] for width, values in costs(family).items()}
    fitting = [
        width
        for width in by_width
        if all(
            count % multiple_of == 0
            for count in num_channels(family.target_family, family.target_config_at(width)).values()
        )
    ]
    assert 1 < len(fitting) < len(by_width)
    for budget in {by_width[width] for width in [*fitting, max(by_width)]}:
        found = find_width(family, budget, multiple_of=multiple_of)
        assert found == max(width for width in fitting if by_width[width] <= budget)


def test_multiples_are_asked_of_the_groups_that_vary_alone(lenet_case):
    family = lenet_case.family(width_groups=["conv3"])  # conv2 has 6 channels at every size
    by_width = costs(family)
    full = by_width[1.0]["parameters"]
    assert find_width(family, full, cost="parameters", multiple_of=4) == 1.0
    assert find_width(family, full - 1, cost="parameters", multiple_of=4) == 0.5
    smallest = by_width[0.5]["parameters"]
    with pytest.raises(SizeError, match=r"smallest width with multiples of 8 channels, 0\.9375: give more"):
        find_width(family, smallest, cost="parameters", multiple_of=8)


def test_multiples_that_no_width_has_are_refused_and_the_advice_works(lenet_case):
    family = lenet_case.family()
    with pytest.raises(SizeError, match=r"multiple_of=4: no width tried from 0\.5 to 1 .* Give 2, the largest"):
        find_width(family, 1e9, multiple_of=4)
    assert find_width(family, 1e9, multiple_of=2) == 1.0
    with pytest.raises(SizeError, match="multiple_of=1000000000000: no width tried"):
        find_width(family, 1e9, multiple_of=10**12)
