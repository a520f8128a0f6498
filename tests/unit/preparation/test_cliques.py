import copy
import logging

import preparation_networks as networks
import pytest
import torch

from neumeta_hf.errors import PreparationError
from neumeta_hf.preparation import Clique, CliqueMember, apply_order, find_cliques
from neumeta_hf.targets import AutoencoderKLTargetConfig, MlpVaeTargetConfig, find_target

# Of each clique the number of channels, and axes that must be among its members.
EXPECTED = {
    networks.Plain: [
        (6, ["conv1.weight[0]", "conv1.bias[0]", "bn1.weight[0]", "bn1.running_var[0]", "conv2.weight[1]"]),
        (10, ["conv2.weight[0]", "bn2.bias[0]", "bn2.running_mean[0]", "conv3.weight[1]"]),
        (7, ["conv3.weight[0]", "bn3.running_mean[0]", "head.weight[1]"]),
    ],
    networks.Residual: [
        (6, ["stem.weight[0]", "inner.weight[1]", "outer.weight[0]", "square.weight[0]", "square.weight[1]"]),
        (5, ["inner.weight[0]", "outer.weight[1]"]),
        (8, ["skip.weight[0]", "down.weight[0]", "head.weight[1]"]),
    ],
    networks.Concatenation: [
        (4, ["left.weight[0]", "norm.weight[0]", "norm.running_var[0]", "mix.weight[1]", "head.weight[1]"]),
        (6, ["right.weight[0]", "norm.weight[0]", "norm.running_var[0]", "mix.weight[1]", "head.weight[1]"]),
        (5, ["mix.weight[0]", "head.weight[1]"]),
    ],
    networks.Flattening: [(5, ["conv.weight[0]", "hidden.weight[1]"]), (9, ["hidden.weight[0]", "head.weight[1]"])],
    networks.Depthwise: [
        (12, ["expand.weight[0]", "depthwise.weight[0]", "depthwise.bias[0]", "squeeze.weight[1]", "excite.bias[0]"]),
        (3, ["squeeze.weight[0]", "excite.weight[1]"]),
        (6, ["project.weight[0]", "head.weight[1]"]),
    ],
    networks.Decoder: [
        (8, ["up1.weight[1]", "bn1.weight[0]", "up2.weight[0]", "up2.bias[0]", "up3.weight[0]"]),
        (5, ["up3.weight[1]", "up3.bias[0]", "image.weight[1]"]),
    ],
    networks.Perceptron: [
        (8, ["scale[0]", "embed.weight[0]", "norm.weight[0]", "up.weight[1]", "down.weight[0]", "head.weight[1]"]),
        (16, ["up.weight[0]", "up.bias[0]", "down.weight[1]"]),
    ],
    networks.Volume: [(5, ["conv.weight[0]", "series.weight[1]"]), (7, ["series.weight[0]", "head.weight[1]"])],
    networks.PaddedShortcut: [(5, ["inner1.weight[0]", "outer1.weight[1]"]), (7, ["inner2.weight[0]"])],
    networks.ConcatenatedShortcut: [(5, ["inner1.weight[0]", "outer1.weight[1]"]), (7, ["inner2.weight[0]"])],
    networks.Grouped: [(5, ["after.weight[0]", "head.weight[1]"])],
    networks.Weighted: [(5, ["after.weight[0]", "head.weight[1]"])],
    networks.AddedToInput: [(5, ["after.weight[0]", "head.weight[1]"])],
    networks.Chunked: [(5, ["down.weight[0]", "head.weight[1]"])],
}


def axes(clique: Clique) -> set[str]:
    return {f"{member.name}[{member.axis}]" for member in clique.members}


@pytest.mark.parametrize("network", EXPECTED)
def test_channels_that_go_together_are_found(network):
    model, inputs = networks.make(network)
    cliques = find_cliques(model, inputs)
    # Which of two cliques comes first is fixed by the state dict; here only what they are counts.
    by_size = {clique.num_channels: axes(clique) for clique in cliques}
    assert len(cliques) == len(EXPECTED[network])
    assert sorted(by_size) == sorted(size for size, _ in EXPECTED[network])
    for num_channels, members in EXPECTED[network]:
        assert by_size[num_channels] >= set(members)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("network", EXPECTED)
def test_no_order_of_a_clique_changes_the_outputs(network, seed):
    model, inputs = networks.make(network, seed)
    expected = model(inputs)
    generator = torch.Generator().manual_seed(seed)
    for clique in find_cliques(model, inputs):
        order = torch.randperm(clique.num_channels, generator=generator).tolist()
        model.load_state_dict(apply_order(model.state_dict(), clique, order))
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


def groups_of(cliques: list[Clique], name: str) -> list[list[int]]:
    """Which positions of the output axis of a tensor can change places."""
    found = [
        member.positions for clique in cliques for member in clique.members if (member.name, member.axis) == (name, 0)
    ]
    return [positions.flatten().tolist() for positions in found]


def test_channels_stay_within_their_group_of_a_group_norm(caplog):
    cliques = find_cliques(*networks.make(networks.GroupNormalised))
    assert (
        groups_of(cliques, "pairs.weight") == groups_of(cliques, "pairs_norm.bias") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    )
    assert groups_of(cliques, "whole.weight") == [list(range(6))]
    assert groups_of(cliques, "single.weight") == [list(range(5))]
    # Of the four and five channels beside each other the second triple has one of the left and two of the right.
    assert groups_of(cliques, "left.weight") == [[0, 1, 2]]
    assert groups_of(cliques, "right.weight") == [[0, 1], [2, 3, 4]]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("attention", [True, False])
def test_an_autoencoder_is_free_but_for_images_latents_and_groups(attention, caplog):
    vae = {"block_out_channels": [8, 16], "norm_num_groups": 4, "mid_block_add_attention": attention}
    config = AutoencoderKLTargetConfig(image_size=8, num_channels=1, vae=vae)
    family = find_target(config)
    model = networks.randomise(family.build(config), seed=0)
    cliques = find_cliques(model, family.example_batch(config))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    quarters = [list(range(start, start + 4)) for start in (0, 4, 8, 12)]
    for name in (
        "decoder.conv_in",
        "decoder.mid_block.resnets.0.norm1",
        "encoder.down_blocks.1.resnets.0.conv_shortcut",
    ):
        assert groups_of(cliques, f"{name}.weight") == quarters
    for name in ("decoder.conv_out", "quant_conv"):
        assert groups_of(cliques, f"{name}.weight") == groups_of(cliques, f"{name}.bias") == []
    # Nothing normalises the head of the attention.
    heads = [f"encoder.mid_block.attentions.0.{name}.weight" for name in ("to_q", "to_k", "to_v")]
    assert [groups_of(cliques, head) for head in heads] == [[list(range(16))] if attention else []] * 3
    free = sum(tensor.shape[0] for name, tensor in model.state_dict().items() if name.endswith("weight"))
    moved = sum(
        len(group) for name in model.state_dict() if name.endswith("weight") for group in groups_of(cliques, name)
    )
    assert moved == free - len(model.decoder.conv_out.bias) - len(model.quant_conv.bias)


@pytest.mark.parametrize(
    "config",
    [
        AutoencoderKLTargetConfig(image_size=8, vae={"block_out_channels": [8, 16], "norm_num_groups": 4}),
        MlpVaeTargetConfig(image_size=4, encoder_hidden_channels=[9], decoder_hidden_channels=[7]),
    ],
    ids=["kl", "mlp"],
)
def test_no_order_changes_the_latents_of_an_autoencoder(config):
    family = find_target(config)
    model, inputs = networks.randomise(family.build(config), seed=0), family.example_batch(config)["pixel_values"]
    with torch.no_grad():
        expected = family.forward(model, inputs, seed=1)
        generator = torch.Generator().manual_seed(0)
        for clique in find_cliques(model, inputs):
            order = torch.randperm(clique.num_channels, generator=generator).tolist()
            model.load_state_dict(apply_order(model.state_dict(), clique, order))
        actual = family.forward(model, inputs, seed=1)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-4, atol=1e-5 * value.abs().max().item())


@pytest.mark.parametrize("network", EXPECTED)
def test_every_position_belongs_to_one_channel_of_one_clique(network):
    model, inputs = networks.make(network)
    seen = set()
    for clique in find_cliques(model, inputs):
        for member in clique.members:
            assert member.positions.shape[0] == clique.num_channels
            for position in member.positions.flatten().tolist():
                assert (member.name, member.axis, position) not in seen
                seen.add((member.name, member.axis, position))
                assert position < model.state_dict()[member.name].shape[member.axis]


def test_a_channel_owns_a_run_of_a_flattened_map():
    clique = find_cliques(*networks.make(networks.Flattening))[0]
    positions = {member.name: member.positions for member in clique.members}
    assert torch.equal(positions["conv.weight"], torch.arange(5)[:, None])
    assert torch.equal(positions["hidden.weight"], torch.arange(80).view(5, 16))


def test_a_concatenated_channel_keeps_its_offset():
    cliques = {clique.num_channels: clique for clique in find_cliques(*networks.make(networks.Concatenation))}
    for num_channels, name, start in [(4, "norm.running_mean", 0), (6, "mix.weight", 4), (5, "head.weight", 10)]:
        positions = next(member.positions for member in cliques[num_channels].members if member.name == name)
        assert positions.flatten().tolist() == list(range(start, start + num_channels))


@pytest.mark.parametrize(
    ("network", "level", "words"),
    [
        (networks.Plain, logging.INFO, ["head.weight[0]", "outputs of the network"]),
        (networks.PaddedShortcut, logging.INFO, ["stem.weight[0]", "outer2.weight[0]", "4 positions where 8"]),
        (networks.Grouped, logging.INFO, ["before.weight[0]", "grouped is a grouped convolution"]),
        (networks.Weighted, logging.WARNING, ["before.weight[0]", "after.weight[1]", "changes the outputs"]),
        (networks.AddedToInput, logging.WARNING, ["conv.weight[0]", "changes the outputs"]),
        (networks.Chunked, logging.WARNING, ["up.weight[0]", "changes the outputs"]),
    ],
)
def test_what_stays_in_its_order_is_logged_by_name(network, level, words, caplog):
    with caplog.at_level(logging.INFO, logger="neumeta_hf"):
        find_cliques(*networks.make(network))
    messages = " ".join(record.getMessage() for record in caplog.records if record.levelno == level)
    assert all(word in messages for word in words)


def test_weights_that_are_zero_hide_nothing():
    model, inputs = networks.make(networks.Weighted)
    torch.nn.init.zeros_(model.after.weight)
    assert [clique.num_channels for clique in find_cliques(model, inputs)] == [5]


def test_the_model_stays_as_it_was():
    model, inputs = networks.make(networks.Residual)
    model.train()
    model.inner_bn.eval()
    model.stem.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    with torch.no_grad():
        cliques = find_cliques(model, inputs)
    assert len(cliques) == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in (model, model.stem, model.inner_bn)] == [True, True, False]
    assert [p.requires_grad for p in (model.stem.weight, model.inner.weight)] == [False, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_half_precision_and_repetition_change_nothing():
    model, inputs = networks.make(networks.Concatenation)
    expected = [str(clique) for clique in find_cliques(model, inputs)]
    assert [str(clique) for clique in find_cliques(model, inputs)] == expected
    assert [str(clique) for clique in find_cliques(model.bfloat16(), inputs.bfloat16())] == expected


def test_a_network_without_tensors_in_its_outputs_is_refused():
    class Silent(networks.Plain):
        def forward(self, x):
            super().forward(x)
            return None

    with pytest.raises(PreparationError, match="NoneType without any tensor"):
        find_cliques(Silent(), torch.randn(2, 3, 8, 8))


def pair() -> Clique:
    return Clique(
        2,
        (CliqueMember("weight", 1, torch.tensor([[0, 1], [3, 4]])), CliqueMember("bias", 0, torch.arange(2)[:, None])),
    )


def test_only_the_positions_of_the_clique_move():
    state = {"weight": torch.arange(10.0).view(2, 5), "bias": torch.tensor([5.0, 6.0]), "other": torch.ones(3)}
    before = copy.deepcopy(state)
    permuted = apply_order(state, pair(), [1, 0])
    assert permuted["weight"].tolist() == [[3, 4, 2, 0, 1], [8, 9, 7, 5, 6]]
    assert permuted["bias"].tolist() == [6, 5]
    assert permuted["other"] is state["other"]
    assert all(torch.equal(state[name], before[name]) for name in state)


@pytest.mark.parametrize("network", networks.FREE)
def test_an_order_and_its_inverse_cancel(network):
    model, inputs = networks.make(network)
    state = model.state_dict()
    for clique in find_cliques(model, inputs):
        order = torch.randperm(clique.num_channels, generator=torch.Generator().manual_seed(0))
        there = apply_order(state, clique, order.tolist())
        back = apply_order(there, clique, order.argsort().tolist())
        moves = order.tolist() != list(range(clique.num_channels))
        assert any(not torch.equal(there[name], state[name]) for name in state) == moves
        assert all(torch.equal(back[name], state[name]) for name in state)


def test_orders_and_weights_that_do_not_fit_are_refused():
    state = {"weight": torch.ones(2, 5), "bias": torch.ones(2)}
    for order in ([0, 0], [0], [1, 2]):
        with pytest.raises(PreparationError, match="each of 0 to 1 once"):
            apply_order(state, pair(), order)
    with pytest.raises(PreparationError, match="lack 'bias'"):
        apply_order({"weight": state["weight"]}, pair(), [1, 0])
    with pytest.raises(PreparationError, match=r"'weight' has shape \(2, 4\).*5 positions on axis 1"):
        apply_order(state | {"weight": torch.ones(2, 4)}, pair(), [1, 0])


def test_coarse_rounding_is_not_taken_for_a_wrong_clique(caplog):
    model, inputs = networks.make(networks.Coarse)
    with caplog.at_level(logging.WARNING):
        (clique,) = find_cliques(model, inputs)
    assert axes(clique) == {"conv.weight[0]", "conv.bias[0]", "head.weight[1]"}
    assert not caplog.records
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
