import math

import pytest
import torch

from neumeta_hf.tasks.losses import class_divergence
from neumeta_hf.training.losses import detail_loss, reconstruction_loss, regularization_loss


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
    assert class_divergence(*rows, temperature=temperature).item() == pytest.approx(expected / 2, rel=1e-5)


def test_distillation_pulls_the_student_to_the_teacher():
    student = torch.tensor([[0.0, 1.0]], requires_grad=True)
    class_divergence(student, torch.tensor([[1.0, 0.0]]), temperature=2.0).backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]


def test_detail_is_what_merging_pairs_of_channels_loses():
    weight = torch.randn(4, 6, 3, 3)
    merged = weight.reshape(2, 2, 6, 3, 3).mean(1).repeat_interleave(2, 0)
    along_out = (weight - merged).square().sum() / weight.square().sum()
    merged = weight.reshape(4, 3, 2, 3, 3).mean(2).repeat_interleave(2, 1)
    along_in = (weight - merged).square().sum() / weight.square().sum()
    for varies, expected in (
        ((True, False), along_out),
        ((False, True), along_in),
        ((True, True), (along_out + along_in) / 2),
        ((False, False), torch.tensor(0.0)),
    ):
        assert detail_loss({"w": weight}, {"w": varies}).item() == pytest.approx(expected.item(), rel=1e-5)


def test_detail_of_vectors_odd_counts_and_zeros():
    both = (True, True)
    # The last of three has no partner, and a vector has no second axis.
    assert detail_loss({"b": torch.tensor([1.0, 3.0, 5.0])}, {"b": both}).item() == pytest.approx(2 / 35)
    assert detail_loss({"b": torch.ones(1)}, {"b": both}).item() == 0
    zeros = torch.zeros(4, requires_grad=True)
    detail_loss({"b": zeros}, {"b": both}).backward()
    assert torch.equal(zeros.grad, torch.zeros(4))


def test_detail_does_not_shrink_with_the_weights():
    weight = torch.randn(4, 2)
    small, large = (detail_loss({"w": weight * scale}, {"w": (True, True)}) for scale in (0.01, 10.0))
    assert small.item() == pytest.approx(large.item(), rel=1e-4)
