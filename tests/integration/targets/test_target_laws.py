"""The laws that every target family keeps, at every size; the family of docs/new_target.md is one of them."""

import contextlib
import copy
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextV2Config,
    DeiTConfig,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    MistralConfig,
    MobileNetV2Config,
    Qwen2Config,
    Qwen3Config,
    ResNetConfig,
    RobertaConfig,
    UperNetConfig,
)

from neumeta_hf import NeuMetaModel
from neumeta_hf.axes import scale_channels
from neumeta_hf.building import fill, own_tensors
from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.preparation import find_cliques
from neumeta_hf.targets import (
    AutoencoderKLTargetConfig,
    AutoencoderTinyTargetConfig,
    CifarResNetConfig,
    LeNetConfig,
    MlpVaeTargetConfig,
    NeuMetaBertConfig,
    NeuMetaConvNextConfig,
    NeuMetaLlamaConfig,
    NeuMetaMobileNetV2Config,
    NeuMetaResNetConfig,
    NeuMetaSegformerConfig,
    NeuMetaSwinConfig,
    NeuMetaViTConfig,
    config_of,
    find_target,
    list_targets,
    ratios,
    registry,
    resize,
)
from target_axes import axis_parts, multiples, num_channels, parents_of, with_num_channels
from tiny_targets import bert, llama, segformer, swin, vit

GUIDE = Path(__file__).parents[3] / "docs" / "new_target.md"


def cifar(**options):
    return CifarResNetConfig(
        num_blocks=[1, 2, 1], stage_channels=[4, 8, 16], image_size=8, **{"num_labels": 3, **options}
    )


def resnet(cls=ResNetConfig, **options):
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "image_size": 32, "num_labels": 3}
    return cls(**{**sizes, **options})


def convnext(cls=ConvNextConfig, **options):
    sizes = {"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2, "image_size": 16, "num_labels": 3}
    # As published, the layer scale starts so small that the blocks of a fresh network do nothing.
    own = {"layer_scale_init_value": 0.5} if issubclass(cls, ConvNextConfig) else {}
    return cls(**{**sizes, "patch_size": 2, "initializer_range": 0.2, **own, **options})


def mobilenet(cls=MobileNetV2Config, **options):
    sizes = {"depth_multiplier": 0.25, "depth_divisible_by": 1, "min_depth": 1, "expand_ratio": 2.0, "image_size": 32}
    return cls(
        **{
            **sizes,
            "finegrained_output": False,
            "classifier_dropout_prob": 0.0,
            "num_labels": 3,
            "initializer_range": 0.2,
            **options,
        }
    )


def upernet(backbone, **options):
    sizes = {"hidden_size": 12, "pool_scales": (1, 2), "image_size": [32, 48], "num_labels": 3}
    return UperNetConfig(backbone_config=backbone, use_auxiliary_head=False, **{**sizes, **options})


def vae(block_out_channels, norm_num_groups, **options):
    fields = {"block_out_channels": block_out_channels, "norm_num_groups": norm_num_groups, **options}
    return AutoencoderKLTargetConfig(image_size=8, num_channels=1, vae=fields)


def tiny_vae(encoder, decoder, **options):
    fields = {"encoder_block_out_channels": encoder, "decoder_block_out_channels": decoder, "latent_channels": 2}
    blocks = {"num_encoder_blocks": [1] * len(encoder), "num_decoder_blocks": [2, 1, 1][: len(decoder)]}
    return AutoencoderTinyTargetConfig(image_size=[16, 8], num_channels=1, vae={**fields, **blocks, **options})


CASES = {
    "lenet": lambda: LeNetConfig(hidden_channels=[4, 8, 12], image_size=8, num_labels=3),
    "lenet_batch_norm": lambda: LeNetConfig(
        hidden_channels=[4, 8, 12], kernel_size=3, batch_norm=True, num_input_channels=3, image_size=9, num_labels=3
    ),
    "cifar_resnet_identity": lambda: cifar(shortcut="identity"),
    "cifar_resnet_projection": lambda: cifar(shortcut="projection"),
    "cifar_resnet_inner": lambda: cifar(inner_channels=[[6], [4, 10], [16]]),
    "cifar_resnet_fused": lambda: cifar(batch_norm=False),
    "resnet_basic": lambda: resnet(layer_type="basic", hidden_sizes=[8, 16]),
    "resnet_basic_free_stem": lambda: resnet(layer_type="basic", embedding_size=5),
    "resnet_bottleneck": lambda: resnet(downsample_in_bottleneck=True),
    "resnet_strided_stem": lambda: resnet(layer_type="basic", hidden_sizes=[8, 16], downsample_in_first_stage=True),
    "resnet_inner": lambda: resnet(NeuMetaResNetConfig, inner_sizes=[[6], [4, 10]]),
    "convnext": lambda: convnext(),
    "convnext_inner": lambda: convnext(NeuMetaConvNextConfig, inner_sizes=[[6], [16, 10]], image_size=[16, 12]),
    "convnext_unscaled": lambda: convnext(
        layer_scale_init_value=0.0, depths=[2, 1, 1], hidden_sizes=[8, 8, 16], num_stages=3
    ),
    "convnextv2": lambda: convnext(ConvNextV2Config),
    "mobilenet_v2": lambda: mobilenet(),
    "mobilenet_v2_own": lambda: mobilenet(
        NeuMetaMobileNetV2Config,
        stem_channels=6,
        stage_channels=[4, 6, 6, 8, 8, 10, 12],
        inner_channels=[[], [8, 9], [10, 6, 7], [8, 9, 10, 8], [12, 10, 9], [8, 8, 12], [14]],
        head_channels=12,
        first_layer_is_expansion=False,
        tf_padding=False,
    ),
    "upernet": lambda: upernet(resnet(layer_type="basic", hidden_sizes=[8, 16], out_features=["stage1", "stage2"])),
    "upernet_inner": lambda: upernet(
        resnet(NeuMetaResNetConfig, inner_sizes=[[6], [4, 10]], out_features=["stem", "stage2"]), pool_scales=(1, 2, 3)
    ),
    "segformer": segformer,
    "segformer_own": lambda: segformer(
        NeuMetaSegformerConfig,
        hidden_sizes=[10, 14],
        head_counts=[[3], [4, 5]],
        head_dims=[4, 6],
        inner_sizes=[[7], [10, 15]],
        image_size=16,
    ),
    "swin": swin,
    "swin_own": lambda: swin(
        NeuMetaSwinConfig,
        hidden_sizes=[10, 14],
        head_counts=[[3], [4, 5, 3]],
        head_dims=[4, 6],
        inner_sizes=[[7], [10, 15, 8]],
        shifted=[[True], [False, False, True]],
        use_absolute_embeddings=True,
        image_size=[16, 12],
    ),
    "autoencoder_kl": lambda: vae([16, 32], 4),
    "autoencoder_kl_ungrouped": lambda: vae([3, 7], 1, use_quant_conv=False, use_post_quant_conv=False),
    "autoencoder_kl_inner": lambda: vae(
        [8, 16, 16],
        2,
        layers_per_block=2,
        mid_block_add_attention=False,
        decoder_block_out_channels=[6, 10, 10],
        inner_channels={"encoder.mid_block.resnets.0": 12, "decoder.up_blocks.1.resnets.0": 8},
    ),
    "autoencoder_tiny": lambda: tiny_vae([8, 8], [12, 12]),
    "autoencoder_tiny_inner": lambda: tiny_vae(
        [4, 8, 8], [10, 8, 4], inner_channels={"encoder.layers.1": 6, "decoder.layers.3": 5}, act_fn="silu"
    ),
    "mlp_vae": lambda: MlpVaeTargetConfig(
        image_size=4, encoder_hidden_channels=[16, 9], decoder_hidden_channels=[12], latent_channels=3
    ),
    "vit": vit,
    "deit": lambda: vit(DeiTConfig, intermediate_size=20),
    "vit_per_layer": lambda: vit(
        NeuMetaViTConfig,
        intermediate_size=8,
        per_layer_config={1: {"num_attention_heads": 4, "intermediate_size": 16}},
        head_dim=6,
    ),
    "dinov2": lambda: vit(Dinov2Config),
    "dinov2_with_registers": lambda: vit(Dinov2WithRegistersConfig),
    "bert": bert,
    "bert_per_layer": lambda: bert(
        NeuMetaBertConfig,
        head_dim=5,
        per_layer_config={1: {"intermediate_size": 12}},
        architectures=["NeuMetaBertModel"],
    ),
    "roberta": lambda: bert(RobertaConfig, pad_token_id=1),
    "bert_masked_lm": lambda: bert(architectures=["BertForMaskedLM"]),
    "roberta_masked_lm": lambda: bert(RobertaConfig, pad_token_id=1, architectures=["RobertaForMaskedLM"]),
    "llama": llama,
    "llama_per_layer": lambda: llama(NeuMetaLlamaConfig, per_layer_config={1: {"intermediate_size": 12}}),
    "mistral": lambda: llama(MistralConfig, tie_word_embeddings=False),
    "qwen3": lambda: llama(Qwen3Config, head_dim=6),
    "qwen2": lambda: llama(Qwen2Config),
    "guide": lambda: sys.modules["residual_mlp"].ResidualMlpConfig(num_labels=3),
}


def code_blocks():
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """The guide's file as an imported module; its family is registered for this test module only."""
    path = tmp_path_factory.mktemp("guide") / "residual_mlp.py"
    path.write_text(code_blocks()[0])
    spec = importlib.util.spec_from_file_location("residual_mlp", path)
    sys.modules["residual_mlp"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del registry._REGISTRY["residual_mlp"], sys.modules["residual_mlp"]


@pytest.fixture(params=CASES)
def config(request):
    if request.param == "guide":
        request.getfixturevalue("guide")
    return CASES[request.param]()


def shapes(config):
    return {name: tuple(value.shape) for name, value in own_tensors(find_target(config).empty(config)).items()}


def canonical_shapes(config):
    space = find_target(config).space(config)
    return {name: space.canonical_shape(name, space.full) for name in space.tensors}


def answer(output):
    return next(output[name] for name in ("sample", "logits", "last_hidden_state") if name in output)


def answers(model, config):
    family = find_target(config)
    with torch.no_grad():
        return answer(family.forward(model, family.example_batch(config)))


def answer_shape(config):
    """Of the answer for one sample: an image, or logits: of three classes, or for each pixel or token."""
    family = find_target(config)
    if family.task == "sentence-embedding":
        return (*family.example_batch(config)["input_ids"].shape[1:], config.hidden_size)
    if family.task in ("causal-lm", "masked-lm"):
        return (*family.example_batch(config)["input_ids"].shape[1:], config.vocab_size)
    if family.task in ("image-generation", "image-reconstruction"):
        return family.image_shape(config)
    return (3, *family.image_shape(config)[1:]) if family.task == "semantic-segmentation" else (3,)


def scaled(config, ratios):
    """Channels of each group at a ratio for each, in whole multiples of what the family asks for."""
    family = find_target(config)
    steps, full = multiples(family, config), num_channels(family, config)
    return {
        group: scale_channels(count // steps.get(group, 1), ratios.get(group, 1.0)) * steps.get(group, 1)
        for group, count in full.items()
    }


def test_every_registered_family_is_a_case():
    families = {find_target(make()).name for name, make in CASES.items() if name != "guide"}
    assert families == set(list_targets())


def test_num_channels_round_trip(config):
    family = find_target(config)
    same = with_num_channels(family, config, num_channels(family, config))
    assert type(same) is type(config)
    assert same.to_dict() == config.to_dict()
    assert same is not config


def test_counts_of_any_integer_type_become_int(config):
    family = find_target(config)
    counts = {group: torch.tensor(count) for group, count in num_channels(family, config).items()}
    same = with_num_channels(family, config, counts)
    assert {type(count) for count in num_channels(family, same).values()} == {int}


@pytest.mark.parametrize("change", [lambda c: c.popitem(), lambda c: c.update(nowhere=4)], ids=["missing", "unknown"])
def test_a_missing_or_unknown_group_is_refused(config, change):
    family = find_target(config)
    counts = num_channels(family, config)
    change(counts)
    with pytest.raises(SizeError, match=", ".join(num_channels(family, config))):
        with_num_channels(family, config, counts)


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "8", None])
def test_a_count_that_is_none_is_refused(config, count):
    family = find_target(config)
    counts = num_channels(family, config)
    group = list(counts)[-1]
    with pytest.raises(SizeError, match=f"{group!r} cannot have {count!r} channels"):
        with_num_channels(family, config, {**counts, group: count})


def test_parents_are_groups(config):
    family = find_target(config)
    groups = set(num_channels(family, config))
    for child, parent in parents_of(family, config).items():
        assert {child, parent} <= groups
        assert child != parent


@pytest.mark.parametrize("width", [0.5, 0.75, 1.0, 1.25])
def test_uniform_width_scales_every_group_and_runs(config, width):
    family = find_target(config)
    resized = resize(config, width)
    assert num_channels(family, resized) == scaled(config, dict.fromkeys(num_channels(family, config), width))
    assert list(shapes(resized)) == list(shapes(config))
    output = answers(family.build(resized), resized)
    assert output.shape == (2, *answer_shape(resized))
    assert output.isfinite().all()


def test_each_group_changes_its_followers_only_and_some_shape(config):
    family = find_target(config)
    full, parents, before = num_channels(family, config), parents_of(family, config), shapes(config)
    for group in full:
        resized = resize(config, {group: 0.75})
        changed = {group} | {child for child, parent in parents.items() if parent == group}
        assert num_channels(family, resized) == scaled(config, dict.fromkeys(changed, 0.75))
        network = family.build(resized)
        after = {name: tuple(value.shape) for name, value in own_tensors(network).items()}
        assert list(before) == list(after)
        assert before != after
        assert answers(network, resized).isfinite().all()


def test_a_size_changes_parts_of_axes_in_step_with_their_group(config):
    family = find_target(config)
    full, before, old_parts = num_channels(family, config), canonical_shapes(config), axis_parts(family, config)
    assert old_parts.keys() <= before.keys()
    steps = multiples(family, config)
    for group, old in full.items():
        new = old + steps.get(group, 1)
        resized = with_num_channels(family, config, {**full, group: new})
        after, new_parts = canonical_shapes(resized), axis_parts(family, resized)
        assert old_parts.keys() == new_parts.keys()
        for name, shape in before.items():
            assert after[name][2:] == shape[2:]
            both = (shape, old_parts), (after[name], new_parts)
            old_axes, new_axes = ([[size] for size in axes[:2]] for axes, _ in both)
            if name in old_parts:
                old_axes, new_axes = (parts[name] for _, parts in both)
                for axes, parts in both:
                    assert [sum(axis) for axis in parts[name]] == list((*axes, 1)[:2])
            for old_axis, new_axis in zip(old_axes, new_axes, strict=True):
                for old_part, new_part in zip(old_axis, new_axis, strict=True):
                    assert new_part == old_part or new_part * old == old_part * new, (group, name)


def random_sizes(config, number):
    """Sizes with a ratio of its own for each axis, and a depth for each stack, that the architecture can have."""
    space, random, found = find_target(config).space(config), np.random.default_rng(0), []
    while len(found) < number:
        with contextlib.suppress(SizeError):
            width = {axis: float(random.uniform(0.3, 1.5)) for axis in space.axes}
            depth = {name: int(random.integers(d.least, d.full + 1)) for name, d in space.depths.items()}
            found.append(space.size(width, depth=depth))
    return found


def test_shapes_of_random_sizes_are_those_of_the_network_that_is_built(config):
    family = find_target(config)
    space = family.space(config)
    assert space.shapes(space.full) == shapes(config)
    for size in random_sizes(config, 10):
        resized = family.config_at(config, size)
        assert space.shapes(size) == shapes(resized)
        if space.is_whole(size):
            assert family.size_of(resized) == size
            assert hash(family.size_of(resized)) == hash(size)
            # From there to the full size and back, whatever class the config is of.
            assert shapes(family.config_at(resized, space.full)) == space.shapes(space.full)


def test_a_block_that_adds_nothing_can_be_left_out(config):
    family = find_target(config)
    space = family.space(config)
    if family.name.startswith("bert"):
        pytest.skip("normalises its stream after adding to it: a block of zeros is not the identity")
    torch.manual_seed(0)
    for name, depth in space.depths.items():
        for number in depth.ranking:
            network = family.build(config).eval()
            others = [other for other in depth.ranking if other != number]
            ranked = space.with_ranking({name: [*others, number]})
            size = ranked.size(depth={name: depth.full - 1})
            path = f"{depth.stack}.{number}."
            with torch.no_grad():
                for tensor, parameter in network.named_parameters():
                    # What the block adds to its stream is all that its last layers write.
                    if tensor.startswith(path) and space.axes_of(tensor)[0].isdisjoint(depth.inner[number]):
                        parameter.zero_()
            state = {named: network.state_dict()[tensor] for tensor, named in ranked.names(size).items()}
            shallow = fill(family.empty(family.config_at(config, size)), state).eval()
            assert torch.allclose(answers(shallow, config), answers(network, config), atol=1e-6)
            assert len(state) < len(own_tensors(network))


def test_depths_that_are_none_are_refused_and_say_what_is_possible(config):
    space = find_target(config).space(config)
    if not space.depths:
        with pytest.raises(SizeError, match="no network of .* has blocks that can be left out"):
            space.size(depth=0.5)
        return
    name, stack = next(iter(space.depths.items()))
    for depth, says in (
        (0, "give a ratio in"),
        (1.5, "give a ratio in"),
        (True, "give a ratio in"),
        ({name: 0}, "give a number of blocks"),
        ({name: stack.full + 1}, "give a number of blocks"),
        ({name: 0.5}, "give a number of blocks"),
        ({"nowhere": 1}, "choose among"),
        (1e-3, "smallest possible ratio"),
    ):
        with pytest.raises(SizeError, match=says):
            space.size(depth=depth)


def axes_by_position(space):
    """The axis of each channel of each dimension of each tensor, where it has one."""
    found = {}
    for name, dims in space.tensors.items():
        for number, dim in enumerate(dims):
            first = 0
            for segment in dim:
                found |= {(name, number, first + n): segment.axis for n in range(segment.count) if segment.axis}
                first += segment.count
    return found


def test_declared_axes_are_what_the_graph_of_the_network_ties_together(config):
    family = find_target(config)
    declared = axes_by_position(family.space(config))
    torch.manual_seed(0)
    network = family.build(config).eval()
    traced: dict[str, set] = {}
    for clique in find_cliques(network, family.example_batch(config)):
        places = {
            (member.name, member.axis, position)
            for member in clique.members
            for position in member.positions.flatten().tolist()
        }
        (axis,) = {declared.get(place) for place in places}  # what moves together is of one axis
        if axis is not None:
            traced.setdefault(axis, set()).update(places)
    for axis, places in traced.items():
        assert places == {place for place, owner in declared.items() if owner == axis}, axis
    if not family.has_graph:  # its rules then stood the test of permuting what they tie together
        free = {axis for axis, count in num_channels(family, config).items() if count > 1}
        # What it puts out, such as the vectors of a sentence encoder, stays in its order.
        assert set(traced) == free - set(family.output_axes)


def test_named_children_and_groups_are_obeyed(config):
    family = find_target(config)
    full, parents = num_channels(family, config), parents_of(family, config)
    for child, parent in parents.items():
        alone = num_channels(family, resize(config, {parent: 0.75, child: 1.0}))
        assert alone[child] == full[child]
        assert alone[parent] == scaled(config, {parent: 0.75})[parent]
        kept = num_channels(family, resize(config, 0.75, groups=[parent]))
        assert kept == scaled(config, {parent: 0.75})


def test_ratios_invert_resize(config):
    for width in (0.5, 1.0, {list(num_channels(find_target(config), config))[-1]: 0.5}):
        resized = resize(config, width)
        assert resize(config, ratios(resized, config)).to_dict() == resized.to_dict()


def test_config_is_never_mutated(config):
    family, before = find_target(config), copy.deepcopy(config.to_dict())
    family.config_of(family.build(config)).num_labels = 7
    parents_of(family, config)
    family.fused_config(config).num_labels = 7
    family.example_batch(config)
    ratios(resize(config, 0.5), config)
    with_num_channels(family, config, num_channels(family, config)).num_labels = 7
    assert config.to_dict() == before


@pytest.mark.parametrize("width", [1.0, 0.75])
def test_save_and_reload_is_bit_equal(config, width, tmp_path):
    resized = resize(config, width)
    model = find_target(config).build(resized).eval()
    for name, value in model.state_dict().items():
        if value.is_floating_point() and "running_var" not in name:
            value.normal_()
    model.save_pretrained(tmp_path)
    # Weights read from a file lie anywhere in memory, and some kernels round by where they lie; a copy lies as ours do.
    reloaded = copy.deepcopy(find_target(config).load(str(tmp_path)))
    assert type(reloaded) is type(model)
    assert num_channels(find_target(config), config_of(reloaded)) == num_channels(find_target(config), resized)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in reloaded.state_dict().items())
    assert torch.equal(answers(reloaded, resized), answers(model, resized))
    assert set(ratios(config_of(reloaded), config)) == set(num_channels(find_target(config), config))


def test_meta_build_has_the_same_tensors(config):
    family = find_target(config)
    with torch.device("meta"):
        skeleton = family.build(config).state_dict()
    model = family.build(config).state_dict()
    assert {n: (v.shape, v.dtype) for n, v in skeleton.items()} == {n: (v.shape, v.dtype) for n, v in model.items()}
    assert {value.device.type for value in skeleton.values()} == {"meta"}


def test_fused_config_has_the_same_size_and_keeps_the_function_expressible(config):
    family = find_target(config)
    fused = family.fused_config(config)
    assert num_channels(family, fused) == num_channels(family, config)
    assert family.fused_config(fused).to_dict() == fused.to_dict()
    before, after = shapes(config), shapes(fused)
    weights = {name: shape for name, shape in before.items() if len(shape) > 1}
    assert {name: shape for name, shape in after.items() if len(shape) > 1} == weights
    modules = family.build(fused).modules()
    if after != before:
        convolutions = [module for module in modules if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
        assert all(getattr(module, "bias", None) is not None for module in convolutions)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in convolutions)


def test_an_example_batch_is_the_same_each_time_and_leaves_the_global_generator_alone(config):
    family, state = find_target(config), torch.get_rng_state()
    batches = family.example_batch(config, 3), family.example_batch(config, 3)
    first, second = (batch[family.input_names[0]] for batch in batches)
    assert first.shape[0] == 3
    assert "pixel_values" not in family.input_names or first.shape[1:] == family.image_shape(config)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.device("meta"):
        assert family.example_batch(config)[family.input_names[0]].device.type == "cpu"


def test_a_network_takes_what_it_names_of_a_batch(config):
    family, batch = find_target(config), find_target(config).example_batch(config)
    assert set(batch) == set(family.input_names)
    model = family.build(config).eval()
    with torch.no_grad():
        expected = answer(family.forward(model, batch))
        more = {"labels": torch.zeros(2), "static_outputs/a#0": torch.zeros(2, 3), **batch}
        assert torch.equal(answer(family.forward(model, more)), expected)
        assert torch.equal(answer(family.forward(model, batch[family.input_names[0]])), expected)
    for lacking in ({}, {"labels": torch.zeros(2)}):
        with pytest.raises(TargetError, match=family.input_names[0]):
            family.forward(model, lacking)


def test_every_parameter_gets_a_gradient(config):
    family = find_target(config)
    model = family.build(resize(config, 0.75)).train()
    torch.manual_seed(0)
    batch = family.example_batch(config, 8)
    if family.task in ("image-generation", "image-reconstruction"):
        loss = sum(value.square().mean() for value in family.forward(model, batch).values())
    elif family.task == "sentence-embedding":
        outputs = model(**batch)
        loss = outputs.last_hidden_state.square().mean() + outputs.pooler_output.square().mean()
    elif family.task in ("causal-lm", "masked-lm"):
        loss = model(**batch, labels=batch["input_ids"]).loss
    else:
        loss = model(**batch, labels=torch.randint(3, (8, *answer_shape(config)[1:]))).loss
    loss.backward()
    # Of DINOv2, the token that stands for masked patches is of its pretraining alone.
    gradients = {name: p.grad for name, p in model.named_parameters() if not name.endswith("mask_token")}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_fresh_weights_keep_the_scale_of_the_signal(config):
    torch.manual_seed(0)
    output = answers(find_target(config).build(config).train(), config)
    assert 0.02 < output.std() < 20


# Exporting takes seconds; these have each kind of layer and each way of saying sizes.
@pytest.mark.parametrize(
    "config",
    [
        "lenet",
        "cifar_resnet_identity",
        "resnet_basic",
        "resnet_inner",
        "upernet_inner",
        "autoencoder_kl_inner",
        "mlp_vae",
        "vit_per_layer",
    ],
    indirect=True,
)
def test_export_with_a_dynamic_batch(config):
    resized = resize(config, 0.75)
    family = find_target(config)
    model = family.build(resized).eval()
    images = family.example_batch(resized)["pixel_values"]
    # From 64 images on, diffusers enlarges them in another way.
    batch = torch.export.Dim("batch", min=1, max=63)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},)).module()
    images = family.example_batch(resized, batch_size=5)["pixel_values"]
    assert torch.allclose(answer(program(images)), answer(model(images)), atol=1e-5)


def test_guide_says_what_its_resizes_give(guide):
    example = code_blocks()[1]
    lines = re.findall(r"^resize\((.*)\)\s+# (.*)$", example, flags=re.MULTILINE)
    assert len(lines) == 3
    names = {"reference": guide.ResidualMlpConfig(num_labels=10), "resize": resize}
    exec(example.replace("import residual_mlp", ""), {"residual_mlp": guide})
    sizes = [eval(f"resize({call})", names) for call, _ in lines]
    assert [(s.hidden_size, s.inner_sizes) for s in sizes] == [(32, [64, 64]), (32, [64, 64]), (64, [128, 32])]
    assert lines[0][1] == "hidden_size=32, inner_sizes=[64, 64]"
    assert lines[2][1] == "hidden_size=64, inner_sizes=[128, 32]"


def test_guide_family_is_prepared_generated_morphed_and_reloaded(guide, tmp_path):
    torch.manual_seed(0)
    names = {}
    for block in code_blocks()[1:]:
        exec(block, names)
    network, prepared, report, family = (names[name] for name in ("network", "prepared", "report", "family"))
    config = names["reference"]
    images = find_target(config).example_batch(config)["pixel_values"]
    with torch.no_grad():
        expected = network(images).logits
        assert torch.allclose(prepared(images).logits, expected, atol=1e-5)
        assert torch.allclose(family.morph(1.0)(images).logits, expected, atol=1e-5)
    assert report.tv_after < report.tv_before
    assert {clique.num_channels for clique in report.cliques} == {64, 128}
    assert family.width_groups == ["stream", "block1", "block2"]
    half = family.morph(0.5)
    assert type(half) is guide.ResidualMlpForImageClassification
    assert (half.config.hidden_size, half.config.inner_sizes) == (32, [64, 64])
    family.save_pretrained(tmp_path / "family")
    again = NeuMetaModel.from_pretrained(tmp_path / "family").morph(0.5)
    half.save_pretrained(tmp_path / "half")
    alone = find_target("residual_mlp").load(str(tmp_path / "half"))
    for other in (again, alone):
        assert type(other) is type(half)
        assert all(torch.equal(value, half.state_dict()[name]) for name, value in other.state_dict().items())
