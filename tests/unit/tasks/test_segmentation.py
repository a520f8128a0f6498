import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import SemanticSegmenterOutput

from neumeta_hf.errors import DataError
from neumeta_hf.targets import find_target
from neumeta_hf.tasks import SemanticSegmentation
from neumeta_hf.tasks.losses import class_divergence, dice_loss
from neumeta_hf.tasks.mean_iou import MeanIoU

FAMILY = find_target("upernet")


def outputs_of(classes, num_labels=3, sure=9.0):
    """Logits that name the given class of each pixel."""
    return SemanticSegmenterOutput(logits=sure * F.one_hot(classes, num_labels).movedim(-1, 1).float())


def test_mean_iou_is_of_the_data_set_and_not_of_its_images():
    # Class 1: image one has 1 of 1 right, image two 1 of 3; together 2 of 4. Class 0: 3 of 3 and 1 of 3: 4 of 6.
    predictions = [np.array([[0, 0], [0, 1]]), np.array([[0, 1], [1, 1]])]
    references = [np.array([[0, 0], [0, 1]]), np.array([[0, 0], [0, 1]])]
    scores = MeanIoU(keep_in_memory=True).compute(predictions=predictions, references=references, num_labels=2)
    assert scores["per_class_iou"] == pytest.approx([4 / 6, 2 / 4])
    assert scores["mean_iou"] == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert scores["pixel_accuracy"] == pytest.approx(6 / 8)


def test_a_class_that_does_not_occur_and_pixels_of_no_class_do_not_count():
    scores = MeanIoU(keep_in_memory=True).compute(
        predictions=[np.array([[0, 1, 2]])], references=[np.array([[0, 1, 255]])], num_labels=4
    )
    assert scores["mean_iou"] == 1
    assert scores["per_class_iou"][:2] == [1, 1]
    assert np.isnan(scores["per_class_iou"][2:]).all()


def test_a_class_that_is_only_predicted_counts_as_missed():
    scores = MeanIoU(keep_in_memory=True).compute(
        predictions=[np.array([[0, 2]])], references=[np.array([[0, 0]])], num_labels=3
    )
    assert scores["mean_iou"] == pytest.approx((1 / 2 + 0) / 2)


def test_scores_are_those_of_one_pass_whatever_the_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3, 4, 5), torch.randint(0, 3, (6, 4, 5))
    labels[0, :2] = 255
    found = []
    for size in (1, 4, 6):
        meter = SemanticSegmentation().make_meter(FAMILY, nn.Identity(), "test")
        for start in range(0, 6, size):
            batch = {"labels": labels[start : start + size]}
            meter.add(SemanticSegmenterOutput(logits=logits[start : start + size]), batch)
        found.append(meter.compute())
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
    assert found[0]["loss"] == pytest.approx(F.cross_entropy(logits, labels, ignore_index=255).item(), rel=1e-5)


def test_the_loss_leaves_out_pixels_of_no_class():
    labels = torch.tensor([[[0, 1, 255]]])
    right, wrong = outputs_of(torch.tensor([[[0, 1, 2]]])), outputs_of(torch.tensor([[[0, 1, 0]]]))
    task = SemanticSegmentation(dice=1.0)
    assert task.loss(right, {"labels": labels}).item() == pytest.approx(task.loss(wrong, {"labels": labels}).item())
    assert task.loss(right, {"labels": labels}).item() < 0.01


def test_a_batch_without_any_class_has_no_loss_and_a_finite_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    labels = torch.full((1, 2, 2), 255)
    loss = SemanticSegmentation(dice=1.0).loss(SemanticSegmenterOutput(logits=logits), {"labels": labels})
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_dice_by_hand():
    # Two pixels of class 0, one of class 1; probabilities of class 0: 1, 1/2, 1/2.
    logits = torch.tensor([[30.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).reshape(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 1]]])
    zero, one = 2 * 1.5 / (2 + 2), 2 * 0.5 / (1 + 1)
    assert dice_loss(logits, labels, ignore_index=255).item() == pytest.approx(1 - (zero + one) / 2, rel=1e-5)


def test_distillation_is_the_mean_over_pixels():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    found = SemanticSegmentation().distillation(
        SemanticSegmenterOutput(logits=student), SemanticSegmenterOutput(logits=teacher), temperature=2.0
    )
    pixels = [
        class_divergence(student[i, :, y, x][None], teacher[i, :, y, x][None], temperature=2.0)
        for i in range(2)
        for y in range(4)
        for x in range(5)
    ]
    assert found.item() == pytest.approx(torch.stack(pixels).mean().item(), rel=1e-5)


def test_a_class_that_the_network_does_not_know_is_refused():
    meter = SemanticSegmentation().make_meter(FAMILY, nn.Identity(), "test")
    with pytest.raises(DataError, match=r"holds class 11, and the model tells 3 .*data.ignore_index"):
        meter.add(outputs_of(torch.zeros(1, 2, 2, dtype=torch.long)), {"labels": torch.full((1, 2, 2), 11)})


def test_a_split_without_any_class_is_no_score():
    meter = SemanticSegmentation().make_meter(FAMILY, nn.Identity(), "test")
    meter.add(outputs_of(torch.tensor([[[0, 1]]])), {"labels": torch.tensor([[[255, 255]]])})
    with pytest.raises(DataError, match="no pixel of the test split has a class"):
        meter.compute()


def test_a_mean_over_one_class_is_said_once_however_many_networks_are_measured(caplog):
    right = outputs_of(torch.tensor([[[1, 1]]]))
    for labels, lines in (([[[0, 1]]], 0), ([[[1, 255]]], 1)):
        for _ in range(3):
            meter = SemanticSegmentation().make_meter(FAMILY, nn.Identity(), "narrow")
            meter.add(right, {"labels": torch.tensor(labels)})
            meter.compute()
        assert len(caplog.messages) == lines
    assert "all pixels of the narrow split that count have class 1" in caplog.messages[0]
