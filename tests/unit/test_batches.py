import pytest
import torch
from torch import nn

from neumeta_hf.batches import batch_size_of, call, first_of, move_batch

WHOLE = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
FLOATING = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def make_batch():
    batch = {
        f"{dtype} {ndim}": torch.ones([2] * ndim, dtype=dtype) for dtype in WHOLE + FLOATING for ndim in range(1, 6)
    }
    return batch


@pytest.mark.parametrize("dtype", [None, *FLOATING])
@pytest.mark.parametrize("device", [None, "cpu", "meta"])
def test_floating_tensors_are_cast_and_no_others(device, dtype):
    batch = make_batch()
    before = dict(batch)
    moved = move_batch(batch, device, dtype)
    assert list(moved) == list(batch)
    for name, tensor in moved.items():
        wanted = dtype if dtype and batch[name].is_floating_point() else batch[name].dtype
        assert (tensor.dtype, tensor.shape) == (wanted, batch[name].shape)
        assert tensor.device.type == (device or "cpu")
    assert all(batch[name] is tensor for name, tensor in before.items())


def test_large_ids_keep_their_values():
    ids = torch.tensor([2**24 + 1, 2**53 + 1])
    assert torch.equal(move_batch({"input_ids": ids}, "cpu", torch.float16)["input_ids"], ids)


def test_images_alone_get_another_layout():
    moved = move_batch(
        {name: torch.stack([tensor] * 3, dim=-1) for name, tensor in make_batch().items()},
        memory_format=torch.channels_last,
    )
    for tensor in moved.values():
        is_image = tensor.ndim == 4 and tensor.is_floating_point()
        assert tensor.is_contiguous() != is_image
        assert not is_image or tensor.is_contiguous(memory_format=torch.channels_last)
    back = move_batch(moved, memory_format=torch.contiguous_format)
    assert all(tensor.is_contiguous() for tensor in back.values())


def test_no_gradient_flows_back():
    weight = torch.ones(2, requires_grad=True)
    assert not move_batch(weight * 2).requires_grad
    assert not move_batch({"a": weight}, "cpu", torch.float64)["a"].requires_grad


def test_a_bare_tensor_goes_as_a_batch_does():
    ids, images = torch.ones(2, dtype=torch.int32), torch.ones(2, 3, 4, 4)
    assert move_batch(ids, "cpu", torch.float64).dtype == torch.int32
    assert move_batch(images, "cpu", torch.float64).dtype == torch.float64
    assert first_of(images).shape == (1, 3, 4, 4)


def test_a_batch_is_cut_and_counted_by_its_samples():
    batch = {"a": torch.arange(3), "b": torch.rand(3, 2)}
    first = first_of(batch)
    assert batch_size_of(batch) == 3
    assert batch_size_of(first) == 1
    assert all(torch.equal(first[name], batch[name][:1]) for name in batch)


def test_a_module_is_called_by_name_or_with_its_first_input():
    class Difference(nn.Module):
        def forward(self, a, b=1):
            return a - b

    assert call(Difference(), {"b": torch.tensor(2), "a": torch.tensor(5)}) == 3
    assert call(Difference(), torch.tensor(5)) == 4
