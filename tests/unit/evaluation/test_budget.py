"""Widths by budget: the one that is named fits, and no wider one does."""

import pytest
from torch.nn.modules.batchnorm import _BatchNorm

from neumeta_hf.errors import SizeError
from neumeta_hf.evaluation import count_macs, count_parameters, find_width
from neumeta_hf.evaluation.budget import uniform_widths
from neumeta_hf.modeling_neumeta import NeuMetaModel


def costs(family):
    """Width to parameters and MACs of its morph."""
    images = family.family.example_inputs(family.reference_config)
    found = {}
    for width in uniform_widths(family):
        network = family.family.build(family.target_config_at(width))
        found[width] = {
            "parameters": count_parameters(network),
            "macs": count_macs(network, images, family=family.family),
        }
    return found


@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_the_widest_network_within_the_budget_is_found(case, cost):
    family = case.family()
    by_width = {width: values[cost] for width, values in costs(family).items()}
    assert min(by_width) == 0.5
    assert max(by_width) == 1.0
    for budget in {*by_width.values(), *(value + 1 for value in by_width.values())}:
        found = find_width(family, budget, cost=cost)
        assert found == max(width for width, value in by_width.items() if value <= budget)


@pytest.mark.parametrize("name", ["upernet", "autoencoder_kl", "mlp_vae"])
def test_of_other_tasks_too(networks, name):
    family = NeuMetaModel.from_reference(
        networks[name], hypernetwork={"type": "grid"}, normalization="keep", trained_widths=[0.5, 1.0]
    )
    by_width = {width: values["macs"] for width, values in costs(family).items()}
    smallest = min(by_width)
    assert find_width(family, by_width[smallest]) >= smallest
    assert find_width(family, by_width[1.0]) == 1.0


def test_every_number_of_channels_has_a_width(lenet_case):
    family = lenet_case.family()
    sizes = [
        tuple(family.family.num_channels(family.target_config_at(width)).values()) for width in uniform_widths(family)
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

    budget = count_parameters(family.family.build(family.target_config_at(0.75))) / 1000
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
