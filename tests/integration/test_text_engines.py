"""Morphs of language models and encoders in the engines of docs/guide_engines_text.md."""

import numpy as np
import pytest
import torch
from tests.tiny_targets import bert, llama
from tests.tiny_text import word_tokenizer
from transformers import MistralConfig, Qwen2Config, Qwen3Config

from neumeta_hf import NeuMetaModel
from neumeta_hf.targets import find_target

UNIFORM = {"width": 0.67, "depth": 0.67}
PER_LAYER = {"size": {"layer1.heads": 1, "layer2.mlp": 7}}


def family_of(config):
    torch.manual_seed(0)
    target = find_target(config)
    network = target.build(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    options = {"generated": ["*"], "normalization": "keep", "trained_widths": [0.3, 1.0], "trained_depths": [0.3, 1.0]}
    return target, NeuMetaModel.from_reference(network, hypernetwork={"type": "grid"}, **options).eval()


# Of Llama and Qwen2 it takes heads for parts of the stream, whatever `head_dim` says.
FULL = {"hidden_size": 24}
LANGUAGE_MODELS = {
    "llama": lambda **options: llama(**FULL, **options),
    "mistral": lambda **options: llama(MistralConfig, **FULL, **options),
    "qwen2": lambda **options: llama(Qwen2Config, **FULL, **options),
    "qwen3": lambda **options: llama(Qwen3Config, **options),
}


@pytest.mark.parametrize("config", LANGUAGE_MODELS.values(), ids=LANGUAGE_MODELS)
def test_ctranslate2_writes_what_transformers_writes(config, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    tokenizer = word_tokenizer()
    _, family = family_of(config(vocab_size=len(tokenizer), num_hidden_layers=3, tie_word_embeddings=False))
    morph = family.morph(**UNIFORM)
    assert not type(morph).__name__.startswith("NeuMeta")
    morph.save_pretrained(tmp_path / "morph")
    tokenizer.save_pretrained(tmp_path / "morph")
    ctranslate2.converters.TransformersConverter(str(tmp_path / "morph")).convert(str(tmp_path / "converted"))
    prompt = ["the", "cat", "sat"]
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(prompt)])
    expected = morph.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)[0].tolist()
    generator = ctranslate2.Generator(str(tmp_path / "converted"), device="cpu")
    (found,) = generator.generate_batch([prompt], max_length=24, sampling_topk=1, end_token=[])
    assert found.sequences_ids[0][: len(expected)] == expected
    log_probs = np.array(generator.forward_batch([prompt], return_log_probs=True))[0]
    with torch.no_grad():
        assert np.allclose(log_probs, morph(ids).logits[0].log_softmax(-1), atol=1e-4)


@pytest.mark.filterwarnings("ignore::neumeta_hf.SizeWarning")
@pytest.mark.parametrize("where", [UNIFORM, PER_LAYER], ids=["uniform", "per layer"])
@pytest.mark.parametrize("config", [llama, lambda **o: llama(Qwen3Config, **o), bert], ids=["llama", "qwen3", "bert"])
def test_onnx_runtime_computes_what_a_morph_does(config, where, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    target, family = family_of(config(num_hidden_layers=3))
    morph = family.morph(**where)

    class Output(torch.nn.Module):
        """Ids and mask in, one tensor out."""

        def __init__(self):
            super().__init__()
            self.morph = morph

        def forward(self, input_ids, attention_mask):
            return target.forward(self.morph, {"input_ids": input_ids, "attention_mask": attention_mask})[0]

    batch = target.example_batch(morph.config)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=32)}
    path = str(tmp_path / "morph.onnx")
    torch.onnx.export(
        Output().eval(),
        tuple(batch.values()),
        path,
        input_names=list(batch),
        output_names=["output"],
        dynamic_shapes=(sizes, sizes),
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    other = {name: tensor[:, :9].repeat(2, 1) for name, tensor in batch.items()}
    other["attention_mask"][1, 6:] = 0
    for each in (batch, other):
        (found,) = session.run(["output"], {name: tensor.numpy() for name, tensor in each.items()})
        with torch.no_grad():
            expected = target.forward(morph, each)[0]
        seen = each["attention_mask"].bool()
        assert torch.allclose(torch.from_numpy(found)[seen], expected[seen], atol=1e-4)
