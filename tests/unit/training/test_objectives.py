import copy
import math

import pytest
import torch
import torch.nn.functional as F

from neumeta_hf.errors import RecipeError
from neumeta_hf.tasks.losses import class_divergence
from neumeta_hf.training import NeuMetaObjective, ReferenceObjective, SizeSampler, fit_to_reference
from neumeta_hf.training.losses import detail_loss, reconstruction_loss, regularization_loss
from neumeta_hf.training.recipe import LossesRecipe

LABELS = torch.tensor([0, 1, 2, 0])
ALL = LossesRecipe(task=0.5, reconstruction=2.0, regularization=0.01, distillation=3.0, temperature=2.0)


def make(case, *, losses=ALL, widths=(0.5, 1.0), num_random=0, rank=0, seed=0, num_per_group=0, **fields):
    family = case.family(**{"coordinate_noise": 0.0, **fields}).train()
    groups = dict.fromkeys(family.width_groups, False)
    sampler = SizeSampler(
        widths, sampler="sandwich", num_random=num_random, num_per_group=num_per_group, seed=seed, groups=groups
    )
    return NeuMetaObjective(family, case.reference, losses=losses, sampler=sampler, seed=seed, rank=rank)


def test_the_loss_of_a_reference_is_cross_entropy(lenet_case):
    images = lenet_case.images()
    loss = ReferenceObjective(lenet_case.reference)(pixel_values=images, labels=LABELS, step=0)["loss"]
    assert loss.item() == pytest.approx(F.cross_entropy(lenet_case.reference(images).logits, LABELS).item())


def test_the_loss_by_hand(lenet_case):
    objective, images = make(lenet_case), lenet_case.images()
    output = objective(pixel_values=images, labels=LABELS, step=0)
    family, teacher = objective.model, lenet_case.reference(images).logits
    expected = 0.0
    for width in (1.0, 0.5):
        generated = family.generate(width)
        logits = family.morph(width)(images).logits
        expected += 0.5 * F.cross_entropy(logits, LABELS)
        expected += 3.0 * class_divergence(logits, teacher, temperature=2.0)
        expected += 0.01 * regularization_loss(generated.values())
        if width == 1.0:
            expected += 2.0 * reconstruction_loss(generated, lenet_case.reference.state_dict())
    assert output["loss"].item() == pytest.approx(expected.item() / 2, rel=1e-5)
    assert {"loss", "task", "distillation", "regularization", "reconstruction", "task/1", "task/0.5"} == set(output)
    assert not any(value.requires_grad for name, value in output.items() if name != "loss")
    assert output["task/0.5"].item() == pytest.approx(F.cross_entropy(family.morph(0.5)(images).logits, LABELS).item())


@pytest.mark.parametrize("weight", ["task", "distillation", "regularization"])
def test_one_loss_alone_trains_every_hypernetwork_parameter_and_nothing_else(make_case, weight):
    case = make_case("cifar_resnet", "keep")
    losses = LossesRecipe(**{"task": 0, "reconstruction": 0, "regularization": 0, "distillation": 0, weight: 1.0})
    objective = make(case, losses=losses, generated=["layer3.1"])
    objective(pixel_values=case.images(), labels=LABELS, step=0)["loss"].backward()
    trained = {name for name, parameter in objective.named_parameters() if parameter.grad is not None}
    assert trained == {f"model.hypernetwork.{name}" for name, _ in objective.model.hypernetwork.named_parameters()}
    assert all(parameter.grad is None for parameter in case.reference.parameters())


def test_the_geometric_mean_by_hand(lenet_case):
    images, weights = lenet_case.images(), {"reconstruction": 0, "regularization": 0, "distillation": 3.0}
    objective = make(lenet_case, losses=LossesRecipe(task=0.5, task_mean="geometric", **weights))
    output = objective(pixel_values=images, labels=LABELS, step=0)
    teacher, product, distillation = lenet_case.reference(images).logits, 1.0, 0.0
    for width in (1.0, 0.5):
        logits = objective.model.morph(width)(images).logits
        product *= F.cross_entropy(logits, LABELS).item()
        distillation += class_divergence(logits, teacher, temperature=1.0).item() / 2
        assert output[f"task/{width:g}"].item() == pytest.approx(F.cross_entropy(logits, LABELS).item())
    assert output["task"].item() == pytest.approx(math.log(product**0.5), rel=1e-5)
    assert output["loss"].item() == pytest.approx(0.5 * output["task"].item() + 3.0 * distillation, rel=1e-5)


def test_in_a_geometric_mean_no_size_outweighs_another(lenet_case, monkeypatch):
    def gradient(factors):
        objective = make(lenet_case, losses=LossesRecipe(task_mean="geometric", reconstruction=0, regularization=0))
        cross_entropy, factors = objective.task.loss, iter(factors)
        monkeypatch.setattr(objective.task, "loss", lambda *given: next(factors) * cross_entropy(*given))
        objective(pixel_values=lenet_case.images(), labels=LABELS, step=0)["loss"].backward()
        return [parameter.grad for parameter in objective.model.hypernetwork.parameters()]

    for plain, scaled in zip(gradient([1.0, 1.0]), gradient([1.0, 1000.0]), strict=True):
        torch.testing.assert_close(scaled, plain)
    # A size without any error has nothing to learn, and spoils nothing.
    left = gradient([1.0, 0.0])
    assert all(value.isfinite().all() for value in left)
    assert all(value.any() for value in left if value.ndim)  # a power of 1, at full size, has no gradient


def test_detail_counts_at_the_smallest_trained_width_alone(lenet_case):
    losses = LossesRecipe(task=0, reconstruction=0, regularization=1e-9, detail=1.0)
    objective = make(lenet_case, losses=losses, widths=(0.5, 0.75, 1.0))
    output = objective(pixel_values=lenet_case.images(), labels=LABELS, step=0)
    family = objective.model
    expected = detail_loss(family.generate(0.5), family.varying_axes)
    assert expected.item() > 0
    assert output["detail"].item() == pytest.approx(expected.item() / 2, rel=1e-5)  # of two sizes that the step draws


def test_static_parameters_are_trained_where_asked(make_case):
    case = make_case("cifar_resnet")
    objective = NeuMetaObjective(
        case.family(generated=["layer3.1"]).train(),
        case.reference,
        losses=ALL,
        sampler=SizeSampler([0.5, 1.0], sampler="sandwich", num_random=0, seed=0),
        seed=0,
        train_static=True,
    )
    objective(pixel_values=case.images(), labels=LABELS, step=0)["loss"].backward()
    assert all(parameter.grad is not None for parameter in objective.parameters())
    assert all(parameter.grad is None for parameter in case.reference.parameters())


def test_losses_that_leave_small_sizes_without_any_are_refused(lenet_case):
    with pytest.raises(RecipeError, match="nothing is left to minimise"):
        make(lenet_case, losses=LossesRecipe(task=0, reconstruction=1, regularization=0))


def test_the_reference_is_neither_trained_nor_saved_nor_changed(lenet_case):
    before = {name: tensor.clone() for name, tensor in lenet_case.reference.state_dict().items()}
    objective = make(lenet_case)
    assert not any("teacher" in name or "reference" in name for name in objective.state_dict())
    objective.train()
    objective(pixel_values=lenet_case.images(), labels=LABELS, step=0)["loss"].backward()
    assert not objective._teacher.training
    assert all(torch.equal(before[name], tensor) for name, tensor in lenet_case.reference.state_dict().items())
    assert all(parameter.requires_grad for parameter in lenet_case.reference.parameters())


def recorded(case, monkeypatch, *, rank, steps=range(3)):
    objective = make(case, rank=rank, num_random=2, coordinate_noise=1.0)
    calls = []
    generate = objective.model.generate

    def record(width, **options):
        values = generate(width, **options)
        calls.append((dict(width), options, values["conv1.weight"].detach()))
        return values

    monkeypatch.setattr(objective.model, "generate", record)
    for step in steps:
        objective(pixel_values=case.images(), labels=LABELS, step=step)
    return calls


def test_sizes_agree_between_processes_and_noise_does_not(lenet_case, monkeypatch):
    first, second = (recorded(lenet_case, monkeypatch, rank=rank) for rank in (0, 1))
    assert [size for size, _, _ in first] == [size for size, _, _ in second]
    seeds = [options["seed"] for _, options, _ in first + second]
    assert len(set(seeds)) == len(seeds) == 24
    assert {options["noise"] for _, options, _ in first} == {1.0}
    assert not any(torch.equal(a, b) for (_, _, a), (_, _, b) in zip(first, second, strict=True))


def test_a_step_is_a_function_of_its_number(lenet_case, monkeypatch):
    whole = recorded(lenet_case, monkeypatch, rank=0)
    again = recorded(lenet_case, monkeypatch, rank=0, steps=[2])
    for (size, options, value), (other_size, other_options, other) in zip(whole[-4:], again, strict=True):
        assert (size, options) == (other_size, other_options)
        assert torch.equal(value, other)


def test_sizes_per_group_are_trained(lenet_case):
    objective = make(lenet_case, num_per_group=1)
    output = objective(pixel_values=lenet_case.images(), labels=LABELS, step=0)
    assert output["task/random"].isfinite()


def test_fitting_reaches_the_reference_and_moves_nothing_else(make_case):
    case = make_case("cifar_resnet")
    family = case.family(generated=["layer3.1"], coordinate_noise=1.0)
    static = {name: tensor.clone() for name, tensor in family.static.tensors().items()}
    wanted = {name: case.reference.state_dict()[name] for name in family.generated_names}

    @torch.no_grad()
    def error():
        generated = family.generate()
        distance = sum((generated[name] - tensor).square().sum() for name, tensor in wanted.items())
        return float(distance / sum(tensor.square().sum() for tensor in wanted.values())) ** 0.5

    before = error()
    after = fit_to_reference(family, case.reference, steps=60, learning_rate=0.01)
    assert after == pytest.approx(error(), rel=1e-5)
    assert after < 0.9 * before
    assert all(torch.equal(static[name], tensor) for name, tensor in family.static.tensors().items())


def test_the_fit_holds_under_the_noise_of_training(make_case):
    """Fitted to the bare coordinates, high frequencies give other weights as soon as a coordinate moves."""
    case = make_case("cifar_resnet")
    wanted = case.reference.state_dict()
    inr = {"type": "inr", "hidden_size": 64, "num_hidden_layers": 3, "num_frequencies": 12}

    def error_under_noise(coordinate_noise):
        family = case.family(generated=["layer3.1"], coordinate_noise=coordinate_noise, hypernetwork=inr)
        fit_to_reference(family, case.reference, steps=200, learning_rate=0.01)
        with torch.no_grad():
            noisy = family.generate(noise=1.0, seed=7)
        distance = sum((tensor - wanted[name]).square().sum() for name, tensor in noisy.items())
        return float(distance / sum(wanted[name].square().sum() for name in noisy)) ** 0.5

    assert error_under_noise(1.0) < 0.8 * error_under_noise(0.0)


def test_the_teacher_is_a_copy(lenet_case):
    reference = copy.deepcopy(lenet_case.reference).train()
    objective = NeuMetaObjective(
        lenet_case.family().train(),
        reference,
        losses=ALL,
        sampler=SizeSampler([1.0], sampler="uniform", num_random=1, seed=0),
        seed=0,
    )
    assert reference.training
    assert objective._teacher is not reference
