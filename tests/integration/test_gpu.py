"""A GPU does what a CPU does. Skipped where there is none; there the tests of training use it as well."""

import pytest
import torch

from neumeta_hf.training.randomness import RandomState

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

HYPERNETWORKS = {
    "inr": {"type": "inr", "hidden_size": 16, "num_hidden_layers": 3, "num_frequencies": 4},
    "relative": {"type": "grid", "positions": "relative", "levels": 2},
    "absolute": {"type": "grid", "positions": "absolute", "levels": 3},
    "field": {"type": "field", "positions": "absolute", "levels": 3, "hidden_size": 16},
}


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize("hypernetwork", HYPERNETWORKS.values(), ids=HYPERNETWORKS)
def test_the_same_seed_generates_the_same_weights(case, hypernetwork, noise):
    model = case.family(hypernetwork=hypernetwork)
    expected = model.generate(0.6, noise=noise, seed=3)
    found = model.to("cuda").generate(0.6, noise=noise, seed=3)
    for name, tensor in found.items():
        assert tensor.device.type == "cuda"
        torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


@torch.no_grad()
def test_a_morph_lies_on_the_device_of_its_family_and_computes_the_same(case):
    model = case.family()
    images = case.images()
    expected = model.morph(0.5)(images).logits
    morph = model.to("cuda").morph(0.5)
    assert {tensor.device.type for tensor in morph.state_dict().values()} == {"cuda"}
    # Convolutions round to TF32 there.
    torch.testing.assert_close(morph(images.to("cuda")).logits.cpu(), expected, rtol=2e-2, atol=2e-2)


def test_statistics_are_measured_on_the_device_of_the_family(make_case):
    case = make_case("cifar_resnet", "keep")
    images = case.images(8)
    expected = case.family(statistics=[0.75]).morph(0.75).state_dict()
    model = case.family(statistics=[1.0]).to("cuda")
    model.calibrate([images], [0.75])  # images of the CPU, as a data set gives them
    for found in (model.morph(0.75), model.morph(0.75, calibration=[images])):
        for name in model.statistic_names:
            torch.testing.assert_close(found.state_dict()[name].cpu(), expected[name], rtol=2e-2, atol=2e-2, msg=name)


def test_every_parameter_of_a_hypernetwork_gets_its_gradient(case):
    model = case.family(hypernetwork=HYPERNETWORKS["absolute"]).to("cuda").train()
    images = case.images().to("cuda")
    sum(model(images, width=width).logits.square().sum() for width in (1.0, 0.25)).backward()
    missing = [name for name, parameter in model.hypernetwork.named_parameters() if parameter.grad is None]
    assert not missing


def test_random_numbers_of_the_device_go_on_where_their_state_was_taken():
    device = torch.device("cuda")
    state = RandomState.of_now(device)
    drawn = torch.rand(3, device=device)
    tensors = {f"0.{name}": tensor for name, tensor in state.tensors.items()}
    RandomState.of_process(0, [state.numbers], tensors, device=device).restore(device)
    assert torch.equal(torch.rand(3, device=device), drawn)
    with pytest.raises(ValueError, match="."):
        RandomState.of_process(0, [state.numbers], {**tensors, "0.device": torch.zeros(3)}, device=device)
