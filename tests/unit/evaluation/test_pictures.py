import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from neumeta_hf.data import DataConfig, ImageSplit
from neumeta_hf.data.splits import ArraySource
from neumeta_hf.errors import DataError
from neumeta_hf.evaluation import draw_networks
from neumeta_hf.modeling_tasks import NeuMetaForSemanticSegmentation


@pytest.fixture
def figures(monkeypatch):
    """What was drawn, beside the files."""
    found: list[Figure] = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **options: found.append(self) or savefig(self, *args, **options)
    )
    return found


def make_split(labels, *, num_channels, image_size):
    height, width = image_size
    pixels = torch.randint(0, 256, (len(labels), num_channels, height, width), dtype=torch.uint8)
    config = DataConfig(
        image_size=[height, width], num_channels=num_channels, mean=[0.5] * num_channels, std=[0.5] * num_channels
    )
    return ImageSplit(ArraySource(pixels, labels), np.arange(len(labels)), config, augmented=False, name="test")


def test_classes_are_named_by_the_family_unless_told_otherwise(lenet_case, figures, tmp_path):
    family = lenet_case.family()
    family.config.id2label = {0: "ant", 1: "bee", 2: "cat"}
    split = make_split(torch.tensor([0, 1, 2]), num_channels=1, image_size=(8, 8))
    draw_networks(family, split, [1.0, 0.5], tmp_path / "default.png")
    draw_networks(family, split, [0.5], tmp_path / "named.png", label_names=["a", "b", "c"])
    titles = [[figure.axes[row * (len(figure.axes) // 3)].get_title() for row in range(3)] for figure in figures]
    assert titles == [["ant", "bee", "cat"], ["a", "b", "c"]]
    with pytest.raises(DataError, match="label_names has 2 names, and there are 3 classes"):
        draw_networks(family, split, [0.5], tmp_path / "few.png", label_names=["a", "b"])
    for num_images in (0, -1, 1.5):
        with pytest.raises(DataError, match="num_images="):
            draw_networks(family, split, [0.5], tmp_path / "few.png", num_images=num_images)
    assert not (tmp_path / "few.png").exists()


def test_the_reference_has_a_column_before_the_widths(lenet_case, figures, tmp_path):
    family = lenet_case.family()
    split = make_split(torch.tensor([0]), num_channels=1, image_size=(8, 8))
    names = [f"class {number}" for number in range(10)]
    reference = family.morph(1.0).train()
    draw_networks(family, split, [1.0, 0.5], tmp_path / "all.png", reference=reference, label_names=names)
    headings = [axes.get_title().splitlines()[0] for axes in figures[0].axes]
    assert headings == ["class 0", "reference", "width 1", "width 0.5"]


def test_masks_are_coloured_without_names(networks, figures, tmp_path):
    family = NeuMetaForSemanticSegmentation.from_reference(
        networks["upernet"], normalization="keep", trained_widths=[1.0], hypernetwork={"type": "grid"}
    ).eval()
    family.calibrate([family.target_family.example_batch(family.reference_config, 4)["pixel_values"]], [1.0])
    masks = torch.randint(0, 3, (2, 32, 48))
    masks[:, :4] = 255
    split = make_split(masks, num_channels=3, image_size=(32, 48))
    draw_networks(family, split, [1.0], tmp_path / "masks.png")
    (figure,) = figures
    truth, predicted = (figure.axes[column].get_images()[0].get_array() for column in (1, 2))
    assert (np.asarray(truth)[:4] == 0).all()  # of no class
    assert (np.asarray(truth)[4:].max(-1) > 0).all()
    assert (np.asarray(predicted).max(-1) > 0).all()
    with pytest.raises(DataError, match="label_names has 1 names, and there are 3 classes"):
        draw_networks(family, split, [1.0], tmp_path / "few.png", label_names=["a"])
