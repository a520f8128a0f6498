"""What lets a morph of a sentence encoder be read by sentence-transformers."""

import json
from pathlib import Path

import pytest
import torch
from tests.tiny_targets import bert, llama
from tests.tiny_text import word_tokenizer
from transformers import RobertaConfig

from neumeta_hf import NeuMetaModel
from neumeta_hf.hub import push_morph, save_morph
from neumeta_hf.provenance import RunSource
from neumeta_hf.targets import find_target

FILES = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json", "2_Normalize/config.json")


def morph_of(config, run):
    torch.manual_seed(0)
    options = {"normalization": "keep", "trained_widths": [0.3, 1.0], "hypernetwork": {"type": "grid"}}
    family = NeuMetaModel.from_reference(find_target(config).build(config), **options)
    family.run_source = None if run is None else RunSource.of_folder(run)
    return family.morph(0.5)


def saved(config, tmp_path, **tokenizer):
    word_tokenizer(**tokenizer).save_pretrained(tmp_path / "run")
    morph = morph_of(config, tmp_path / "run")
    save_morph(morph, morph.morph_origin, tmp_path / "morph")
    return tmp_path / "morph"


def read(folder, name):
    return json.loads(Path(folder, name).read_text())


def test_a_morph_says_how_its_tokens_become_a_vector(tmp_path):
    folder = saved(bert(vocab_size=15, hidden_size=24, num_attention_heads=4), tmp_path, model_max_length=20)
    modules = read(folder, "modules.json")
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert all((folder / module["path"]).is_dir() for module in modules)
    pooling = read(folder, "1_Pooling/config.json")
    assert pooling.pop("word_embedding_dimension") == read(folder, "config.json")["hidden_size"] < 24
    assert [name for name, chosen in pooling.items() if chosen] == ["pooling_mode_mean_tokens"]
    assert read(folder, "sentence_bert_config.json") == {"max_seq_length": 20, "do_lower_case": False}


@pytest.mark.parametrize("said", [{}, {"model_max_length": 10**30}, {"model_max_length": 512}])
def test_sentences_are_no_longer_than_the_network_has_positions_for(tmp_path, said):
    folder = saved(bert(vocab_size=15, max_position_embeddings=32), tmp_path, **said)
    assert read(folder, "sentence_bert_config.json")["max_seq_length"] == 32


def test_positions_of_roberta_begin_behind_its_padding_token(tmp_path):
    fields = bert(vocab_size=15).to_dict() | {"model_type": "roberta", "architectures": None}
    fields |= {"pad_token_id": 1, "max_position_embeddings": 34}
    folder = saved(RobertaConfig(**fields), tmp_path)
    assert read(folder, "sentence_bert_config.json")["max_seq_length"] == 32


@pytest.mark.parametrize("said", [True, "512", -1, 0, None, [3]])
def test_a_length_that_is_none_is_not_believed(tmp_path, said):
    folder = tmp_path / "run"
    word_tokenizer().save_pretrained(folder)
    settings = read(folder, "tokenizer_config.json") | {"model_max_length": said}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    morph = morph_of(bert(vocab_size=15, max_position_embeddings=32), folder)
    save_morph(morph, morph.morph_origin, tmp_path / "morph")
    assert read(tmp_path / "morph", "sentence_bert_config.json")["max_seq_length"] == 32


def test_only_sentence_encoders_with_a_tokenizer_have_these_files(tmp_path):
    assert not [name for name in FILES if (saved(llama(vocab_size=15), tmp_path) / name).exists()]
    morph = morph_of(bert(vocab_size=15), None)
    save_morph(morph, morph.morph_origin, tmp_path / "bare")
    assert not [name for name in FILES if (tmp_path / "bare" / name).exists()]


def test_they_go_up_with_a_morph(tmp_path):
    morph = morph_of(bert(vocab_size=15), None)
    plan = push_morph(
        morph, morph.morph_origin, "someone/encoder", image_processor=word_tokenizer(model_max_length=9), dry_run=True
    )
    assert set(FILES) < plan.files.keys()
