"""Losses and scores of tokens and sentences against their definitions, and text that is the same for the same seed."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from tests.tiny_language import TinyEncoder, TinyEncoderConfig, TinyEncoderFamily, TinyLanguage, TinyLanguageConfig
from tests.tiny_text import sentences, word_tokenizer

from neumeta_hf.errors import DataError, RecipeError, TargetError
from neumeta_hf.modeling_tasks import NeuMetaForCausalLM, NeuMetaForMaskedLM
from neumeta_hf.tasks import build_task, list_tasks
from neumeta_hf.tasks.sampling import sample_tokens
from neumeta_hf.tasks.text import text_figure
from neumeta_hf.training.objectives import check_losses
from neumeta_hf.training.recipe import LossesRecipe

FAMILY: object = None


def random_outputs(*shape, seed=0):
    return SimpleNamespace(logits=torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def batch():
    labels = torch.randint(7, (3, 5), generator=torch.Generator().manual_seed(1))
    return {"input_ids": labels, "labels": labels, "num_bytes": torch.tensor([8, 9, 10])}


@pytest.fixture
def hidden(batch):
    labels = batch["labels"].clone()
    labels[:, ::2] = -100
    return {**batch, "labels": labels}


def test_they_are_registered_and_read_text():
    for name in ("causal-lm", "masked-lm", "sentence-embedding"):
        assert name in list_tasks()
        assert build_task(name).modality == "text"
        assert not build_task(name).has_classes


def test_a_causal_loss_is_of_the_next_token(batch):
    task, outputs = build_task("causal-lm"), random_outputs(3, 5, 7)
    expected = F.cross_entropy(outputs.logits[:, :-1].reshape(-1, 7), batch["labels"][:, 1:].reshape(-1))
    assert torch.allclose(task.loss(outputs, batch), expected)
    changed = outputs.logits.clone()
    changed[:, -1] = 100  # what would be said of a token behind the last
    assert torch.equal(task.loss(SimpleNamespace(logits=changed), batch), task.loss(outputs, batch))
    assert torch.allclose(NeuMetaForCausalLM.with_loss(outputs, batch["labels"]).loss, expected)


def test_a_masked_loss_is_of_hidden_tokens_alone(hidden):
    task, outputs = build_task("masked-lm"), random_outputs(3, 5, 7)
    expected = F.cross_entropy(outputs.logits.reshape(-1, 7), hidden["labels"].reshape(-1))
    assert torch.allclose(task.loss(outputs, hidden), expected)
    assert torch.allclose(NeuMetaForMaskedLM.with_loss(outputs, hidden["labels"]).loss, expected)
    none = {**hidden, "labels": torch.full_like(hidden["labels"], -100)}
    assert task.loss(outputs, none) == 0


@pytest.mark.parametrize(("name", "shift"), [("causal-lm", True), ("masked-lm", False)])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_the_divergence_at_labelled_places(hidden, name, shift, temperature):
    task, student, teacher = build_task(name), random_outputs(3, 5, 7), random_outputs(3, 5, 7, seed=2)
    found = task.distillation(
        task.predictions(student, hidden), task.predictions(teacher, hidden), temperature=temperature
    )
    logs = []
    for outputs in (student, teacher):
        logits = outputs.logits[:, :-1] if shift else outputs.logits
        labels = hidden["labels"][:, 1:] if shift else hidden["labels"]
        logs.append((logits[labels >= 0] / temperature).log_softmax(-1))
    expected = (logs[1].exp() * (logs[1] - logs[0])).sum(-1).mean() * temperature**2
    assert torch.allclose(found, expected, atol=1e-6)
    same = task.predictions(student, hidden)
    assert task.distillation(same, same, temperature=temperature).abs() < 1e-6


def test_scores_are_of_the_split_and_not_a_mean_of_batches(batch):
    meter = build_task("causal-lm").make_meter(FAMILY, None, "test")
    outputs = random_outputs(3, 5, 7)
    for rows in (slice(0, 1), slice(1, 3)):
        meter.add(SimpleNamespace(logits=outputs.logits[rows]), {name: part[rows] for name, part in batch.items()})
    scores = meter.compute()
    loss = build_task("causal-lm").loss(outputs, batch).item()
    assert scores["loss"] == pytest.approx(loss)
    assert scores["perplexity"] == pytest.approx(math.exp(loss))
    assert scores["bits_per_byte"] == pytest.approx(12 * loss / math.log(2) / 27)
    assert all(not score.larger_is_better for score in build_task("causal-lm").scores)


def test_bits_are_not_known_without_bytes(batch):
    del batch["num_bytes"]
    meter = build_task("causal-lm").make_meter(FAMILY, None, "test")
    meter.add(random_outputs(3, 5, 7), batch)
    assert math.isnan(meter.compute()["bits_per_byte"])


def test_what_the_network_does_not_know_is_refused(batch, hidden):
    meter = build_task("masked-lm").make_meter(FAMILY, None, "test")
    with pytest.raises(DataError, match="test split has a label"):
        meter.compute()
    with pytest.raises(DataError, match="holds token 6, and the model knows 3"):
        meter.add(random_outputs(3, 5, 3), {**hidden, "labels": torch.full((3, 5), 6)})
    meter.add(random_outputs(3, 5, 7), hidden)
    assert set(meter.compute()) == {score.name for score in build_task("masked-lm").scores}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("masked-lm", {"mask_probability": 0}),
        ("causal-lm", {"new_tokens": 0}),
        ("sentence-embedding", {"vectors": -1}),
        ("causal-lm", {"dice": 1}),
    ],
)
def test_options_are_checked(name, options):
    with pytest.raises(RecipeError, match=f"task.*{next(iter(options))}"):
        build_task(name, options)


# ------------------------------------------------------------------------------------------------------- sentences


def encode(seed=0, pairs=6):
    torch.manual_seed(seed)
    network = TinyEncoder(TinyEncoderConfig()).eval()
    tokenizer = word_tokenizer()
    encoded = tokenizer(
        [" ".join(text.split()[: 2 + row % 4]) for row, text in enumerate(sentences(2 * pairs))],
        padding=True,
        return_tensors="pt",
    )
    batch = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    return network, batch, network(**batch)


def test_a_sentence_s_vector_knows_nothing_of_padding_and_has_length_one():
    network, batch, outputs = encode()
    vectors = build_task("sentence-embedding").predictions(outputs, batch)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(12))
    length = int(batch["attention_mask"][0].sum())
    alone = {name: tensor[:1, :length] for name, tensor in batch.items()}
    assert torch.allclose(build_task("sentence-embedding").predictions(network(**alone), alone), vectors[:1], atol=1e-6)
    mean = outputs.last_hidden_state[0, :length].mean(0)
    assert torch.allclose(vectors[0], mean / mean.norm(), atol=1e-6)


def test_spearman_is_that_of_the_whole_split():
    _, batch, outputs = encode()
    wanted = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0, 0.0])
    task = build_task("sentence-embedding")
    first, second = task.predictions(outputs, batch).chunk(2)
    expected = spearmanr((first * second).sum(-1).detach(), wanted).statistic
    meter = task.make_meter(FAMILY, None, "test")
    for part in (slice(0, 2), slice(2, 6)):
        rows = [*range(6)[part], *range(6, 12)[part]]
        meter.add(
            SimpleNamespace(last_hidden_state=outputs.last_hidden_state[rows].detach()),
            {"attention_mask": batch["attention_mask"][rows], "labels": wanted[part]},
        )
    assert meter.compute()["spearman"] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(DataError, match="no scores"):
        meter.add(outputs, batch)
    flat = task.make_meter(FAMILY, None, "test")
    flat.add(outputs, {**batch, "labels": torch.ones(6)})
    with pytest.raises(DataError, match="all scores of the test split are the same"):
        flat.compute()


def test_distillation_of_sentences_weighs_vectors_and_similarities():
    _, batch, outputs = encode()
    _, _, others = encode(seed=1)

    def distance(one, other, **options):
        task = build_task("sentence-embedding", options)
        found, expected = task.predictions(one, batch), task.predictions(other, batch)
        return task.distillation(found, expected, temperature=1.0)

    assert distance(outputs, outputs).abs() < 1e-6
    both = distance(outputs, others)
    assert torch.allclose(both, distance(outputs, others, vectors=0) + distance(outputs, others, similarities=0))
    # A rotation of all vectors changes no similarity.
    turned = SimpleNamespace(last_hidden_state=outputs.last_hidden_state.flip(-1))
    assert distance(turned, outputs, vectors=0).abs() < 1e-6 < distance(turned, outputs, similarities=0)
    narrow = SimpleNamespace(last_hidden_state=outputs.last_hidden_state[..., :3])
    assert distance(narrow, outputs, vectors=0).isfinite()
    with pytest.raises(RecipeError, match=r"task\.vectors=1\.0.*3 numbers.*8"):
        distance(narrow, outputs)


def test_encoders_learn_by_distillation_alone():
    task = build_task("sentence-embedding")
    with pytest.raises(RecipeError, match=r"losses\.task=1\.0.*no loss of its own"):
        check_losses(LossesRecipe(distillation=1.0), task)
    with pytest.raises(RecipeError, match=r"losses\.distillation"):
        check_losses(LossesRecipe(task=0.0), task)
    check_losses(LossesRecipe(task=0.0, distillation=1.0), task)


# ----------------------------------------------------------------------------------------------------- what is shown


@pytest.fixture
def writer():
    torch.manual_seed(0)
    return TinyLanguage(TinyLanguageConfig()).eval()


PROMPTS = torch.tensor([[5, 6], [7, 8]])


def test_text_is_the_same_for_the_same_seed_and_leaves_random_numbers_alone(writer):
    options = {"num_tokens": 12, "temperature": 1.0, "end": None}
    before = torch.random.get_rng_state()
    one, same, other = (sample_tokens(writer, PROMPTS, seed=seed, **options) for seed in (0, 0, 1))
    assert one == same != other
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [len(tokens) for tokens in one] == [14, 14]
    assert [tokens[:2] for tokens in one] == PROMPTS.tolist()


def test_the_distribution_is_the_network_s_own_whatever_its_config_asks_for(writer):
    options = {"num_tokens": 200, "temperature": 1.0, "end": None, "seed": 0}
    plain = sample_tokens(writer, PROMPTS, **options)
    writer.generation_config.top_k = 1
    writer.generation_config.repetition_penalty = 5.0
    writer.generation_config.max_length = 3
    assert sample_tokens(writer, PROMPTS, **options) == plain
    counts = torch.zeros(15)
    tokens = sample_tokens(writer, PROMPTS[:1].repeat(4000, 1), num_tokens=1, temperature=2.0, end=None, seed=0)
    for row in tokens:
        counts[row[-1]] += 1
    expected = (writer(PROMPTS[:1]).logits[0, -1] / 2).softmax(-1)
    assert torch.allclose(counts / 4000, expected, atol=0.03)


def test_without_temperature_the_likeliest_token_is_taken(writer):
    (tokens,) = sample_tokens(writer, PROMPTS[:1], num_tokens=5, temperature=0.0, end=None, seed=0)
    for place in range(2, 7):
        assert tokens[place] == writer(torch.tensor([tokens[:place]])).logits[0, -1].argmax()


def test_a_text_ends_with_its_end(writer):
    free = sample_tokens(writer, PROMPTS, num_tokens=30, temperature=1.0, end=None, seed=0)
    end = free[0][5]
    ended = sample_tokens(writer, PROMPTS, num_tokens=30, temperature=1.0, end=end, seed=0)
    for tokens, whole in zip(ended, free, strict=True):
        assert tokens == whole[: len(tokens)]
        assert end not in tokens[2:-1]
        assert tokens[-1] == end or len(tokens) == 32


def test_only_what_generates_writes():
    with pytest.raises(TargetError, match="TinyEncoder has no `generate`"):
        sample_tokens(TinyEncoder(TinyEncoderConfig()), PROMPTS, num_tokens=1, temperature=1.0, end=None, seed=0)


@pytest.mark.parametrize("prompt", [None, "the red cat"])
def test_a_figure_holds_what_each_network_writes(writer, prompt):
    tokenizer = word_tokenizer()
    ids = tokenizer(sentences(3), return_tensors="pt")["input_ids"]
    task = build_task("causal-lm", {"prompt": prompt, "prompt_tokens": 3, "new_tokens": 8})
    figure = task.draw(FAMILY, {"reference": writer, "width 0.5": writer}, {"input_ids": ids}, tokenizer, [])
    one, other = figure.axes
    assert (one.get_title(loc="left"), other.get_title(loc="left")) == ("reference", "width 0.5")
    assert one.texts[0].get_text() == other.texts[0].get_text()
    begin = prompt or tokenizer.decode(ids[0, :3])
    assert one.texts[0].get_text().replace("\n", " ").startswith(begin)


def test_a_figure_takes_any_text(tmp_path):
    text_figure({"a": ["costs $5 and $6 _x^2$", ""], "b": ["x " * 100, "é"]}).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_figure_of_pairs_says_how_alike_they_are():
    network, batch, _ = encode()
    figure = build_task("sentence-embedding").draw(TinyEncoderFamily(), {"a": network}, batch, word_tokenizer(), [])
    assert figure.axes[0].texts[0].get_text().count(".") >= 6
