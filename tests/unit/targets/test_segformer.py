import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from neumeta_hf import NeuMetaModel, prepare
from neumeta_hf.errors import TargetError
from neumeta_hf.targets import (
    NeuMetaSegformerConfig,
    NeuMetaSegformerForSemanticSegmentation,
    find_target,
    resize,
)
from target_axes import num_channels
from tiny_targets import segformer

B0 = {"depths": [2, 2, 2, 2], "hidden_sizes": [32, 64, 160, 256]}
INSIDE = [("heads", 3), ("mlp", 384)]
FAMILY = find_target("segformer")


def at(config, **where):
    space = FAMILY.space(config)
    size = space.exactly({**num_channels(FAMILY, config), **where["counts"]}) if "counts" in where else None
    return FAMILY.config_at(config, size or space.size(**where))


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"width": {"*.mlp": 0.5}}, {"mlp_ratios": [2, 2, 2, 2]}),
        ({"width": {"decoder": 0.5}}, {"decoder_hidden_size": 128}),
        ({"depth": {"stage3": 1}}, {"depths": [2, 2, 1, 2]}),
        (
            {"counts": {"stage3": 96, **{f"stage3.block{n}.{k}": c for n in (1, 2) for k, c in INSIDE}}},
            {"hidden_sizes": [32, 64, 96, 256], "num_attention_heads": [1, 2, 3, 8]},
        ),
    ],
)
def test_sizes_that_the_stock_class_has_words_for_are_stock(where, says):
    config = SegformerConfig(**B0)
    resized = at(config, **where)
    assert type(resized) is SegformerConfig
    assert {name: getattr(resized, name) for name in says} == says
    with torch.device("meta"):
        assert type(FAMILY.build(resized)) is SegformerForSemanticSegmentation


def test_heads_stay_whole_where_a_stream_no_longer_holds_them():
    config = SegformerConfig(**B0)
    resized = resize(config, 0.5)
    assert type(resized) is NeuMetaSegformerConfig
    assert (resized.hidden_sizes, resized.head_dims) == ([16, 32, 80, 128], [32] * 4)
    assert resized.head_counts == [[1, 1], [1, 1], [3, 3], [4, 4]]
    with torch.device("meta"):
        block = FAMILY.build(resized).segformer.stages[2].blocks[0]
    assert block.attention.q_proj.weight.shape == (96, 80)
    assert block.attention.scaling == 32**-0.5
    assert FAMILY.config_at(resized, FAMILY.space(config).full).to_dict() == config.to_dict()


def test_the_own_class_computes_and_starts_as_the_stock_class_does():
    config = segformer()
    counts = {"head_counts": [[3], [6, 6]], "head_dims": [4, 4], "inner_sizes": [[24], [24, 24]]}
    torch.manual_seed(0)
    stock = SegformerForSemanticSegmentation(config).eval()
    own = NeuMetaSegformerForSemanticSegmentation(segformer(NeuMetaSegformerConfig, **counts)).eval()
    std = own.state_dict()["segformer.stages.1.blocks.0.mlp.fc2.weight"].std().item()
    assert std == pytest.approx(0.2, rel=0.2)
    own.load_state_dict(stock.state_dict())
    batch = FAMILY.example_batch(config)
    with torch.no_grad():
        assert torch.equal(own(**batch).logits, stock(**batch).logits)


def test_a_family_has_the_references_outputs_and_statistics_of_each_size():
    config = segformer()
    torch.manual_seed(0)
    network = FAMILY.build(config).eval()
    prepared, _ = prepare(network, normalization="keep", order="importance")
    family = NeuMetaModel.from_reference(
        prepared,
        hypernetwork={"type": "grid", "positions": "absolute", "levels": 2},
        normalization="keep",
        trained_widths=[0.5, 1.0],
    ).eval()
    batch = FAMILY.example_batch(config)
    family.calibrate([batch["pixel_values"]], [0.5, 1.0])
    with torch.no_grad():
        logits = FAMILY.forward(network, batch).logits
        assert logits.shape == (2, 3, 32, 16)  # of the image, as labels have
    assert {name.rpartition(".")[0] for name in family.statistic_names} == {"decode_head.batch_norm"}
    half = family.morph(0.5)
    source = prepared.segformer.stages[1].blocks[0].mlp.dwconv.dwconv
    kernels = half.segformer.stages[1].blocks[0].mlp.dwconv.dwconv
    assert kernels.groups == 12
    torch.testing.assert_close(kernels.weight, source.weight[:12])
    assert half.decode_head.batch_norm.running_mean.shape == (5,)
    assert not torch.equal(half.decode_head.batch_norm.running_mean, torch.zeros(5))


@pytest.mark.parametrize(
    "fields", [{"head_counts": [[3], [6]]}, {"inner_sizes": [[4], [4, 0]]}, {"head_dims": [4, 0]}, {"head_dims": [4]}]
)
def test_blocks_that_do_not_fit_are_refused(fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        segformer(NeuMetaSegformerConfig, **fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_encoder_blocks": 3}, "num_encoder_blocks"),
        ({"hidden_sizes": [12]}, "hidden_sizes"),
        ({"strides": [4]}, "strides"),
        ({"depths": [1, 0]}, "depths"),
        ({"num_attention_heads": [3, 48]}, "num_attention_heads"),
        ({"reshape_last_stage": False}, "reshape_last_stage"),
    ],
)
def test_networks_that_are_none_are_refused_by_name(fields, says):
    with pytest.raises(TargetError, match=says):
        FAMILY.axes(segformer(**fields))


def test_a_recipe_need_not_say_how_many_stages_there_are():
    fields = segformer().to_dict()
    named = ("depths", "hidden_sizes", "num_attention_heads", "mlp_ratios", "sr_ratios", "patch_sizes", "strides")
    config = FAMILY.make_config(
        {name: list(fields[name]) for name in named}, image_shape=(3, 32, 16), label_names=["a", "b"]
    )
    assert FAMILY.image_shape(config) == (3, 32, 16)
    assert list(num_channels(FAMILY, config))[-1] == "decoder"
