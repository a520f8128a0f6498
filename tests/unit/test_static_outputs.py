import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from neumeta_hf.modeling_tasks import family_class
from neumeta_hf.static_outputs import StaticOutputs
from neumeta_hf.targets import config_of, find_target
from neumeta_hf.training import NeuMetaObjective, SizeSampler
from neumeta_hf.training.recipe import LossesRecipe

GRID = {"type": "grid", "positions": "absolute", "levels": 2}
BLOCKS = {
    "cifar_resnet": "layer3.1",
    "resnet": "resnet.encoder.stages.1.layers.1",
    "upernet": "backbone.encoder.stages.2.layers.1",
    "autoencoder_kl": "decoder",
    "mlp_vae": "decoder",
}
BEFORE = {
    "cifar_resnet": ["conv1", "bn1", "layer1", "layer2", "layer3.0"],
    "resnet": ["resnet.embedder", "resnet.encoder.stages.0", "resnet.encoder.stages.1.layers.0"],
    "upernet": [
        f"backbone.{name}" for name in ("embedder", *(f"encoder.stages.{n}" for n in ("0", "1", "2.layers.0")))
    ],
    "autoencoder_kl": ["encoder", "quant_conv"],
    "mlp_vae": ["encoder"],
}


def make_family(name, make_case, networks, **fields):
    network = networks[name] if name in networks else make_case(name, "keep").reference
    cls = family_class(find_target(config_of(network)).task)
    torch.manual_seed(0)
    fields = {"generated": [BLOCKS[name]], "normalization": "keep", "hypernetwork": GRID, **fields}
    model = cls.from_reference(network, **fields)
    with torch.no_grad():
        for parameter in model.hypernetwork.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)  # sizes differ in more than what they leave out
    return model


@pytest.fixture(params=BLOCKS)
def named_family(request, make_case, networks):
    return request.param, make_family(request.param, make_case, networks)


def images_of(family):
    return family.target_family.example_batch(family.reference_config, 4)["pixel_values"]


def run_all(family, images, static_outputs):
    outputs = []
    for width in (1.0, 0.5, 0.75):
        size = family.size_at(width)
        outputs.append(family.run(size, family.generate(size), images, seed=3, static_outputs=static_outputs))
    return [output.logits if "logits" in output else output.sample for output in outputs]


class CountLayers(TorchFunctionMode):
    """How many convolutions and linear layers are computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.conv2d, F.linear)
        return func(*args, **(kwargs or {}))


def count_layers(family, static_outputs):
    with CountLayers() as counter:
        run_all(family, images_of(family), static_outputs)
    return counter.count


@pytest.mark.parametrize("is_training", [True, False])
def test_sizes_that_have_static_outputs_in_common_put_out_the_same_bits(named_family, is_training):
    _, family = named_family
    images = images_of(family)
    family.train(is_training)
    alone, together = run_all(family, images, None), run_all(family, images, StaticOutputs())
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert not torch.equal(together[0], together[1])


def test_what_lies_before_the_generated_block_runs_once_for_all_sizes(named_family):
    name, family = named_family
    before = [family.skeleton_at(family.space.full).get_submodule(module) for module in BEFORE[name]]
    layers = [layer for module in before for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) > 0
    assert count_layers(family, None) - count_layers(family, StaticOutputs()) == 2 * len(layers)


def test_nothing_is_left_on_the_networks(named_family):
    _, family = named_family
    run_all(family, images_of(family), StaticOutputs())
    with pytest.raises((RuntimeError, ValueError)):
        run_all(family, images_of(family)[:, :, :3, :3].repeat(1, 7, 1, 1), StaticOutputs())
    skeleton = family.skeleton_at(family.space.full)
    assert not any("forward" in vars(module) for module in skeleton.modules())


def test_a_family_of_the_whole_network_runs_every_layer_at_every_size(make_case, networks):
    family = make_family("cifar_resnet", make_case, networks, generated=["*"])
    assert count_layers(family, StaticOutputs()) == count_layers(family, None)


def test_a_training_step_runs_what_lies_before_the_block_once(make_case, networks):
    family = make_family("cifar_resnet", make_case, networks).train()
    losses = LossesRecipe(task=1.0, reconstruction=0.0, regularization=0.0)
    sampler = SizeSampler([0.5, 1.0], sampler="sandwich", num_random=1, seed=0)
    objective = NeuMetaObjective(
        family, make_case("cifar_resnet", "keep").reference, losses=losses, sampler=sampler, seed=0
    )
    with CountLayers() as counter:
        objective(pixel_values=images_of(family), labels=torch.tensor([0, 1, 2, 0]), step=0)
    assert counter.count == count_layers(family, StaticOutputs()) < count_layers(family, None)


def test_static_parameters_get_the_gradients_of_all_sizes(make_case, networks):
    family = make_family("autoencoder_kl", make_case, networks).train()
    gradients = []
    for static_outputs in (None, StaticOutputs()):
        family.zero_grad()
        torch.stack(
            [output.square().mean() for output in run_all(family, images_of(family), static_outputs)]
        ).sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in family.named_parameters()})
    alone, together = gradients
    assert alone.keys() == together.keys()
    for name, gradient in alone.items():
        assert torch.allclose(together[name], gradient, rtol=1e-4, atol=1e-6), name


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, images, *, shift=0.0):
        self.calls += 1
        return images + shift


@pytest.fixture
def shifted():
    network = nn.ModuleDict({"a": Shifted()})

    def call(outputs, *args, **kwargs):
        with outputs.taken_by(network, ["a"]):
            return network["a"](*args, **kwargs), network["a"].calls

    return call


def test_an_output_is_taken_again_for_the_same_tensor_alone(shifted):
    images, outputs = torch.zeros(2), StaticOutputs()
    first, _ = shifted(outputs, images)
    again, calls = shifted(outputs, images)
    assert again is first
    assert calls == 1
    assert shifted(outputs, images.clone())[1] == 2  # equal values, but what says that they stay equal?
    assert shifted(outputs, images)[1] == 3
    assert shifted(StaticOutputs(), images)[1] == 4


def test_a_changed_tensor_a_changed_setting_and_wanted_gradients_are_noticed(shifted):
    images, outputs = torch.zeros(2), StaticOutputs()
    shifted(outputs, images)
    assert shifted(outputs, images.add_(1))[0].tolist() == [1, 1]
    assert shifted(outputs, images, shift=1.0)[0].tolist() == [2, 2]
    assert shifted(outputs, images, shift=1.0)[1] == 3
    assert shifted(outputs, images, shift=1)[1] == 4  # an integer is another setting
    with torch.no_grad():
        shifted(outputs, images.requires_grad_(), shift=1)
    assert shifted(outputs, images, shift=1)[0].requires_grad


def test_an_output_that_was_changed_in_place_is_made_again(shifted):
    images, outputs = torch.zeros(2), StaticOutputs()
    first, _ = shifted(outputs, images, shift=1.0)
    first.relu_().mul_(5)
    assert shifted(outputs, images, shift=1.0)[0].tolist() == [1, 1]


def test_tensors_of_inference_mode_are_never_taken_for_unchanged(shifted):
    outputs = StaticOutputs()
    with torch.inference_mode():
        images = torch.zeros(2)
        shifted(outputs, images)
        images.add_(1)
        assert shifted(outputs, images)[0].tolist() == [1, 1]
