"""Two small networks that read tokens: a language model that can `generate`, and an encoder."""

import copy

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from neumeta_hf.axes import Axis
from neumeta_hf.targets import TargetFamily, registry
from neumeta_hf.targets.loading import load_complete


@strict
class TinyLanguageConfig(PreTrainedConfig):
    model_type = "tiny_language"

    vocab_size: int = 15
    embedding_size: int = 8
    hidden_size: int = 16
    max_position_embeddings: int = 64
    use_cache: bool = False


@strict
class TinyEncoderConfig(TinyLanguageConfig):
    model_type = "tiny_encoder"


class _Network(PreTrainedModel):
    config: TinyLanguageConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.embedding_size)
        self.widen = nn.Linear(2 * config.embedding_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, self.num_outputs)
        self.post_init()

    def read(self, input_ids, others):
        assert input_ids.dtype == torch.int64
        embedded = self.embed(input_ids)
        return self.head(self.widen(torch.cat([embedded, others(embedded)], -1)).relu())

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            init.normal_(module.weight, std=0.5)
        if isinstance(module, nn.Linear):
            init.zeros_(module.bias)


class TinyLanguage(_Network, GenerationMixin):
    """Foretells a token from the one before it and the mean of all before."""

    @property
    def num_outputs(self):
        return self.config.vocab_size

    def forward(self, input_ids, attention_mask=None, **_):
        def mean_before(embedded):
            return embedded.cumsum(1) / torch.arange(1, embedded.shape[1] + 1, device=embedded.device)[:, None]

        return CausalLMOutput(logits=self.read(input_ids, mean_before))


class TinyEncoder(_Network):
    """Vectors of tokens, of as many numbers at every size."""

    config: TinyEncoderConfig

    @property
    def num_outputs(self):
        return self.config.embedding_size

    def forward(self, input_ids, attention_mask):
        def mean_of_all(embedded):
            mask = attention_mask[..., None].float()
            return ((embedded * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)).expand_as(embedded)

        return BaseModelOutput(last_hidden_state=self.read(input_ids, mean_of_all))


class _Family(TargetFamily):
    cls: type[_Network]

    def build(self, config):
        return self.cls(copy.deepcopy(config))

    def load(self, name, **options):
        return load_complete(self.cls, name, build=self.build, **options)

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
        ids = torch.randint(config.vocab_size, (batch_size, 6), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class TinyLanguageFamily(_Family):
    name = "tiny_language"
    model_types = ("tiny_language",)
    task = "causal-lm"
    input_names = ("input_ids", "attention_mask")
    cls = TinyLanguage


class TinyEncoderFamily(_Family):
    name = "tiny_encoder"
    model_types = ("tiny_encoder",)
    task = "sentence-embedding"
    input_names = ("input_ids", "attention_mask")
    cls = TinyEncoder


def register(patch):
    """Make families and configs known for as long as a monkeypatch lasts."""
    patch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    patch.setattr(CONFIG_MAPPING, "_extra_content", dict(CONFIG_MAPPING._extra_content))
    for config, family in ((TinyLanguageConfig, TinyLanguageFamily), (TinyEncoderConfig, TinyEncoderFamily)):
        AutoConfig.register(config.model_type, config)
        registry.register_target(family)
