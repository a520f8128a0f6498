import re

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForSemanticSegmentation,
    ConvNextConfig,
    ResNetConfig,
    SegformerImageProcessorPil,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    pipeline,
)
from transformers.models.resnet.modeling_resnet import ResNetBackbone

from neumeta_hf.errors import SizeError, TargetError
from neumeta_hf.preparation import find_cliques, prepare
from neumeta_hf.targets import NeuMetaResNetBackbone, config_of, find_target, ratios, resize
from target_axes import axis_parts, num_channels

FAMILY = find_target("upernet")
STAGES = ["stage1", "stage2", "stage3", "stage4"]


def upernet(*, out_features=STAGES, backbone=None, **options):
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 2, 1, 1], "layer_type": "basic"}
    heads = {"hidden_size": 16, "pool_scales": (1, 2), "use_auxiliary_head": False, "image_size": [48, 64]}
    return UperNetConfig(
        backbone_config=ResNetConfig(**{**sizes, **(backbone or {})}, out_features=out_features),
        **{**heads, "num_labels": 3, **options},
    )


def trained(config):
    """A network whose weights and statistics all differ, in evaluation mode."""
    torch.manual_seed(0)
    model = FAMILY.build(config).eval()
    for name, value in model.state_dict().items():
        if "running_var" in name:
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(std=0.3)
    return model


def logits(model, images):
    with torch.no_grad():
        return FAMILY.forward(model, images).logits


def test_groups_are_those_of_the_resnet_and_the_head_in_the_order_of_the_data():
    counts = num_channels(FAMILY, upernet(backbone={"embedding_size": 10}, hidden_size=20))
    assert list(counts.items()) == [
        ("backbone.embedding", 10),
        ("backbone.stage1", 8),
        ("backbone.stage1.block1", 8),
        ("backbone.stage2", 12),
        ("backbone.stage2.block1", 12),
        ("backbone.stage2.block2", 12),
        ("backbone.stage3", 16),
        ("backbone.stage3.block1", 16),
        ("backbone.stage4", 24),
        ("backbone.stage4.block1", 24),
        ("head", 20),
    ]
    assert "backbone.embedding" not in num_channels(FAMILY, upernet())
    assert resize(upernet(), {"backbone.stage1": 0.5}).backbone_config.embedding_size == 4


@pytest.mark.parametrize(
    ("width", "backbone"),
    [(0.5, ResNetBackbone), ({"head": 0.5}, ResNetBackbone), ({"backbone.stage2.block2": 0.5}, NeuMetaResNetBackbone)],
)
def test_every_size_is_the_stock_class_on_a_backbone_that_says_its_widths(width, backbone):
    resized = resize(upernet(loss_ignore_index=7), width)
    with torch.device("meta"):
        model = FAMILY.build(resized)
    assert type(model) is UperNetForSemanticSegmentation
    assert type(model.backbone) is backbone
    assert resized.loss_ignore_index == 7


@pytest.mark.parametrize(
    "config",
    [
        upernet(),
        upernet(pool_scales=(1, 2, 3), hidden_size=20),
        upernet(out_features=["stem", "stage2", "stage4"], backbone={"embedding_size": 10}),
        upernet(out_features=["stage1", "stage3"]),
        upernet(out_features=["stage4"]),
        upernet(pool_scales=()),
    ],
    ids=["all", "three_scales", "stem", "without_last", "one_stage", "no_pooling"],
)
def test_a_narrow_network_in_the_first_channels_of_every_part_of_a_wide_one_computes_the_same(config):
    resized = resize(config, {"head": 0.5, "backbone.stage4": 0.75, "backbone.stage2.block1": 0.25})
    narrow, wide = trained(resized), FAMILY.build(config).eval()
    parts, full_parts = axis_parts(FAMILY, resized), axis_parts(FAMILY, config)
    for name, value in wide.state_dict().items():
        if not value.ndim:
            continue
        small = narrow.state_dict()[name]
        places = []
        for axis in range(min(value.ndim, 2)):
            counts = parts[name][axis] if name in parts else [small.shape[axis]]
            full = full_parts[name][axis] if name in full_parts else [value.shape[axis]]
            starts = [sum(full[:number]) for number in range(len(full))]
            places.append([start + i for start, count in zip(starts, counts, strict=True) for i in range(count)])
        value.zero_()
        if value.ndim > 1:
            value[torch.tensor(places[0])[:, None], torch.tensor(places[1])] = small
        else:
            value[places[0]] = small
    images = FAMILY.example_batch(config)["pixel_values"]
    expected = logits(narrow, images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits(wide, images), expected, rtol=1e-4, atol=1e-5)


def test_a_saved_size_loads_with_the_auto_class_in_another_process(tmp_path, fork):
    config = resize(upernet(), {"backbone.stage2.block1": 0.5, "head": 0.75})
    model = trained(config)
    images = FAMILY.example_batch(config)["pixel_values"]
    model.save_pretrained(tmp_path)
    torch.save((images, model.state_dict(), logits(model, images)), tmp_path / "expected.pt")
    fork.run(
        """
        import copy, torch, neumeta_hf
        from transformers import AutoModelForSemanticSegmentation
        images, state, expected = torch.load("expected.pt", weights_only=True)
        model = AutoModelForSemanticSegmentation.from_pretrained(".")
        assert type(model).__module__.startswith("transformers."), type(model)
        loaded = model.state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[name], value) for name, value in state.items())
        # Read from a file, weights lie anywhere in memory, and some kernels round by where they lie.
        assert torch.equal(copy.deepcopy(model)(images).logits, expected)
        """,
        tmp_path,
    )


@pytest.mark.parametrize("width", [0.5, {"backbone.stage3.block1": 0.5}])
def test_a_size_runs_in_the_pipeline(width, tmp_path):
    trained(resize(upernet(), width)).save_pretrained(tmp_path)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    processor = SegformerImageProcessorPil(size={"height": 48, "width": 64})
    segment = pipeline("image-segmentation", model=model, image_processor=processor, device="cpu")
    segments = segment(Image.effect_noise((80, 60), 99).convert("RGB"))
    assert {part["label"] for part in segments} <= {"LABEL_0", "LABEL_1", "LABEL_2"}
    assert {part["mask"].size for part in segments} == {(80, 60)}
    # Every pixel is of exactly one class.
    histograms = [part["mask"].histogram() for part in segments]
    assert sum(sum(counts[1:]) for counts in histograms) == 80 * 60


def test_ratios_do_not_see_where_a_backbone_comes_from():
    reference = upernet(backbone={"architectures": ["ResNetForImageClassification"], "dtype": "bfloat16"})
    narrow = resize(reference, {"backbone.stage2.block1": 0.5})
    assert ratios(narrow, reference)["backbone.stage2.block1"] == 0.5
    other = upernet(backbone={"hidden_act": "gelu"})
    with pytest.raises(SizeError, match="only the number of channels may differ"):
        ratios(other, reference)


@pytest.mark.parametrize("method", ["build", "axes", "rules", "space", "image_shape"])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (UperNetConfig(backbone_config=ConvNextConfig(), use_auxiliary_head=False), "'convnext'.*ResNetConfig"),
        (upernet(use_auxiliary_head=True), "use_auxiliary_head=True.*Pass use_auxiliary_head=False"),
    ],
    ids=["convnext", "auxiliary"],
)
def test_other_backbones_and_auxiliary_heads_are_refused(config, message, method):
    assert find_target(config) is FAMILY
    with pytest.raises(TargetError, match=message):
        getattr(FAMILY, method)(config)


def test_loading_leaves_the_auxiliary_head_out_and_nothing_else(tmp_path):
    torch.manual_seed(0)
    whole = UperNetForSemanticSegmentation(upernet(use_auxiliary_head=True, auxiliary_channels=4)).eval()
    whole.save_pretrained(tmp_path)
    model = FAMILY.load(str(tmp_path))
    expected = {name: value for name, value in whole.state_dict().items() if not name.startswith("auxiliary_head.")}
    assert len(expected) < len(whole.state_dict())
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert num_channels(FAMILY, config_of(model))["head"] == 16


def test_a_shortcut_that_would_vanish_is_refused_by_the_names_of_this_family_and_the_advice_works():
    config = upernet(backbone={"embedding_size": 6})
    with pytest.raises(SizeError, match=r"'backbone\.stage1' cannot have 6 .* while 'backbone\.embedding'") as error:
        resize(config, {"backbone.stage1": 0.75})
    choices = re.findall(r"(\d+) \(a ratio of ([\d.]+)\)", str(error.value))
    group = re.search(r"for '([\w.]+)'", str(error.value)).group(1)
    assert [int(count) for count, _ in choices] == [5, 7]
    for count, ratio in choices:
        assert num_channels(FAMILY, resize(config, {group: float(ratio)}))["backbone.stage1"] == int(count)


@pytest.mark.parametrize(
    ("own", "of_backbone", "expected"),
    [
        ([48, 64], None, (3, 48, 64)),
        (96, None, (3, 96, 96)),
        (96, [48, 64], (3, 96, 96)),
        (None, [48, 64], (3, 48, 64)),
        (None, 96, (3, 96, 96)),
        (None, None, (3, 224, 224)),
    ],
)
def test_image_size_is_its_own_or_that_of_the_backbone(own, of_backbone, expected):
    config = upernet(image_size=own, backbone={"image_size": of_backbone})
    assert FAMILY.image_shape(config) == expected
    assert FAMILY.image_shape(UperNetConfig.from_dict(config.to_dict())) == expected


def test_the_smallest_example_can_train():
    # BatchNorm cannot normalise one value, and the last stage is pooled to one pixel for each image.
    config = upernet(image_size=32)
    output = FAMILY.forward(FAMILY.build(config).train(), FAMILY.example_batch(config))
    assert output.logits.isfinite().all()


@pytest.mark.parametrize("order", ["path", "importance"])
@pytest.mark.parametrize("normalization", ["fuse", "keep"])
def test_preparation_keeps_the_outputs(normalization, order):
    model = trained(upernet())
    prepared, report = prepare(model, normalization=normalization, order=order)
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    expected = logits(model, images)
    assert report.tv_before != report.tv_after
    assert not torch.equal(prepared.decode_head.bottleneck.conv.weight, model.decode_head.bottleneck.conv.weight)
    assert (logits(prepared, images) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_every_channel_that_a_size_may_take_away_is_in_a_clique():
    config = upernet()
    model = trained(config)
    owned = {}
    for number, clique in enumerate(find_cliques(model, FAMILY.example_batch(config))):
        for member in clique.members:
            for position in member.positions.flatten().tolist():
                owned.setdefault((member.name, member.axis), {})[position] = number
    fixed = {("backbone.embedder.embedder.convolution.weight", 1), ("decode_head.classifier.weight", 0)}
    for name, value in model.state_dict().items():
        for axis in range(min(value.ndim, 2)):
            found = owned.get((name, axis), {})
            if (name, axis) in fixed or name == "decode_head.classifier.bias":
                assert not found
            else:
                assert len(found) == value.shape[axis], (name, axis)
    for name, (_, parts) in axis_parts(FAMILY, config).items():
        # The parts move apart from each other, and each as a whole.
        cliques = [owned[name, 1][position] for position in range(sum(parts))]
        starts = [sum(parts[:number]) for number in range(len(parts))]
        by_part = [set(cliques[start : start + count]) for start, count in zip(starts, parts, strict=True)]
        assert all(len(found) == 1 for found in by_part)
        assert len(set.union(*by_part)) == len(parts)
