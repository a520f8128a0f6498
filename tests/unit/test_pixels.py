import pytest
import torch
import torch.nn.functional as F

from neumeta_hf.images import IGNORED
from neumeta_hf.pixels import pixel_cross_entropy


def test_it_is_the_mean_over_the_pixels_that_have_a_class():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[:, :2] = IGNORED
    expected = F.cross_entropy(logits[:, :, 2:], labels[:, 2:])
    assert pixel_cross_entropy(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_any_class_it_is_nothing_and_so_is_its_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), IGNORED))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_logits_in_low_precision_are_summed_in_full():
    torch.manual_seed(0)
    logits, labels = torch.randn(1, 3, 40, 40).bfloat16(), torch.randint(0, 3, (1, 40, 40))
    loss = pixel_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(F.cross_entropy(logits.float(), labels).item(), rel=1e-6)
