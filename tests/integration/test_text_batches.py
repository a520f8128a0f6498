"""A network that reads token ids, a mask and weights of tokens goes every way that networks of images go.

Its forward pass refuses ids and masks that were cast, and weights that were not, so that each test tells of each step.
"""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neumeta_hf import NeuMetaModel, find_width, prepare
from neumeta_hf.axes import Axis
from neumeta_hf.errors import TargetError
from neumeta_hf.evaluation import count_macs, evaluate_network, sweep
from neumeta_hf.scores import ACCURACY
from neumeta_hf.targets import TargetFamily, registry
from neumeta_hf.tasks import Task, base
from neumeta_hf.tasks.classification import ClassificationMeter
from neumeta_hf.tasks.losses import class_divergence
from neumeta_hf.training import NeuMetaObjective, ReferenceObjective, SizeSampler
from neumeta_hf.training.loop import TrainingLoop
from neumeta_hf.training.recipe import LoopRecipe, LossesRecipe, OptimizerRecipe, ScheduleRecipe
from neumeta_hf.training.silence import check_silence
from neumeta_hf.training.static_cache import find_boundary, key_of

WIDTHS = [0.5, 0.75, 1.0]


@strict
class TinyTextConfig(PreTrainedConfig):
    model_type = "tiny_text"

    vocab_size: int = 11
    embedding_size: int = 5
    hidden_size: int = 8


class TinyText(PreTrainedModel):
    config: TinyTextConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.embedding_size)
        self.widen = nn.Linear(config.embedding_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_ids, attention_mask, token_weights):
        assert input_ids.dtype == torch.int64
        assert attention_mask.dtype == torch.bool
        assert token_weights.dtype == self.embed.weight.dtype
        hidden = F.relu(self.widen(self.embed(input_ids)))
        weights = (token_weights * attention_mask)[..., None]
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-6)
        return SequenceClassifierOutput(logits=self.head(pooled))

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight)
        if isinstance(module, nn.Linear):
            init.normal_(module.bias, std=0.1)


class TinyTextFamily(TargetFamily):
    name = "tiny_text"
    model_types = ("tiny_text",)
    task = "text-classification"
    input_names = ("input_ids", "attention_mask", "token_weights")

    def build(self, config):
        return TinyText(copy.deepcopy(config))

    def axes(self, config):
        return [Axis("hidden", config.hidden_size)]

    def rules(self, config):
        return {"widen": ("hidden", None), "head": (None, "hidden")}

    def config_at(self, config, size):
        config = copy.deepcopy(config)
        config.hidden_size = size["hidden"]
        return config

    def example_batch(self, config, batch_size=2):
        generator = torch.Generator().manual_seed(0)
        length = torch.randint(2, 7, (batch_size, 1), generator=generator)
        return {
            "input_ids": torch.randint(config.vocab_size, (batch_size, 6), generator=generator),
            "attention_mask": torch.arange(6) < length,
            "token_weights": 0.5 + torch.rand(batch_size, 6, generator=generator),
        }


@dataclasses.dataclass(kw_only=True)
class TextClassification(Task):
    name = "text-classification"
    labels = ("class",)
    scores = (ACCURACY,)

    def loss(self, outputs, batch):
        assert batch["labels"].dtype == torch.int64
        return F.cross_entropy(outputs.logits, batch["labels"])

    def distillation(self, outputs, teacher_outputs, *, temperature):
        return class_divergence(outputs.logits, teacher_outputs.logits, temperature=temperature)

    def make_meter(self, family, network, split_name):
        return ClassificationMeter(split_name)

    def draw(self, family, networks, batch, images, label_names):
        raise NotImplementedError

    def make_image_processor(self, **options):
        return None


class TextSplit:
    """What training and evaluation ask of a split."""

    name = "text"

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch["labels"])

    def __getitems__(self, positions):
        return {name: tensor[list(positions)] for name, tensor in self.batch.items()}

    def set_epoch(self, epoch):
        pass


@pytest.fixture(scope="module", autouse=True)
def _registered():
    """Family, config and task are known in this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
        patch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
        patch.setattr(CONFIG_MAPPING, "_extra_content", dict(CONFIG_MAPPING._extra_content))
        AutoConfig.register("tiny_text", TinyTextConfig)
        registry.register_target(TinyTextFamily)
        base.register_task(TextClassification)
        yield


FAMILY = TinyTextFamily()


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = TinyText(TinyTextConfig(num_labels=3)).eval()
    with torch.no_grad():  # so that it tells all classes apart
        network.head.bias -= FAMILY.forward(network, FAMILY.example_batch(network.config, 16)).logits.mean(0)
    return network


@pytest.fixture
def batch(network):
    return FAMILY.example_batch(network.config, 16)


@pytest.fixture
def labelled(network, batch):
    return {**batch, "labels": FAMILY.forward(network, batch).logits.argmax(-1)}


@pytest.fixture
def family(network):
    options = {"generated": ["widen", "head.weight"], "trained_widths": WIDTHS, "coordinate_noise": 0.0}
    return NeuMetaModel.from_reference(network, hypernetwork={"type": "grid"}, **options).eval()


def make_objective(family, network, **options):
    sampler = SizeSampler(WIDTHS, sampler="sandwich", num_random=1, seed=0)
    return NeuMetaObjective(
        family, network, losses=LossesRecipe(distillation=1.0), sampler=sampler, seed=0, **options
    ).train()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("normalization", ["fuse", "keep"])
@pytest.mark.parametrize("order", ["path", "importance", "identity"])
def test_prepared_it_computes_the_same(network, batch, order, normalization, dtype):
    network = network.to(dtype)
    batch["token_weights"] = batch["token_weights"].to(dtype)
    prepared, report = prepare(network, order=order, normalization=normalization)
    assert type(prepared) is TinyText
    assert torch.allclose(prepared(**batch).logits, network(**batch).logits, atol=1e-5)
    (clique,) = report.cliques
    assert {"widen.weight", "widen.bias", "head.weight"} <= set(clique.members)
    assert (clique.order == list(range(8))) == (order == "identity")
    again, _ = prepare(network, order=order, normalization=normalization, example_inputs=batch)
    assert all(torch.equal(a, b) for a, b in zip(prepared.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("width", WIDTHS)
def test_its_morph_is_what_was_trained(family, batch, width, tmp_path):
    morph = family.morph(width)
    assert type(morph) is TinyText
    assert morph.config.hidden_size == 8 * width
    assert torch.equal(family(**batch, width=width).logits, morph(**batch).logits)
    family.save_pretrained(tmp_path)
    reloaded = NeuMetaModel.from_pretrained(tmp_path)
    assert torch.equal(reloaded(**batch, width=width).logits, morph(**batch).logits)


def test_the_mask_reaches_the_network_at_every_size(family, batch):
    padding = ~batch["attention_mask"]
    assert padding.any()
    other_padding = {**batch, "input_ids": torch.where(padding, 0, batch["input_ids"])}
    assert not torch.equal(other_padding["input_ids"], batch["input_ids"])
    no_mask = {**batch, "attention_mask": torch.ones_like(padding)}
    for width in WIDTHS:
        logits = family(**batch, width=width).logits
        assert torch.equal(family(**other_padding, width=width).logits, logits)
        has_padding = padding.any(1)
        changed = (family(**no_mask, width=width).logits - logits).abs().amax(1)
        assert torch.equal(changed > 1e-4, has_padding)


def test_what_nothing_would_read_is_refused(family, batch):
    with pytest.raises(TargetError, match=r"token_type_ids was given.*input_ids, attention_mask"):
        family(**batch, token_type_ids=batch["input_ids"])
    with pytest.raises(TargetError, match="labels was given"):
        family(**batch, labels=torch.zeros(16, dtype=torch.int64))
    with pytest.raises(TargetError, match=r"family\(\*\*batch"):
        family(batch)
    with pytest.raises(TargetError, match="input_ids was given twice"):
        family(batch["input_ids"], **batch)
    with pytest.raises(TargetError, match="input_ids"):
        family.run(family.space.full, family.generate(), {"pixel_values": batch["token_weights"]})
    given = {name: tensor for name, tensor in batch.items() if name != "input_ids"}
    assert torch.equal(family(batch["input_ids"], **given).logits, family(**batch).logits)
    assert family.main_input_name == "input_ids"


def test_no_images_are_asked_of_it(family):
    with pytest.raises(TargetError, match=r"tiny_text.*no images"):
        family.target_family.image_shape(family.reference_config)


def test_a_step_of_training_has_the_loss_of_its_morphs(family, network, labelled):
    objective = make_objective(family, network)
    losses = objective(**labelled, step=0)
    losses["loss"].backward()
    assert sum(parameter.grad.abs().sum() for parameter in family.hypernetwork.parameters()) > 0
    for width in (0.5, 1.0):
        morph = family.eval().morph(width)
        expected = F.cross_entropy(FAMILY.forward(morph, labelled).logits, labelled["labels"])
        assert torch.allclose(losses[f"task/{width:g}"], expected, atol=1e-6)
    loss = ReferenceObjective(network)(**labelled, step=0)["loss"]
    assert loss.item() == pytest.approx(
        F.cross_entropy(FAMILY.forward(network, labelled).logits, labelled["labels"]).item()
    )


def test_what_lies_before_the_generated_part_is_known_once(family, network, labelled):
    given = FAMILY.inputs_of(labelled)
    boundary = find_boundary(family, network, given)
    assert list(boundary.needed) == [("embed", 0)]
    kept = {key_of(("embed", 0)): network.embed(labelled["input_ids"]).detach().flatten(1)}
    plain = make_objective(family, network)(**labelled, step=0)
    known = make_objective(family, network, boundary=boundary)(**labelled, **kept, step=0)
    assert torch.equal(plain["loss"], known["loss"])


def test_the_loop_trains_it(family, network, labelled, tmp_path):
    objective = make_objective(family, network)
    before = objective(**labelled, step=0)["loss"].item()
    loop = TrainingLoop(
        objective,
        TextSplit(labelled),
        LoopRecipe(
            epochs=20,
            batch_size=8,
            optimizer=OptimizerRecipe(name="adamw", learning_rate=0.01),
            schedule=ScheduleRecipe(name="constant"),
        ),
        accelerator=Accelerator(cpu=True),
        seed=0,
        state_dir=tmp_path / "state",
        validate=lambda: (0.0, {}),
        keep=lambda is_best: None,
        name="train",
    )
    assert loop.run().step == 40
    assert objective(**labelled, step=0)["loss"].item() < before
    check_silence(family, network, labelled, (0.5, 1.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_measured_in_its_own_precision(network, labelled, dtype):
    split = TextSplit(labelled)
    assert evaluate_network(network.to(dtype), split)["accuracy"] > (0.99 if dtype == torch.float32 else 0.7)
    unmasked = TextSplit({**labelled, "attention_mask": torch.ones_like(labelled["attention_mask"])})
    assert evaluate_network(network, unmasked)["loss"] != evaluate_network(network, split)["loss"]


def test_its_sizes_are_measured_and_counted(family, network, labelled):
    found = sweep(family, TextSplit(labelled), WIDTHS, reference=network, progress=False)
    assert found.reference.scores["accuracy"] == 1.0
    # A token at a time through the hidden layer, and the mean of them through the head.
    assert [row.macs for row in found.rows] == [6 * 5 * hidden + 3 * hidden for hidden in (4, 6, 8)]
    assert found.rows[1].macs == count_macs(family.morph(0.75), FAMILY.example_batch(network.config))
    assert family.morph(find_width(family, found.rows[1].macs, cost="macs")).config.hidden_size == 6
