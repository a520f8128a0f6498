import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig

from neumeta_hf.targets import MlpVae, MlpVaeTargetConfig, config_of, find_target, resize
from target_axes import num_channels

FAMILY = find_target("mlp_vae")


def build(seed=0, **options):
    fields = {"image_size": 4, "num_channels": 2, "latent_channels": 3, **options}
    torch.manual_seed(seed)
    return FAMILY.build(MlpVaeTargetConfig(**fields)).eval()


def test_the_default_is_the_papers_network():
    config = AutoConfig.for_model("neumeta_mlp_vae", image_size=28, num_channels=1)
    assert num_channels(FAMILY, config) == {"encoder.hidden1": 400, "decoder.hidden1": 400}
    assert FAMILY.image_shape(config) == (1, 28, 28)
    assert FAMILY.latent_shape(config) == (20, 1, 1)
    weights = [tuple(value.shape) for value in FAMILY.build(config).state_dict().values() if value.ndim == 2]
    assert weights == [(400, 784), (40, 400), (400, 20), (784, 400)]


def test_weights_start_as_those_of_linear_layers():
    torch.manual_seed(0)
    network = MlpVae(image_size=4, encoder_hidden_channels=(6,), decoder_hidden_channels=(5,), latent_channels=3)
    torch.manual_seed(0)
    layers = [nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(3, 5), nn.Linear(5, 16)]
    expected = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), expected, strict=True))


def test_each_hidden_layer_has_a_width_of_its_own():
    config = MlpVaeTargetConfig(encoder_hidden_channels=[40, 20], decoder_hidden_channels=[10, 30, 40])
    groups = ["encoder.hidden1", "encoder.hidden2", "decoder.hidden1", "decoder.hidden2", "decoder.hidden3"]
    assert list(num_channels(FAMILY, config)) == groups
    resized = resize(config, {"encoder.hidden2": 0.5, "decoder.hidden3": 0.25})
    assert resized.encoder_hidden_channels == [40, 10]
    assert resized.decoder_hidden_channels == [10, 30, 10]
    decoder_alone = resize(config, 0.5, groups=groups[2:])
    assert (decoder_alone.encoder_hidden_channels, decoder_alone.decoder_hidden_channels) == ([40, 20], [5, 15, 20])


def test_it_is_used_as_autoencoder_kl_is():
    network, images = build(), torch.randn(5, 2, 4, 4)
    with torch.no_grad():
        posterior = network.encode(images).latent_dist
        assert posterior.mean.shape == posterior.logvar.shape == (5, 3, 1, 1)
        sample = network.decode(10 * posterior.mean).sample
        assert sample.shape == images.shape
        assert sample.abs().max() <= 1
        assert torch.equal(network(images).sample, network.decode(posterior.mode()).sample)
        assert torch.equal(network(images, return_dict=False)[0], network(images).sample)
        assert torch.equal(network.encode(images, return_dict=False)[0].mean, posterior.mean)
        one, same, other = (
            network(images, sample_posterior=True, generator=torch.Generator().manual_seed(seed)).sample
            for seed in (0, 0, 1)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_pixels_go_where_they_came_from():
    """A network whose layers are identities gives back the image, channel by channel and row by row."""
    network = build(encoder_hidden_channels=[32], decoder_hidden_channels=[32], latent_channels=32)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.zero_()
            if name.endswith("weight"):
                parameter[:32].fill_diagonal_(1.0)
    images = torch.rand(2, 2, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(FAMILY.forward(network, images).sample, images.tanh())


def test_a_saved_network_is_the_same_after_loading(tmp_path):
    network = build(encoder_hidden_channels=[7], decoder_hidden_channels=[5, 6])
    network.save_pretrained(tmp_path)
    loaded = FAMILY.load(str(tmp_path))
    assert type(loaded) is MlpVae
    assert not loaded.training
    assert config_of(loaded).to_dict() == config_of(network).to_dict()
    assert config_of(loaded).decoder_hidden_channels == [5, 6]
    images = torch.randn(2, 2, 4, 4)
    assert torch.equal(loaded(images).sample, network(images).sample)


def test_images_are_drawn_from_the_prior():
    network = build()
    images = FAMILY.decode(network, torch.randn(6, *FAMILY.latent_shape(config_of(network))))
    assert images.shape == (6, 2, 4, 4)


@pytest.mark.parametrize("counts", [[0], [4, -1], [4.0]])
def test_hidden_sizes_are_counts(counts):
    with pytest.raises(StrictDataclassError):
        MlpVaeTargetConfig(encoder_hidden_channels=counts)
    with pytest.raises(StrictDataclassError):
        MlpVaeTargetConfig(decoder_hidden_channels=counts)
