import math

import pytest
import torch

from neumeta_hf.errors import RecipeError
from neumeta_hf.targets import AutoencoderTinyTargetConfig, find_target
from neumeta_hf.tasks import ImageReconstruction, build_task

FAMILY = find_target("autoencoder_tiny")
VAE = {
    **{"encoder_block_out_channels": [4, 4], "decoder_block_out_channels": [4, 4], "latent_channels": 2},
    **{"num_encoder_blocks": [1, 1], "num_decoder_blocks": [1, 1]},
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return FAMILY.build(AutoencoderTinyTargetConfig(image_size=12, num_channels=1, vae=VAE)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("size", [20, 7])
def test_scores_by_hand_whatever_the_batches(network, images, size):
    meter = build_task("image-reconstruction").make_meter(FAMILY, network, "test")
    with torch.inference_mode():
        for part in images.split(size):
            meter.add(FAMILY.forward(network, part), {"pixel_values": part})
        mse = (FAMILY.forward(network, images).sample - images).square().mean().item()
    scores = meter.compute()
    assert scores["mse"] == pytest.approx(mse, rel=1e-5)
    assert scores["psnr"] == pytest.approx(10 * math.log10(4 / mse), rel=1e-5)
    assert set(scores) == {score.name for score in ImageReconstruction.scores}


def test_the_loss_is_of_images_and_distillation_of_the_teachers_images(network, images):
    outputs = FAMILY.forward(network, images)
    task, batch = ImageReconstruction(), {"pixel_values": images}
    assert task.loss(outputs, batch).item() == pytest.approx((outputs.sample - images).square().mean().item())
    assert task.distillation(outputs, outputs, temperature=4.0).item() == 0
    assert task.loss(outputs, {"pixel_values": outputs.sample}).item() == 0
    structured = ImageReconstruction(perceptual=1.0).loss(outputs, batch).item()
    assert structured > task.loss(outputs, batch).item()


def test_each_network_is_drawn_beside_the_images(network, images):
    batch = {"pixel_values": images[:3]}
    figure = ImageReconstruction().draw(FAMILY, {"a": network, "b": network}, batch, (images[:3] + 1) / 2, [])
    assert len(figure.axes) == 3 * (1 + 2)
    for row in range(3):
        image, one, other = (axis.get_images()[0].get_array() for axis in figure.axes[3 * row : 3 * row + 3])
        assert (one == other).all()
        assert not (image == one).all()


def test_images_of_another_range_are_refused():
    options = {"num_channels": 1, "image_size": 12, "center_crop": False, "interpolation": "bilinear"}
    assert ImageReconstruction().make_image_processor(mean=[0.5], std=[0.5], **options) is None
    with pytest.raises(RecipeError, match=r"data.mean=\[0.3\]"):
        ImageReconstruction().make_image_processor(mean=[0.3], std=[0.5], **options)
