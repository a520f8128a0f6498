import math

import pytest
import torch
from torch import nn

from neumeta_hf.errors import DataError, RecipeError
from neumeta_hf.targets import LeNetConfig, MlpVae, build_image_processor, config_of, find_target
from neumeta_hf.tasks import ImageGeneration
from neumeta_hf.tasks.generation import ClassifierFeatures, divergence

FAMILY = find_target("mlp_vae")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return MlpVae(
        image_size=12, num_channels=1, encoder_hidden_channels=[16], decoder_hidden_channels=[16], latent_channels=3
    ).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(20, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = LeNetConfig(hidden_channels=[4, 6, 8], kernel_size=3, image_size=12, num_labels=3)
    find_target(config).build(config).save_pretrained(folder)
    build_image_processor(num_channels=1, image_size=12, mean=[0.3], std=[0.4]).save_pretrained(folder)
    return str(folder)


def measure(task, network, images, size=20):
    meter = task.make_meter(FAMILY, network, "test")
    with torch.inference_mode():
        for start in range(0, len(images), size):
            part = images[start : start + size]
            meter.add(FAMILY.forward(network, part), {"pixel_values": part})
        return meter.compute()


def test_scores_are_those_of_one_pass_whatever_the_batches(network, images):
    one, many = (measure(ImageGeneration(), network, images, size) for size in (20, 7))
    assert {key: one[key] for key in ("mse", "ssim", "psnr", "kl")} == pytest.approx(
        {key: many[key] for key in ("mse", "ssim", "psnr", "kl")}, rel=1e-4
    )


def test_scores_by_hand(network, images):
    scores = measure(ImageGeneration(), network, images)
    with torch.inference_mode():
        output = FAMILY.forward(network, images)
    mse = (output.sample - images).square().mean().item()
    assert scores["mse"] == pytest.approx(mse, rel=1e-5)
    assert scores["psnr"] == pytest.approx(10 * math.log10(4 / mse), rel=1e-5)
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    posterior = torch.distributions.Normal(output.mean, (0.5 * output.logvar).exp())
    kl = torch.distributions.kl_divergence(posterior, prior).flatten(1).sum(1)
    torch.testing.assert_close(divergence(output), kl)
    assert scores["kl"] == pytest.approx(kl.mean().item(), rel=1e-5)


def test_the_bound_is_that_of_draws_and_lower_than_that_of_means(network, images):
    scores = measure(ImageGeneration(), network, images)
    of_means = -0.5 * 144 * (math.log(2 * math.pi * scores["mse"]) + 1) - scores["kl"]
    assert scores["elbo"] < of_means


def test_a_perfect_reconstruction_has_no_loss_but_its_divergence(network, images):
    with torch.inference_mode():
        output = FAMILY.forward(network, images)
    batch = {"pixel_values": output.sample}
    assert ImageGeneration(kl=0.0, perceptual=1.0).loss(output, batch).item() == pytest.approx(0, abs=1e-5)
    expected = 0.5 * divergence(output).mean().item() / 144
    assert ImageGeneration(kl=0.5).loss(output, batch).item() == pytest.approx(expected, rel=1e-4)


def test_the_perceptual_term_sees_structure_that_the_squared_error_does_not(images):
    shifted, noisy = images + 0.1, images + 0.1 * torch.sign(torch.randn(images.shape))
    task = ImageGeneration(kl=0.0, perceptual=1.0)

    def loss(sample):
        return task.loss(type("Output", (), {"sample": sample}), {"pixel_values": images}).item()

    assert loss(noisy) > loss(shifted)


def test_samples_like_the_images_are_nearer_than_others(network, images, classifier):
    task = ImageGeneration(features=classifier, num_samples=64)

    class Copies(nn.Module):
        """Decodes whatever comes to images of the split."""

        def __init__(self, noise):
            super().__init__()
            self.noise = noise

        def decode(self, latents):
            picked = images[torch.arange(len(latents)) % len(images)]
            return type("Output", (), {"sample": picked + self.noise * torch.randn_like(picked)})

    def distance(decoder):
        meter = task.make_meter(FAMILY, decoder, "test")
        with torch.inference_mode():
            meter.add(FAMILY.forward(network, images), {"pixel_values": images})
            return meter.compute()["sample_distance"]

    assert abs(distance(Copies(0.0))) < 0.05
    assert distance(Copies(0.0)) < distance(Copies(0.2)) < distance(Copies(1.0))


def test_the_classifier_is_read_once_for_all_networks(network, classifier):
    task = ImageGeneration(features=classifier)
    one, other = (task.make_meter(FAMILY, network, "test").distance for _ in range(2))
    assert one is not other
    assert one.inception is other.inception


def test_features_are_what_the_head_of_the_classifier_gets(images, classifier):
    features = ClassifierFeatures(classifier)
    head = [module for module in features.classifier.modules() if isinstance(module, nn.Linear)][-1]
    with torch.inference_mode():
        logits = features.classifier(((images + 1) / 2 - 0.3) / 0.4).logits
        torch.testing.assert_close(head(features(images)), logits)


def test_a_classifier_of_other_images_is_refused(classifier):
    with pytest.raises(DataError, match=r"takes images of \[1, 12, 12\], but these are \[1, 8, 8\]"):
        ClassifierFeatures(classifier)(torch.zeros(2, 1, 8, 8))


def test_one_latent_at_every_size_is_drawn_in_its_row(network, images):
    figure = ImageGeneration().draw(FAMILY, {"a": network, "b": network}, {"pixel_values": images[:3]}, images[:3], [])
    axes = figure.axes
    assert len(axes) == 2 * 3 * (1 + 2)
    shown = [[axes[3 * row + column].get_images()[0].get_array() for column in (1, 2)] for row in range(6)]
    for row in range(3):  # the same network twice: the same reconstructions, and the same samples
        reconstructions, samples = shown[row], shown[3 + row]
        assert (reconstructions[0] == reconstructions[1]).all()
        assert (samples[0] == samples[1]).all()
        assert not (reconstructions[0] == samples[0]).all()


def test_images_of_another_range_are_refused():
    options = {"num_channels": 1, "image_size": 12, "center_crop": False, "interpolation": "bilinear"}
    assert ImageGeneration().make_image_processor(mean=[0.5], std=[0.5], **options) is None
    with pytest.raises(RecipeError, match=r"data.mean=\[0.3\]"):
        ImageGeneration().make_image_processor(mean=[0.3], std=[0.5], **options)


def test_the_config_of_the_network_is_one_of_the_family(network):
    assert FAMILY.accepts(config_of(network))
