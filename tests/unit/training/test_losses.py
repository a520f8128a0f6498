import math

import pytest
import torch

from neumeta_hf.training.losses import distillation_loss, reconstruction_loss, regularization_loss


def test_reconstruction_by_hand():
    generated = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[0.0]])}
    reference = {"a": torch.tensor([2.0, -4.0]), "b": torch.tensor([[3.0]]), "other": torch.tensor([100.0])}
    # (2 * 1 + 4 * 36 + 3 * 9) / (2 + 4 + 3)
    assert reconstruction_loss(generated, reference).item() == pytest.approx(173 / 9)
    assert reconstruction_loss(reference, reference).item() == 0


def test_regularization_is_the_sum_of_norms():
    tensors = [torch.tensor([[3.0, 4.0]]), torch.tensor([-2.0])]
    assert regularization_loss(tensors).item() == pytest.approx(7)


def test_regularization_of_zeros_has_a_finite_gradient():
    tensor = torch.zeros(3, requires_grad=True)
    regularization_loss([tensor, torch.ones(2)]).backward()
    assert torch.equal(tensor.grad, torch.zeros(3))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_by_hand(temperature):
    student, teacher = [1.0, 0.0, -2.0], [0.5, 2.0, 0.0]

    def softmax(values):
        exponentials = [math.exp(value / temperature) for value in values]
        return [value / sum(exponentials) for value in exponentials]

    p, q = softmax(teacher), softmax(student)
    expected = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    rows = torch.tensor([student, teacher]), torch.tensor([teacher, teacher])
    assert distillation_loss(*rows, temperature=temperature).item() == pytest.approx(expected / 2, rel=1e-5)


def test_distillation_pulls_the_student_to_the_teacher():
    student = torch.tensor([[0.0, 1.0]], requires_grad=True)
    distillation_loss(student, torch.tensor([[1.0, 0.0]]), temperature=2.0).backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]
