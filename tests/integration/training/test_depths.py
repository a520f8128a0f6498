"""Families over depth: drawn in training, validated, stored and morphed."""

import json

import pytest
import torch

from neumeta_hf import NeuMetaModel
from neumeta_hf.cli import main
from neumeta_hf.cli.description import family_facts, size_facts
from neumeta_hf.errors import CheckpointError, RecipeError, SizeError
from neumeta_hf.preparation import rank_blocks
from neumeta_hf.targets import CifarResNetConfig, find_target, load_network
from neumeta_hf.training import SizeSampler, train

TARGET = {
    "family": "cifar_resnet",
    "config": {"num_blocks": [1, 2, 3], "stage_channels": [4, 6, 8], "image_size": 8},
}


def test_a_sandwich_has_full_and_smallest_depth_at_both_ends_in_turn():
    sampler = SizeSampler([0.5, 1.0], depths=[0.34, 0.67, 1.0], sampler="sandwich", num_random=2, seed=0)
    draws = [sampler.draw_depths(step, 4) for step in range(40)]
    assert {tuple(depths[:2]) for depths in draws[::2]} == {(1.0, 0.34)}
    assert {tuple(depths[:2]) for depths in draws[1::2]} == {(0.34, 1.0)}
    assert {depth for depths in draws for depth in depths[2:]} == {0.34, 0.67, 1.0}
    assert sampler.draw_depths(7, 4) == draws[7]


def test_blocks_are_ranked_by_what_the_output_loses():
    torch.manual_seed(0)
    config = CifarResNetConfig(**TARGET["config"], num_input_channels=1, num_labels=10)
    family = find_target(config)
    network = family.build(config).eval()
    with torch.no_grad():  # what a block adds is what its second BatchNorm scales
        network.layer3[1].bn2.weight.fill_(0.01)
        network.layer3[2].bn2.weight.fill_(3.0)
    batch = family.example_batch(config, 16)
    assert rank_blocks(network, family.space(config), batch) == {"stage2": [1], "stage3": [2, 1]}


@pytest.mark.parametrize("normalization", ["fuse", "keep"])
def test_a_run_draws_depths_and_its_family_morphs_to_them(make_recipe, tmp_path, normalization):
    hypernetwork = {"type": "grid"}
    sizes = {"widths": [0.5, 1.0], "depths": [0.34, 1.0], "sampler": "sandwich"}
    recipe = make_recipe(
        target=TARGET,
        preparation={"normalization": normalization, "order": "importance"},
        family={"hypernetwork": hypernetwork, "coordinate_noise": 0.0},
        sizes=sizes,
    )
    recipe.calibration.images = 0 if normalization == "keep" else None
    family = NeuMetaModel.from_pretrained(train(recipe))
    assert sorted(family.config.block_ranking) == ["stage2", "stage3"]
    if normalization == "keep":  # at trained depths, statistics need no images
        assert list(family.config.statistics_depths) == [0.34, 1.0]
        with pytest.raises(CheckpointError, match=r"at depths: 0\.34, 1"):
            family.morph(0.5, depth={"stage3": 2})
        family.calibrate([torch.randn(8, 1, 8, 8)], depths=[0.34, 0.67, 1.0])
    for depth, blocks in ((0.34, [1, 1, 1]), (0.67, [1, 1, 2]), (1.0, [1, 2, 3])):
        morph = family.morph(0.5, depth=depth)
        assert morph.config.num_blocks == blocks
        assert (
            morph(family.target_family.example_batch(family.reference_config)["pixel_values"]).logits.isfinite().all()
        )
    assert family_facts(family)["blocks"] == {"stage2": 2, "stage3": 3}
    folder = str(tmp_path / "run")
    assert main(["evaluate", folder, "--widths", "0.5,1.0", "--depths", "1.0,0.34"]) == 0
    rows = json.loads((tmp_path / "run/sweep.json").read_text())["rows"]
    assert [(row["width"], row["depth"]) for row in rows] == [(0.5, 1.0), (1.0, 1.0), (0.5, 0.34), (1.0, 0.34)]
    assert {row["trained"] for row in rows} == {True}
    family = NeuMetaModel.from_pretrained(folder)
    assert [row["scores"]["accuracy"] for row in size_facts(family)] == [row["accuracy"] for row in rows]
    plan = family.push_to_hub("org/deep", dry_run=True)
    assert "0.5 depth 0.34" in plan.card
    for depth, row in ((1.0, rows[0]), (0.34, rows[2])):
        card = family.morph(0.5, depth=depth).push_to_hub("org/half", dry_run=True).card
        assert f"{row['accuracy']:.2%}" in card
    if normalization == "fuse":
        assert "Measured" not in family.morph(0.5, depth=0.67).push_to_hub("org/half", dry_run=True).card
    budget = str(rows[2]["num_parameters"])
    found = tmp_path / "found"
    assert main(["morph", folder, "--max-parameters", budget, "--depth", "0.34", "--output", str(found)]) == 0
    assert load_network(str(found)).config.num_blocks == [1, 1, 1]
    assert load_network(str(found)).config.stage_channels == family.morph(0.5, depth=0.34).config.stage_channels
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    keys = {key for line in lines for key in line}
    assert {"train/validation/accuracy@0.5 depth 0.34", "train/validation/accuracy@1"} <= keys


def test_depths_that_no_network_has_are_refused_before_training(make_recipe):
    with pytest.raises(SizeError, match=r"sizes\.depths: .*no network of"):
        train(make_recipe(sizes={"depths": [0.5, 1.0]}))
    with pytest.raises(SizeError, match=r"sizes\.depths: .*smallest possible ratio"):
        train(make_recipe(target=TARGET, sizes={"depths": [0.1, 1.0]}))
    with pytest.raises(RecipeError, match="static_cache.augmentations with sizes.depths"):
        train(make_recipe(target=TARGET, sizes={"depths": [0.34, 1.0]}, static_cache={"augmentations": 1}))
