import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchFeature

from neumeta_hf.calibration import calibrate, interpolate_statistics
from neumeta_hf.errors import CheckpointError, SizeError
from neumeta_hf.image_batches import ImageBatches, NormalizedImages


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    )
    for module in layers.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(9.0)
            module.running_var.fill_(4.0)
            module.momentum = 0.3
    return layers.eval()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [torch.randn(6, 3, 5, 5) * 2 + 1, torch.randn(3, 3, 5, 5), torch.randn(6, 3, 5, 5) - 1]


def statistics(network):
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def test_statistics_are_the_plain_average_over_batches(network, batches):
    means, variances, later_means = [], [], []
    with torch.no_grad():
        for batch in batches:
            hidden = network[0](batch)
            mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
            means.append(mean)
            variances.append(variance)
            # The next layer sees what this one normalises by its batch, without dropout.
            scale = (hidden.var((0, 2, 3), correction=0) + network[1].eps).sqrt()
            hidden = (hidden - mean[:, None, None]) / scale[:, None, None]
            later_means.append(network[4](hidden.relu()).mean((0, 2, 3)))
    assert calibrate(network, iter(batches)) is network
    assert torch.allclose(network[1].running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert torch.allclose(network[1].running_var, torch.stack(variances).mean(0), atol=1e-4)
    assert torch.allclose(network[5].running_mean, torch.stack(later_means).mean(0), atol=1e-5)
    assert network[1].num_batches_tracked == 3


def test_what_was_measured_before_does_not_matter(network, batches):
    first = statistics(calibrate(network, batches))
    calibrate(network, [batch * 5 for batch in batches])
    again = statistics(calibrate(network, batches))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_weights_modes_and_momenta_come_back(network, batches):
    network[3].train()
    network[5].train()
    modes = [module.training for module in network.modules()]
    weights = [parameter.clone() for parameter in network.parameters()]
    calibrate(network, batches)
    assert [module.training for module in network.modules()] == modes
    assert [network[1].momentum, network[5].momentum] == [0.3, 0.3]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), weights, strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def everything(network):
    modes = [module.training for module in network.modules()]
    momenta = [module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    return modes, momenta


def good(shape=(3, 3, 5, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


class Strange:
    """A batch of no known kind."""


REFUSED = {
    "bytes": (lambda: good().mul(40).byte(), "holds uint8, and the network takes normalised floats.*Normalise as"),
    "integers": (lambda: good().long(), "holds int64"),
    "masks": (lambda: good() > 0, "holds bool"),
    "bytes as an array": (lambda: np.zeros((2, 3, 5, 5), dtype=np.uint8), "holds uint8"),
    "bytes as floats": (lambda: torch.rand(2, 3, 5, 5) * 255, "reaches from .* which no normalised images do"),
    "whole bytes as floats": (lambda: (torch.rand(2, 3, 5, 5) * 255).round(), "reaches from"),
    "dark bytes as floats": (lambda: torch.rand(2, 3, 5, 5) * 40, "reaches from"),
    "16 bits as floats": (lambda: torch.rand(2, 3, 5, 5) * 65535 - 30000, "reaches from"),
    "NaN": (lambda: good() * float("nan"), "holds NaN or infinite"),
    "one NaN": (lambda: good().index_put_((torch.tensor(1),), torch.tensor(float("nan"))), "holds NaN or infinite"),
    "infinity": (lambda: good() / 0, "holds NaN or infinite"),
    "other colours": (lambda: good((2, 1, 5, 5)), r"shape \[2, 1, 5, 5\].* 3 channels, but got 1"),
    "one image": (lambda: good((3, 5, 5)), r"\[3, 5, 5\]: give \[batch, channels, height, width\], images\[None\]"),
    "flat images": (lambda: good((4, 75)), r"\[4, 75\]: give \[batch"),
    "no image": (lambda: good((0, 3, 5, 5)), "no image in it"),
    "images of no pixel": (lambda: good((2, 3, 0, 5)), "no image in it"),
    "a smaller image than the kernel": (lambda: good((2, 3, 2, 2)), "does not take calibration batch 3, of shape"),
    "a single value per channel": (lambda: good((1, 3, 3, 3)), r"1 gets a single value per channel.*two images"),
    "a mapping without images": (lambda: {"image": good(), "labels": [1]}, "mapping of image, labels: give .*pixel_"),
    "a processor's lists": (lambda: {"pixel_values": [[1.0]]}, "dict of a list.*return_tensors"),
    "labels first": (lambda: (torch.zeros(3), good()), r"shape \[3\]"),
    "labels and images": (lambda: (torch.zeros(3).long(), good()), "holds int64"),
    "text": (lambda: "images", "is a str: give a tensor"),
    "nothing": (lambda: None, "is a NoneType"),
    "an empty list": (list, "is a list"),
    "a list of pictures": (lambda: [Strange()], "is a list of a Strange"),
    "an object": (Strange, "is a Strange"),
    "objects as an array": (lambda: np.array([None]), "is a ndarray"),
    "a sparse tensor": (lambda: good().to_sparse(), "is a Tensor"),
    "no values": (lambda: good().to("meta"), "is a Tensor"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_no_batch_of_normalised_images_is_refused_and_nothing_changes(network, batches, fault):
    make, said = REFUSED[fault]
    network[3].train()
    before, settings = statistics(network), everything(network)
    with pytest.raises(CheckpointError, match=said):
        calibrate(network, (batch for batch in [*batches[:2], make()]))
    assert everything(network) == settings
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, KeyError, MemoryError])
@pytest.mark.parametrize("place", ["first batch", "third batch", "network"])
def test_a_calibration_that_fails_anywhere_leaves_the_network_as_it_was(network, batches, error, place):
    network[3].train()
    before, settings = statistics(network), everything(network)
    seen = []

    def loader():
        for number, batch in enumerate(batches):
            if (number, place) in ((0, "first batch"), (2, "third batch")):
                raise error
            yield batch

    def fail(*_):
        seen.append(1)
        if place == "network" and len(seen) == 3:
            raise error

    hook = network[4].register_forward_hook(fail)
    with pytest.raises(CheckpointError if (error, place) == (RuntimeError, "network") else error):
        calibrate(network, loader())
    hook.remove()
    assert everything(network) == settings
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    calibrate(network, batches)  # and works afterwards
    assert network[1].num_batches_tracked == 3


FORMS = {
    "tensors": lambda images, labels: images,
    "pairs": lambda images, labels: (images, labels),
    "lists": lambda images, labels: [images, labels],
    "images alone in a tuple": lambda images, labels: (images,),
    "mappings": lambda images, labels: {"labels": labels, "pixel_values": images},
    "an image processor's": lambda images, labels: BatchFeature({"pixel_values": images, "labels": labels}),
    "a pair with a mapping": lambda images, labels: ({"pixel_values": images}, labels),
    "arrays": lambda images, labels: images.numpy(),
    "arrays in a mapping": lambda images, labels: {"pixel_values": images.numpy()[..., ::-1][..., ::-1]},
    "double precision": lambda images, labels: images.double(),
}


@pytest.mark.parametrize("form", FORMS)
def test_batches_are_taken_as_loaders_give_them(network, batches, form):
    expected = statistics(calibrate(network, batches))
    given = iter([FORMS[form](images, torch.zeros(len(images)).long()) for images in batches])
    found = statistics(calibrate(network, given))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert next(given, None) is None


def test_a_loader_of_a_data_set_is_taken(network, batches):
    images = torch.cat(batches)
    loader = DataLoader(TensorDataset(images, torch.zeros(len(images))), batch_size=5)
    expected = statistics(calibrate(network, images.split(5)))
    found = statistics(calibrate(network, loader))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("batches", [torch.zeros(2, 3, 5, 5), {"pixel_values": torch.zeros(2, 3, 5, 5)}, "x", 5, None])
def test_one_batch_is_not_many(network, batches):
    with pytest.raises(CheckpointError, match=rf"calibration got a {type(batches).__name__}: give batches"):
        calibrate(network, batches)


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images * 12,  # a std of a fiftieth of the range
        lambda images: images * 0,
        lambda images: images.clamp(0, 1),  # neither mean nor std
        lambda images: (images.clamp(-1, 1) + 1) * 127.5 - 120,  # a mean alone, of bytes
        lambda images: images.half(),
        lambda images: images.bfloat16(),
    ],
)
def test_unusual_ways_to_normalise_are_taken(network, batches, change):
    calibrate(network, [change(images) for images in batches])
    assert network[1].num_batches_tracked == 3


def test_images_that_were_trained_on_as_bytes_can_be_said_to_be_so(network, batches):
    given = [images.sigmoid() * 255 for images in batches]
    expected = torch.stack([network[0](images).mean((0, 2, 3)) for images in given]).mean(0)
    calibrate(network, NormalizedImages(given))
    assert torch.allclose(network[1].running_mean, expected, rtol=1e-4)
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        calibrate(network, NormalizedImages([given[0] / 0]))


def test_statistics_that_are_no_numbers_are_refused(network, batches):
    with torch.no_grad():
        network[0].weight.fill_(1e38)
    before = statistics(network)
    with pytest.raises(CheckpointError, match="statistics that 1 measures are NaN or infinite"):
        calibrate(network, batches)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def test_images_of_another_size_name_the_size_that_the_network_is_made_for():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    images = ImageBatches([good(), good((3, 3, 7, 7))], (3, 5, 5))
    with pytest.raises(CheckpointError, match=r"batch 2, of shape \[3, 3, 7, 7\] \(it is made for .* \[3, 5, 5\]\)"):
        calibrate(network, images)
    assert network[1].num_batches_tracked == 0


def test_without_a_batch_or_a_batch_norm_nothing_changes(network, batches):
    before = statistics(network)
    with pytest.raises(CheckpointError, match="no batch"):
        calibrate(network, iter([]))
    with pytest.raises(CheckpointError, match="names 2, 9, which is no BatchNorm"):
        calibrate(network, batches, modules=["1", "9", "2"])
    with pytest.raises(CheckpointError, match="a Conv2d has no BatchNorm"):
        calibrate(network[0], batches)
    assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())


def family_state(family):
    return {name: tensor.clone() for name, tensor in family.state_dict().items()}


def assert_unchanged(family, before):
    after = family.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.fixture
def family(make_case):
    return make_case("lenet_batch_norm", "keep").family()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.zeros(4, 1, 8, 8).byte(), "holds uint8"),
        (lambda: torch.rand(4, 1, 8, 8) * 255, "reaches from"),
        (lambda: torch.full((4, 1, 8, 8), float("nan")), "NaN"),
        (lambda: good((4, 3, 8, 8)), "3 channels .* and the network takes 1"),
        (lambda: good((1, 8, 8)), r"give \[batch"),
        (lambda: good((0, 1, 8, 8)), "no image"),
        (lambda: Strange(), "is a Strange"),
    ],
)
def test_families_refuse_the_same_and_stay_as_they_are(family, make, said):
    before, widths = family_state(family), list(family.config.statistics_widths)
    batches = [good((4, 1, 8, 8)), good((4, 1, 8, 8)), make()]
    for use in (
        lambda: family.calibrate(iter(batches), [0.6, 1.0]),
        lambda: family.calibrate(iter(batches)),
        lambda: family.morph(0.6, calibration=iter(batches)),
    ):
        with pytest.raises(CheckpointError, match=said):
            use()
        assert_unchanged(family, before)
        assert list(family.config.statistics_widths) == widths


def test_a_family_takes_a_loader_once_for_all_widths(family):
    images = good((12, 1, 8, 8))
    loader = DataLoader(TensorDataset(images, torch.zeros(12)), batch_size=4)
    family.calibrate((batch for batch in loader), [0.5, 0.75])
    for width in (0.5, 0.75):
        expected = family.morph(width, calibration=images.split(4))
        assert expected.morph_origin.calibrated == 12
        assert_unchanged(family.morph(width), expected.state_dict())


@pytest.mark.parametrize(
    ("widths", "error"),
    [
        ([0.5, float("nan")], SizeError),
        ([0.5, 9], SizeError),
        ([0.5, "x"], SizeError),
        ([0.5, True], SizeError),
        ([0.5, {"conv1": 0.5}], SizeError),
        ([], CheckpointError),
    ],
)
def test_a_family_stores_all_widths_or_none(family, widths, error):
    before = family_state(family)
    with pytest.raises(error):
        family.calibrate([good((4, 1, 8, 8))], widths)
    assert_unchanged(family, before)
    assert list(family.config.statistics_widths) == [0.5, 0.75, 1.0]


def test_a_family_that_is_interrupted_between_widths_stays_as_it_was(family):
    before = family_state(family)

    def widths():
        yield 0.5
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        family.calibrate([good((4, 1, 8, 8))], widths())
    assert_unchanged(family, before)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (torch.zeros(4, 1, 8, 8).byte(), "holds uint8"),
        (torch.zeros(4, 1, 8, 8) / 0, "NaN or infinite"),
        (torch.zeros(1, 8, 8), r"give \[batch"),
        (torch.zeros(4, 3, 8, 8), r"give \[images, 1, 8, 8\]"),
        (torch.zeros(4, 1, 9, 9), r"give \[images, 1, 8, 8\]"),
        (torch.rand(4, 1, 8, 8) * 255, "normalised ones lie in"),
        ("images", "is a str"),
    ],
)
def test_stored_images_are_normalised_ones(family, images, said):
    family.store_calibration_images((good((2, 1, 8, 8)), torch.zeros(2)))
    before = family_state(family)
    with pytest.raises(CheckpointError, match=said):
        family.store_calibration_images(images)
    assert_unchanged(family, before)
    assert family.config.calibration_images == 2


def test_modules_that_are_not_named_keep_their_statistics(network, batches):
    before = statistics(network)
    calibrate(network, batches, modules=["5"])
    changed = {name for name, buffer in network.named_buffers() if not torch.equal(before[name], buffer)}
    assert changed == {"5.running_mean", "5.running_var", "5.num_batches_tracked"}


def test_images_are_brought_to_the_networks_precision(network, batches):
    calibrate(network.double(), batches)
    assert network[1].running_mean.dtype == torch.float64


SMALLER = {
    "norm.running_mean": torch.tensor([0.0, 4.0]),
    "fixed.running_mean": torch.tensor([1.0]),
    "norm.num_batches_tracked": torch.tensor(3),
}
LARGER = {
    "norm.running_mean": torch.tensor([8.0, 8.0, 1.0, 2.0, 3.0, 4.0]),
    "fixed.running_mean": torch.tensor([2.0]),
    "norm.num_batches_tracked": torch.tensor(5),
}


@pytest.mark.parametrize(
    ("are_nested", "low", "high"),
    [
        (True, [0.0, 4.0, 1.0], [8.0, 8.0, 1.0]),  # the larger network's where it alone has the channel
        (False, [0.0, 2.0, 4.0], [8.0, 1.5, 3.5]),  # both at the middle of each third
    ],
)
def test_statistics_between_two_sizes(are_nested, low, high):
    num_channels = {"norm.running_mean": 3, "fixed.running_mean": 1}
    found = interpolate_statistics(SMALLER, LARGER, num_channels, amount=0.75, are_nested=are_nested)
    assert found["norm.num_batches_tracked"] == 5
    expected = 0.75 * torch.tensor(low) + 0.25 * torch.tensor(high)  # 3 channels are a quarter of the way from 2 to 6
    assert torch.allclose(found["norm.running_mean"], expected, atol=1e-6)
    assert found["fixed.running_mean"].tolist() == [1.75]  # as many in all: the size as a whole says how far
    assert SMALLER["norm.running_mean"].tolist() == [0.0, 4.0]
    assert LARGER["norm.running_mean"].tolist() == [8.0, 8.0, 1.0, 2.0, 3.0, 4.0]
