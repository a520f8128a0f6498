import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from neumeta_hf.data import DataConfig, ImageSplit
from neumeta_hf.data.splits import ArraySource
from neumeta_hf.errors import DataError
from neumeta_hf.evaluation import evaluate_network
from neumeta_hf.targets import find_target

FAMILY = find_target("lenet")  # runs any module that takes `pixel_values`


class Classifier(nn.Module):
    """A convolution and BatchNorm, or a plain linear layer; remembers what it was given."""

    def __init__(self, *, convolution=True, num_labels=4):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) if convolution else nn.Identity()
        self.linear = nn.Linear(3 * 5 * 5, num_labels)

    def forward(self, pixel_values):
        self.seen = pixel_values
        self.seen_modes = {self.training, self.features.training, torch.is_inference_mode_enabled()}
        return ImageClassifierOutput(logits=self.linear(self.features(pixel_values).flatten(1)))


@pytest.fixture
def split():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 5, 5), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    config = DataConfig(image_size=5, num_channels=3, mean=[0.5] * 3, std=[0.5] * 3)
    return ImageSplit(ArraySource(pixels, labels), np.arange(50), config, augmented=False, name="test")


@pytest.mark.parametrize("batch_size", [7, 50, 512])
def test_scores_are_those_of_one_pass_whatever_the_batches(split, batch_size):
    torch.manual_seed(0)
    model = Classifier().eval()
    batch = split.__getitems__(range(50))
    with torch.no_grad():
        logits = model(batch["pixel_values"]).logits
    scores = evaluate_network(model, split, batch_size=batch_size, family=FAMILY)
    assert scores["accuracy"] == pytest.approx((logits.argmax(1) == batch["labels"]).float().mean().item())
    assert scores["loss"] == pytest.approx(F.cross_entropy(logits, batch["labels"]).item(), rel=1e-5)
    assert scores["num_samples"] == 50


def test_scores_are_the_same_whoever_loads_the_images(split):
    model = Classifier()
    alone = evaluate_network(model, split, batch_size=16, family=FAMILY)
    assert evaluate_network(model, split, batch_size=16, family=FAMILY, num_workers=2) == alone


def test_it_runs_in_evaluation_mode_and_puts_every_mode_back(split):
    model = Classifier().train()
    model.features[1].eval()  # a frozen BatchNorm
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate_network(model, split, family=FAMILY)
    assert model.seen_modes == {False, True}  # neither module in training mode, inference mode on
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_modes_are_put_back_after_a_failure(split):
    model = Classifier(num_labels=2).train()
    with pytest.raises(DataError, match=r"holds class 3, and the model tells 2 classes apart"):
        evaluate_network(model, split, family=FAMILY)
    assert model.training


def test_convolutions_get_channels_last_and_others_the_usual_layout(split):
    model = Classifier()
    evaluate_network(model, split, family=FAMILY)
    assert model.seen.is_contiguous(memory_format=torch.channels_last)
    model = Classifier(convolution=False)
    evaluate_network(model, split, family=FAMILY)
    assert model.seen.is_contiguous()


def test_a_model_in_half_precision_gets_images_of_its_kind(split):
    model = Classifier().bfloat16()
    assert evaluate_network(model, split, family=FAMILY)["loss"] > 0
    assert model.seen.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "option",
    [{"batch_size": 0}, {"batch_size": -1}, {"batch_size": 2.0}, {"batch_size": True}, {"num_workers": -1}],
    ids=str,
)
def test_numbers_that_no_loader_takes_are_refused(split, option):
    model = Classifier().train()
    (name,) = option
    with pytest.raises(DataError, match=f"^{name}="):
        evaluate_network(model, split, family=FAMILY, **option)
    assert model.training


def test_an_empty_split_is_refused_and_the_advice_works(split):
    with pytest.raises(DataError, match=r"the test split is empty.*data.validation_fraction above 0"):
        evaluate_network(Classifier(), split.subset(0, seed=0), family=FAMILY)
