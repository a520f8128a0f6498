import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation.comparison import model_outputs, relative_error


def test_tensors_are_found_in_whatever_a_network_returns():
    a, b = torch.zeros(1), torch.ones(1)
    for value in (a, [a], {"x": a, "y": None}, ImageClassifierOutput(logits=a)):
        assert all(found is a for found in model_outputs(value))
        assert len(model_outputs(value)) == 1
    assert [tensor.item() for tensor in model_outputs((a, {"x": [b]}))] == [0, 1]
    with pytest.raises(PreparationError, match="a dict without any tensor"):
        model_outputs({"loss": 1.0})


def test_the_error_is_relative_to_the_largest_value():
    expected = torch.tensor([0.0, -4.0])
    assert relative_error([expected], [torch.tensor([1.0, -4.0])]) == 0.25
    assert relative_error([expected, expected], [expected, torch.tensor([0.0, -3.0])]) == 0.25
    assert relative_error([torch.zeros(2)], [torch.zeros(2)]) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_equal(value):
    tensor = torch.tensor([1.0, value])
    assert relative_error([tensor], [tensor]) == float("inf")
    assert relative_error([torch.zeros(2)], [torch.ones(2)]) == float("inf")
