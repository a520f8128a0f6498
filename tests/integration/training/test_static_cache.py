"""Training on what is kept of the static part equals training that runs it."""

import pytest
import torch

from neumeta_hf.errors import RecipeError
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.targets import find_target
from neumeta_hf.training import NeuMetaObjective, SizeSampler, train
from neumeta_hf.training.divergence import find_rows
from neumeta_hf.training.recipe import LossesRecipe
from neumeta_hf.training.static_cache import CachedSplit, find_boundary, key_of

BLOCKS = {
    "cifar_resnet": "layer3.1",
    "cifar_resnet_identity": "layer3.1",
    "resnet": "resnet.encoder.stages.1.layers.1",
    "resnet_bottleneck": "resnet.encoder.stages.1.layers.1",
    "mlp_vae": "decoder",
    "autoencoder_kl": "decoder",
}


def family_of(name, target_configs, networks, make_case):
    reference = networks[name] if name in networks else make_case(name, "keep").reference
    torch.manual_seed(0)
    model = NeuMetaModel.from_reference(
        reference,
        generated=[BLOCKS[name]],
        normalization="keep",
        trained_widths=[0.5, 1.0],
        hypernetwork={"type": "grid"},
    )
    return model, reference


@pytest.mark.parametrize("name", BLOCKS)
def test_known_outputs_give_the_same_losses_and_gradients(name, target_configs, networks, make_case):
    model, reference = family_of(name, target_configs, networks, make_case)
    family = find_target(model.reference_config)
    images = family.example_batch(model.reference_config, 4)["pixel_values"]
    batch = {"pixel_values": images, "labels": torch.tensor([0, 1, 2, 0])}
    boundary = find_boundary(model, reference, {"pixel_values": images[:2]})
    assert boundary is not None
    assert boundary.values_per_image > 0
    with torch.no_grad():
        known = {}
        for (module, _), _shape in boundary.needed.items():
            handle = reference.get_submodule(module).register_forward_hook(
                lambda _, __, output, module=module: known.update({key_of((module, 0)): output})
            )
            family.forward(reference, images)
            handle.remove()
    results = []
    for given, extra in ((None, {}), (boundary, known)):
        objective = NeuMetaObjective(
            model,
            reference,
            losses=LossesRecipe(distillation=1.0, regularization=0.0),
            sampler=SizeSampler([0.5, 1.0], sampler="sandwich", num_random=0, seed=0),
            seed=0,
            boundary=given,
        )
        objective.train()
        model.zero_grad()
        losses = objective(**batch, **extra, step=0)
        losses["loss"].backward()
        results.append([losses["loss"], *(parameter.grad for parameter in model.hypernetwork.parameters())])
    for first, second in zip(*results, strict=True):
        assert (first - second).abs().max() <= 1e-3 * first.abs().max()


def test_the_static_part_is_not_run_again(target_configs, networks, make_case):
    model, reference = family_of("cifar_resnet", target_configs, networks, make_case)
    batch = find_target(model.reference_config).example_batch(model.reference_config, 2)
    boundary = find_boundary(model, reference, batch)
    assert list(boundary.needed) == [("layer3.0", 0)]
    assert {name for name, _ in boundary.passed} >= {"conv1", "layer1", "layer2"}


def test_a_whole_network_has_nothing_to_keep(make_case):
    case = make_case("cifar_resnet", "keep")
    batch = find_target(case.config).example_batch(case.config, 2)
    assert find_boundary(case.family(), case.reference, batch) is None


def test_epochs_take_the_augmentations_in_turn(digits, target_configs, networks, make_case, make_recipe):
    recipe = {
        "target": {
            "family": "cifar_resnet",
            "config": {"num_blocks": [1, 1, 2], "stage_channels": [4, 6, 8], "image_size": 8},
        },
        "family": {"generated": ["layer3.1"], "hypernetwork": {"type": "grid"}, "coordinate_noise": 0.0},
        "train": {"epochs": 3, "ema_decay": None, "optimizer": {"name": "sgd", "learning_rate": 0.05}},
    }
    families = {}
    for augmentations in (0, 3):
        changed = make_recipe(f"run{augmentations}", **recipe, static_cache={"augmentations": augmentations})
        families[augmentations] = NeuMetaModel.from_pretrained(train(changed))
    plain, cached = (families[number].hypernetwork.state_dict() for number in (0, 3))
    for name, tensor in plain.items():
        assert torch.allclose(tensor, cached[name], rtol=0.02, atol=2e-3), name


def test_what_would_not_fit_is_refused(digits, target_configs, networks, make_case):
    model, reference = family_of("cifar_resnet", target_configs, networks, make_case)
    batch = find_target(model.reference_config).example_batch(model.reference_config, 2)
    boundary = find_boundary(model, reference, batch)
    with pytest.raises(RecipeError, match="static_cache.max_gigabytes"):
        CachedSplit(
            digits.train.with_augmentation(True),
            boundary,
            run=lambda batch: None,
            reference=reference,
            num_augmentations=1000,
            max_gigabytes=0.01,
        )


def test_a_run_without_a_static_part_is_refused(make_recipe):
    with pytest.raises(RecipeError, match="static_cache"):
        train(make_recipe(static_cache={"augmentations": 2}))


def test_rows_that_are_not_finite_are_found_among_what_is_kept(digits, target_configs, networks, make_case):
    model, reference = family_of("mlp_vae", target_configs, networks, make_case)
    family = find_target(model.reference_config)
    batch = digits.train.__getitems__([0, 1])
    split = CachedSplit(
        digits.train.subset(8, seed=0),
        find_boundary(model, reference, batch),
        run=lambda batch: family.forward(reference, batch),
        reference=reference,
        num_augmentations=1,
        max_gigabytes=1.0,
    )
    split.set_epoch(0)
    assert find_rows(split, [[0, 1], [2]]) == []
    split._mean = torch.full_like(split._mean, float("nan"))
    assert find_rows(split, [[0, 1], [2]]) == split.indices[:3].tolist()
