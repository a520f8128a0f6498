import copy
import importlib
import json

import preparation_networks as networks
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from transformers import (
    ConvNextConfig,
    ConvNextV2Config,
    Dinov2Config,
    MobileNetV2Config,
    Qwen3Config,
    ResNetConfig,
    UperNetConfig,
)

import tiny_targets
from neumeta_hf.errors import PreparationError, TargetError
from neumeta_hf.preparation import (
    Clique,
    CliqueMember,
    CliqueReport,
    PreparationReport,
    apply_order,
    find_cliques,
    prepare,
)
from neumeta_hf.targets import (
    AutoencoderKLTargetConfig,
    AutoencoderTinyTargetConfig,
    CifarResNetConfig,
    LeNetConfig,
    MlpVaeTargetConfig,
    NeuMetaResNetConfig,
    config_of,
    find_target,
    list_targets,
)

CIFAR = {"num_blocks": [2, 1, 1], "stage_channels": [4, 6, 8], "image_size": 8, "num_labels": 3}
STOCK = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [2, 1, 1], "num_labels": 5}
CONVNEXT = {
    "hidden_sizes": [8, 12],
    "depths": [1, 2],
    "num_stages": 2,
    "patch_size": 2,
    "image_size": 16,
    "num_labels": 3,
}
MOBILENET = {
    **{"depth_multiplier": 0.25, "depth_divisible_by": 2, "min_depth": 2, "expand_ratio": 2.0, "image_size": 32},
    **{"finegrained_output": False, "num_labels": 3},
}
VAE = {"block_out_channels": [8, 16], "norm_num_groups": 4, "latent_channels": 3}
TINY = {
    **{"encoder_block_out_channels": [8, 6], "decoder_block_out_channels": [6, 8]},
    **{"num_encoder_blocks": [1, 1], "num_decoder_blocks": [2, 1], "latent_channels": 2},
}
# Family, config, and how many cliques there are: residual streams, then what lies inside each block.
TARGETS = {
    "lenet": ("lenet", LeNetConfig(hidden_channels=[4, 6, 8], image_size=8, num_labels=3), 3),
    "cifar": ("cifar_resnet", CifarResNetConfig(**CIFAR, shortcut="projection"), 3 + 4),
    "cifar, padded": ("cifar_resnet", CifarResNetConfig(**CIFAR, shortcut="identity"), 4),
    "cifar, fused": ("cifar_resnet", CifarResNetConfig(**CIFAR, shortcut="projection", batch_norm=False), 3 + 4),
    "basic": ("resnet", ResNetConfig(**STOCK, layer_type="basic"), 3 + 4),
    "bottleneck": ("resnet", ResNetConfig(**STOCK, layer_type="bottleneck"), 3 + 2 * 4),
    "own inner sizes": (
        "resnet",
        NeuMetaResNetConfig(**STOCK, layer_type="basic", inner_sizes=[[5, 7], [6], [9]]),
        3 + 4,
    ),
    "convnext": ("convnext", ConvNextConfig(**CONVNEXT, layer_scale_init_value=0.5), 2 + 3),
    "convnextv2": ("convnextv2", ConvNextV2Config(**CONVNEXT), 2 + 3),
    # Seven stages, sixteen blocks, the stem and the head.
    "mobilenet": ("mobilenet_v2", MobileNetV2Config(**MOBILENET), 7 + 16 + 2),
    "upernet": (
        "upernet",
        UperNetConfig(
            backbone_config=ResNetConfig(**STOCK, layer_type="basic", out_features=["stage1", "stage3"]),
            use_auxiliary_head=False,
            hidden_size=6,
            pool_scales=(1, 2),
            image_size=32,
            num_labels=3,
        ),
        3 + 4 + 5,
    ),
    # Two streams, the decoder, and in each block its heads and its MLP.
    "segformer": ("segformer", tiny_targets.segformer(), 2 + 1 + 2 * 3),
    "swin": ("swin", tiny_targets.swin(), 2 + 2 * 4),
    # For each group of channels 3 streams on either side, 4 and 6 insides of resnets; 2 heads of attention, and 2 that
    # lie between a side and its latents.
    "vae": (
        "autoencoder_kl",
        AutoencoderKLTargetConfig(image_size=8, num_channels=1, vae=VAE),
        4 * (3 + 3 + 4 + 6) + 2 + 2,
    ),
    "own decoder": (
        "autoencoder_kl",
        AutoencoderKLTargetConfig(
            image_size=8, vae=VAE | {"norm_num_groups": 1, "decoder_block_out_channels": [6, 10]}
        ),
        3 + 3 + 4 + 6 + 2 + 2,
    ),
    "vit": ("vit", tiny_targets.vit(), 1 + 2 * 2),
    "dinov2": ("dinov2", tiny_targets.vit(Dinov2Config), 1 + 2 * 2),
    "llama": ("llama", tiny_targets.llama(), 1 + 2 * 2),
    "bert": ("bert", tiny_targets.bert(), 2 * 2),
    "masked lm": ("bert_masked_lm", tiny_targets.bert(architectures=["BertForMaskedLM"]), 1 + 2 * 2),
    "qwen3": ("qwen3", tiny_targets.llama(Qwen3Config), 1 + 2 * 2),
    # For each stage its stream, and in each block two insides.
    "tiny autoencoder": (
        "autoencoder_tiny",
        AutoencoderTinyTargetConfig(image_size=16, vae=TINY),
        2 * 2 + 2 * 5,
    ),
    "mlp vae": ("mlp_vae", MlpVaeTargetConfig(image_size=4, encoder_hidden_channels=[9, 6], latent_channels=3), 3),
}


@pytest.fixture(params=TARGETS)
def target(request):
    _, config, num_cliques = TARGETS[request.param]
    return networks.randomise(find_target(config).build(config), seed=0), num_cliques


def outputs(model, inputs):
    with torch.no_grad():
        # Left to itself an `AutoencoderTiny` rounds latents to bytes.
        is_rounded = isinstance(model, AutoencoderTiny)
        values = find_target("autoencoder_tiny").forward(model, inputs)[0] if is_rounded else model(inputs)
    return values if isinstance(values, torch.Tensor) else values[0]


def relative_error(expected, actual):
    return ((expected - actual).abs().max() / expected.abs().max()).item()


def test_every_registered_family_is_a_case():
    assert {family for family, _, _ in TARGETS.values()} == set(list_targets())


@pytest.mark.parametrize("normalization", ["fuse", "keep"])
def test_a_registered_target_keeps_its_function_and_gets_smoother(target, normalization):
    model, num_cliques = target
    model.train()
    before = copy.deepcopy(model.state_dict())
    config = config_of(model)
    fields = copy.deepcopy(config.to_dict())
    prepared, report = prepare(model, normalization=normalization)

    family = find_target(config)
    wanted_config = family.fused_config(config) if normalization == "fuse" else config
    prepared_config = config_of(prepared)
    assert type(prepared) is type(family.build(wanted_config))
    assert prepared_config.to_dict() == wanted_config.to_dict() | {"dtype": prepared_config.to_dict()["dtype"]}
    assert not any(module.training for module in prepared.modules())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert config_of(model).to_dict() == fields

    inputs = family.example_batch(config, batch_size=5)[family.input_names[0]]
    assert relative_error(outputs(copy.deepcopy(model).eval(), inputs), outputs(prepared, inputs)) < 1e-5
    assert report.max_relative_error < 1e-5
    assert len(report.cliques) == num_cliques
    assert report.tv_after < report.tv_before
    assert all(clique.tv_after <= clique.tv_before for clique in report.cliques)
    assert {name for clique in report.cliques for name in clique.members} <= set(prepared.state_dict())


def test_an_order_by_activations_keeps_the_function_of_every_target(target):
    model, num_cliques = target
    family = find_target(config_of(model))
    inputs = family.example_batch(config_of(model), batch_size=5)[family.input_names[0]]
    prepared, report = prepare(model, normalization="keep", order="activations", batch=inputs)
    assert relative_error(outputs(copy.deepcopy(model).eval(), inputs), outputs(prepared, inputs)) < 1e-5
    assert len(report.cliques) == num_cliques
    assert any(clique.order != list(range(clique.num_channels)) for clique in report.cliques)


def test_an_autoencoder_without_batch_norm_has_nothing_to_fuse_and_keeps_its_latents():
    _, config, num_cliques = TARGETS["vae"]
    family = find_target(config)
    model = networks.randomise(family.build(config), seed=0)
    kept, _ = prepare(model, normalization="keep", order="importance")
    fused, report = prepare(model, normalization="fuse", order="importance")
    assert all(torch.equal(tensor, kept.state_dict()[name]) for name, tensor in fused.state_dict().items())
    assert len(report.cliques) == num_cliques
    assert any(clique.order != list(range(clique.num_channels)) for clique in report.cliques)
    inputs = family.example_batch(config, batch_size=5)["pixel_values"]
    with torch.no_grad():
        expected, actual = (family.forward(network, inputs, seed=1) for network in (model, fused))
    for key in ("sample", "mean", "logvar"):
        assert relative_error(expected[key], actual[key]) < 1e-5


def test_an_autoencoder_that_its_family_does_not_know_is_refused():
    model = AutoencoderKL(
        down_block_types=("AttnDownEncoderBlock2D",), block_out_channels=(8,), norm_num_groups=4, sample_size=8
    )
    # Its own forward pass would hide that its latents must stay in their order.
    with pytest.raises(TargetError, match="AttnDownEncoderBlock2D"):
        prepare(model, example_inputs=torch.randn(2, 3, 8, 8))


@pytest.mark.parametrize(
    ("order", "seed"), [("path", 0), ("path", 1), ("random", 0), ("identity", 0), ("importance", 0)]
)
@pytest.mark.parametrize("network", networks.FREE + networks.PARTLY_FREE)
def test_any_network_keeps_its_function(network, seed, order):
    model, inputs = networks.make(network, seed)
    normalization = "keep" if network is networks.Concatenation else "fuse"
    prepared, report = prepare(model, normalization=normalization, order=order, seed=seed, example_inputs=inputs)
    assert relative_error(outputs(model, inputs), outputs(prepared, inputs)) < 1e-5
    assert report.tv_after <= report.tv_before or order in ("random", "importance")


def test_a_network_that_rounds_coarsely_is_prepared_all_the_same():
    model, inputs = networks.make(networks.Coarse)
    prepared, report = prepare(model, order="random", seed=1, example_inputs=inputs)
    assert report.cliques[0].order != list(range(6))
    assert report.max_relative_error < 1e-5
    assert {tensor.dtype for tensor in prepared.state_dict().values()} == {torch.float32}
    assert relative_error(outputs(model.double(), inputs.double()), outputs(prepared.double(), inputs.double())) < 1e-9


@pytest.mark.parametrize("network", networks.FREE)
def test_the_identity_order_changes_no_bit(network):
    model, inputs = networks.make(network)
    prepared, report = prepare(model, normalization="keep", order="identity", example_inputs=inputs)
    assert all(torch.equal(tensor, prepared.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert report.max_relative_error == 0
    assert report.tv_after == report.tv_before > 0


def test_the_same_call_gives_the_same_bits():
    model, inputs = networks.make(networks.Depthwise)
    first, second = (prepare(model, seed=5, example_inputs=inputs) for _ in range(2))
    assert first[1] == second[1]
    assert all(torch.equal(tensor, second[0].state_dict()[name]) for name, tensor in first[0].state_dict().items())


def test_a_second_preparation_does_not_undo_the_first():
    model, inputs = networks.make(networks.Residual)
    prepared, first = prepare(model, example_inputs=inputs)
    _, second = prepare(prepared, example_inputs=inputs)
    assert second.tv_before == pytest.approx(first.tv_after, rel=1e-6)
    assert second.tv_after <= second.tv_before


def test_the_report_survives_json():
    model, inputs = networks.make(networks.Concatenation)
    _, report = prepare(model, normalization="keep", seed=7, example_inputs=inputs)
    assert PreparationReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert (report.normalization, report.method, report.seed) == ("keep", "path", 7)
    assert report.tv_after == pytest.approx(sum(clique.tv_after for clique in report.cliques))
    with pytest.raises(PreparationError, match="missing or unknown: sede, seed"):
        PreparationReport.from_dict({("sede" if k == "seed" else k): v for k, v in report.to_dict().items()})
    broken = report.to_dict()
    del broken["cliques"][0]["order"]
    with pytest.raises(PreparationError, match="missing or unknown: order"):
        PreparationReport.from_dict(broken)


def test_the_reported_orders_lead_from_the_model_to_the_prepared_one():
    model, inputs = networks.make(networks.Flattening)
    prepared, report = prepare(model, normalization="keep", example_inputs=inputs)
    order = report.cliques[0].order
    assert torch.equal(prepared.conv.weight, model.conv.weight[order])
    blocks = prepared.hidden.weight.view(9, 5, 16)[report.cliques[1].order.index(0)]
    assert torch.equal(blocks, model.hidden.weight.view(9, 5, 16)[0][order])


def test_float64_stays_float64():
    model, inputs = networks.make(networks.Plain)
    prepared, report = prepare(model.double(), example_inputs=inputs)
    assert prepared.conv1.weight.dtype == torch.float64
    assert report.max_relative_error < 1e-12


@pytest.fixture
def misled(monkeypatch):
    """`prepare`, made to believe in a clique that is none."""
    wrong = Clique(6, (CliqueMember("conv1.weight", 0, torch.arange(6)[:, None]),))
    # By its full name: as an attribute of the package, `prepare` is the function.
    module = importlib.import_module("neumeta_hf.preparation.prepare")
    monkeypatch.setattr(module, "find_cliques", lambda model, inputs: [wrong])


@pytest.mark.usefixtures("misled")
def test_a_changed_function_is_refused_and_the_advice_works():
    model, inputs = networks.make(networks.Plain)
    with pytest.raises(PreparationError, match='changed the outputs.*order="identity"'):
        prepare(model, order="random", example_inputs=inputs)
    prepared, _ = prepare(model, order="identity", example_inputs=inputs)
    assert relative_error(outputs(model, inputs), outputs(prepared, inputs)) < 1e-5


def test_what_cannot_be_prepared_is_refused():
    model, inputs = networks.make(networks.Plain)
    with pytest.raises(PreparationError, match="normalization='fold'.*fuse, keep"):
        prepare(model, normalization="fold", example_inputs=inputs)
    with pytest.raises(PreparationError, match="order='best'.*path, random"):
        prepare(model, order="best", example_inputs=inputs)
    with pytest.raises(PreparationError, match="pass `batch`"):
        prepare(model, order="activations", example_inputs=inputs)
    with pytest.raises(PreparationError, match="'importance'.*leave `batch` out"):
        prepare(model, order="importance", example_inputs=inputs, batch=inputs)
    with pytest.raises(PreparationError, match="not finite on the batch"):
        prepare(model, order="activations", example_inputs=inputs, batch=inputs / 0)
    with pytest.raises(PreparationError, match="Plain has no config.*pass example_inputs"):
        prepare(model)
    with pytest.raises(PreparationError, match="Identity has no parameters"):
        prepare(torch.nn.Identity(), example_inputs=inputs)
    with pytest.raises(PreparationError, match=r"'conv1.weight' is in torch.bfloat16.*model.float\(\)"):
        prepare(copy.deepcopy(model).bfloat16(), example_inputs=inputs)
    model.bn2.running_var[1] = float("nan")
    with pytest.raises(PreparationError, match=r"'bn2\.running_var' holds NaN"):
        prepare(model, example_inputs=inputs)


def test_advice_to_keep_batch_norm_works():
    model, inputs = networks.make(networks.Concatenation)
    with pytest.raises(PreparationError, match='normalization="keep"'):
        prepare(model, example_inputs=inputs)
    assert prepare(model, normalization="keep", example_inputs=inputs)[1].tv_after > 0


def test_a_prepared_network_can_be_permuted_back():
    model, inputs = networks.make(networks.Plain)
    prepared, report = prepare(model, normalization="keep", example_inputs=inputs)
    state = prepared.state_dict()
    for clique, done in zip(find_cliques(prepared, inputs), report.cliques, strict=True):
        state = apply_order(state, clique, torch.tensor(done.order).argsort().tolist())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tv_before", float("nan")),
        ("tv_after", -1),
        ("max_relative_error", float("inf")),
        ("seed", -1),
        ("seed", "0"),
        ("normalization", "layer"),
        ("method", 5),
        ("cliques", None),
        ("cliques", ["clique"]),
        ("cliques", [{"num_channels": 4}]),
    ],
)
def test_a_report_of_no_preparation_is_refused_by_name(key, value):
    report = PreparationReport("keep", "path", 0, 2.0, 1.0, 0.0, [CliqueReport(2, ["a"], [1, 0], 2.0, 1.0)])
    assert PreparationReport.from_dict(report.to_dict()) == report
    with pytest.raises(PreparationError, match=f"{key}|CliqueReport has the keys"):
        PreparationReport.from_dict({**report.to_dict(), key: value})
    for wrong in ({"num_channels": 0}, {"order": [0, -1]}, {"members": "a"}, {"tv_after": True}):
        clique = {**report.to_dict()["cliques"][0], **wrong}
        with pytest.raises(PreparationError, match=f"a CliqueReport with {next(iter(wrong))}="):
            PreparationReport.from_dict({**report.to_dict(), "cliques": [clique]})
    with pytest.raises(PreparationError, match="has the keys"):
        PreparationReport.from_dict([])
