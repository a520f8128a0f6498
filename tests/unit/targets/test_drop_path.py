"""`drop_path_rate` in `target.config` drops branches in training, at every size, and nowhere else."""

import pytest
import torch
from transformers import Dinov2Config

from neumeta_hf import NeuMetaModel
from neumeta_hf.targets import find_target
from neumeta_hf.training import load_target, recipe_from_dict
from tiny_targets import convnext, make_network, segformer, swin, vit

CONFIGS = {
    "convnext": lambda: convnext(drop_path_rate=0.9),
    "dinov2": lambda: vit(Dinov2Config, drop_path_rate=0.9),
    "segformer": lambda: segformer(drop_path_rate=0.9),
    "swin": lambda: swin(drop_path_rate=0.9),
}


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("name", CONFIGS)
def test_branches_are_dropped_in_training_alone(name):
    config = CONFIGS[name]()
    family = find_target(config)
    batch = family.example_batch(config, 6)
    hypernetwork = {"type": "grid", "positions": "absolute"}
    model = NeuMetaModel.from_reference(make_network(config), normalization="keep", hypernetwork=hypernetwork)
    size = model.size_at(0.7)
    calibration = [batch["pixel_values"]] if model.statistic_names else None
    with torch.no_grad():
        tensors, morph = model.generate(size), model.morph(0.7, calibration=calibration)

        def answers(network=None):
            return (model.run(size, tensors, batch) if network is None else network(**batch)).logits

        model.train()
        assert not torch.allclose(answers(), answers(), atol=1e-4)
        model.eval()
        assert not morph.training
        assert morph.config.drop_path_rate == 0.9
        assert torch.equal(answers(morph), answers(morph))
        # A segmenter's own answers are not yet enlarged to its images.
        assert name == "segformer" or torch.allclose(answers(morph), answers(), atol=1e-6)
        morph.train()  # as for fine-tuning
        assert not torch.allclose(answers(morph), answers(morph), atol=1e-4)


def test_a_recipe_says_it_for_the_reference_and_the_family():
    fields = {"drop_path_rate": 0.3, "depths": [1, 2], "hidden_sizes": [8, 12], "patch_size": 2}
    data = {"dataset": "digits", "image_size": 16, "num_channels": 3, "mean": [0.5] * 3, "std": [0.5] * 3}
    recipe = recipe_from_dict({"data": data, "target": {"family": "convnext", "config": fields}})
    stages = load_target(recipe, ["a", "b"]).convnext.encoder.stages
    rates = [getattr(layer.drop_path, "drop_prob", 0) for stage in stages for layer in stage.layers]
    assert rates == pytest.approx([0, 0.15, 0.3])
