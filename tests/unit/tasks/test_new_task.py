"""The task of docs/new_task.md, read from that page."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from neumeta_hf.errors import RecipeError
from neumeta_hf.targets import find_target
from neumeta_hf.tasks import base, build_task, list_tasks

GUIDE = Path(__file__).parents[3] / "docs" / "new_task.md"


@pytest.fixture
def names():
    """What the guide's file defines; its task is registered for one test only."""
    (source,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)
    found = {"__name__": "guide"}
    exec(compile(source, str(GUIDE), "exec"), found)
    yield found
    del base._REGISTRY["depth-estimation"]


def test_the_guide_makes_a_task_that_trains_measures_and_draws(names):
    assert "depth-estimation" in list_tasks()
    task = build_task("depth-estimation", {"smoothness": 0.5})
    assert not task.has_classes
    images, labels = torch.rand(2, 3, 4, 6), torch.randint(0, 256, (2, 4, 6))
    network = nn.Identity()
    outputs = SimpleNamespace(predicted_depth=(labels / 255).requires_grad_())
    batch = {"pixel_values": images, "labels": labels}
    assert task.loss(outputs, batch).item() == pytest.approx(0.5 * (labels / 255).diff(dim=-1).abs().mean().item())
    meter = task.make_meter(find_target("upernet"), network, "test")
    meter.add(outputs, batch)
    assert meter.compute() == {"mae": 0}
    assert set(meter.compute()) == {score.name for score in task.scores}
    family = SimpleNamespace(forward=lambda network, images: outputs)
    figure = task.draw(family, {"width 0.5": network}, batch, images, [])
    assert len(figure.axes) == 4
    processor = task.make_image_processor(
        num_channels=3, image_size=[4, 6], mean=[0.5] * 3, std=[0.5] * 3, center_crop=False, interpolation="bilinear"
    )
    assert processor.size == {"height": 4, "width": 6}


def test_an_option_that_it_has_not_is_refused(names):
    with pytest.raises(RecipeError, match="roughness: depth-estimation takes smoothness"):
        build_task("depth-estimation", {"roughness": 1.0})


def test_another_class_cannot_take_its_name(names):
    with pytest.raises(RecipeError, match="is taken by DepthEstimation"):
        base.register_task(type("Other", (names["Task"],), {"name": "depth-estimation"}))


def test_a_task_that_there_is_not_is_refused_by_name():
    with pytest.raises(RecipeError, match="there is no task 'dreaming': there is causal-lm, image-classification, "):
        build_task("dreaming")
