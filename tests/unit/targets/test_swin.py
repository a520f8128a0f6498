import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import SwinConfig, SwinForImageClassification

from neumeta_hf import NeuMetaModel, prepare
from neumeta_hf.errors import TargetError
from neumeta_hf.targets import NeuMetaSwinConfig, NeuMetaSwinForImageClassification, find_target, resize
from tiny_targets import swin

FAMILY = find_target("swin")


def at(config, **where):
    return FAMILY.config_at(config, FAMILY.space(config).size(**where))


@pytest.mark.parametrize(
    ("where", "says"),
    [
        # A third and two thirds of three heads are whole, and all stages round alike.
        ({"width": 0.67}, {"embed_dim": 64, "num_heads": [2, 4, 8, 16], "mlp_ratio": 4, "hidden_size": 512}),
        ({"width": {"*.mlp": 0.5}}, {"embed_dim": 96, "mlp_ratio": 2}),
        ({"depth": {"stage3": 4}}, {"depths": [2, 2, 4, 2]}),
    ],
)
def test_sizes_that_the_stock_class_has_words_for_are_stock(where, says):
    resized = at(SwinConfig(), **where)
    assert type(resized) is SwinConfig
    assert {name: getattr(resized, name) for name in says} == says
    with torch.device("meta"):
        assert type(FAMILY.build(resized)) is SwinForImageClassification


def test_heads_stay_whole_where_a_stream_no_longer_holds_them():
    config = SwinConfig()
    resized = resize(config, 0.5)
    assert type(resized) is NeuMetaSwinConfig
    assert (resized.hidden_sizes, resized.hidden_size, resized.head_dims) == ([48, 96, 192, 384], 384, [32] * 4)
    assert [blocks[0] for blocks in resized.head_counts] == [2, 3, 6, 12]
    with torch.device("meta"):
        attention = FAMILY.build(resized).swin.encoder.layers[0].blocks[0].attention
    assert attention.q_proj.weight.shape == (64, 48)
    assert attention.relative_position_bias.relative_position_bias_table.shape == (13 * 13, 2)
    assert FAMILY.config_at(resized, FAMILY.space(config).full).to_dict() == config.to_dict()


def test_a_block_that_is_kept_shifts_its_windows_as_it_did():
    config = swin()
    space = FAMILY.space(config).with_ranking({"stage2": [1, 2, 0]})
    resized = FAMILY.config_at(config, space.size(depth={"stage2": 2}))
    assert resized.shifted == [[False], [True, False]]
    blocks = FAMILY.build(resized).swin.encoder.layers[1].blocks
    assert [block.shift_size for block in blocks] == [1, 0]
    first = FAMILY.config_at(config, FAMILY.space(config).size(depth={"stage2": 2}))
    assert type(first) is SwinConfig


def test_the_own_class_computes_and_starts_as_the_stock_class_does():
    torch.manual_seed(0)
    stock, own = SwinForImageClassification(swin()).eval(), NeuMetaSwinForImageClassification(swin(NeuMetaSwinConfig))
    std = own.state_dict()["swin.encoder.layers.1.blocks.0.mlp.fc2.weight"].std().item()
    assert std == pytest.approx(0.2, rel=0.2)
    own.eval().load_state_dict(stock.state_dict())
    batch = FAMILY.example_batch(stock.config)
    with torch.no_grad():
        assert torch.equal(own(**batch).logits, stock(**batch).logits)


def test_merged_neighbours_are_cut_one_by_one():
    torch.manual_seed(0)
    network = FAMILY.build(swin()).eval()
    prepared, _ = prepare(network, normalization="keep", order="importance")
    family = NeuMetaModel.from_reference(
        prepared,
        hypernetwork={"type": "grid", "positions": "absolute", "levels": 2},
        normalization="keep",
        trained_widths=[0.5, 1.0],
    ).eval()
    batch = FAMILY.example_batch(network.config)
    with torch.no_grad():
        torch.testing.assert_close(family.morph()(**batch).logits, network(**batch).logits, atol=1e-5, rtol=1e-4)
    half = family.morph(width={"stage1": 0.5, "stage1.block1.*": 1.0})
    norm = prepared.swin.encoder.layers[0].downsample.norm
    kept = torch.arange(48).view(4, 12)[:, :6].flatten()
    torch.testing.assert_close(half.swin.encoder.layers[0].downsample.norm.weight, norm.weight[kept])
    table = "swin.encoder.layers.0.blocks.0.attention.relative_position_bias.relative_position_bias_table"
    torch.testing.assert_close(half.state_dict()[table], prepared.state_dict()[table])


@pytest.mark.parametrize(
    "fields",
    [
        {"head_counts": [[3], [6]]},
        {"inner_sizes": [[4], [4, 0, 4]]},
        {"head_dims": [4, 0]},
        {"hidden_sizes": [4]},
        {"shifted": [[True], [False]]},
    ],
)
def test_blocks_that_do_not_fit_are_refused(fields):
    with pytest.raises(StrictDataclassError, match=next(iter(fields))):
        swin(NeuMetaSwinConfig, **fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"num_heads": [3]}, "num_heads"), ({"depths": [1, 0]}, "depths"), ({"num_heads": [3, 5]}, "divide")],
)
def test_networks_that_are_none_are_refused_by_name(fields, says):
    with pytest.raises(TargetError, match=says):
        FAMILY.axes(swin(**fields))
