"""What the sizes of transformers have in common: a residual stream, whole attention heads and an MLP in every layer.

A size has one width of the residual stream for the whole network and a number of layers. Each layer has a number of
heads and a width of the MLP. `head_dim` stays as it is: rotary embeddings, kernels and servers rely on it. Where keys
and values are shared by several query heads, these move as one group.

Stock classes have one number of heads and one width of the MLP for all layers. A size for which that is enough is a
stock network. Others carry `per_layer_config`, as transformers defines it, and a subclass that builds what it says.
"""

import abc
import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedConfig

from neumeta_hf.axes import Axis, Depth, Size
from neumeta_hf.rules import Rule
from neumeta_hf.targets.registry import TargetFamily

STREAM = "hidden"
STACK = "layers"


class TransformerFamily(TargetFamily):
    """A stack of layers that add to one residual stream.

    Attributes:
        stock_types: Stock config class to the class of the same networks with other sizes in every layer.
        mlp_key: What a config calls the width of the MLP.
        has_groups: Whether a config has a number of heads of keys and values.
    """

    has_graph = False
    stock_types: ClassVar[Mapping[Any, Any]]
    mlp_key: ClassVar[str] = "intermediate_size"
    has_groups: ClassVar[bool] = False

    @abc.abstractmethod
    def stack(self, config: PreTrainedConfig) -> str:
        """Path of the module that numbers the layers."""

    @abc.abstractmethod
    def layer_rules(self, heads: "Heads", mlp: str) -> dict[str, Rule]:
        """Rules of one layer, by paths inside of it.

        Args:
            heads: Number of heads of the layer.
            mlp: Axis of its MLP.
        """

    @abc.abstractmethod
    def outer_rules(self, config: PreTrainedConfig) -> dict[str, Rule]:
        """Rules of what is no layer."""

    def head_dim(self, config: Any) -> int:
        """Positions of one attention head."""
        layer = config.per_layer_config[0]
        return getattr(config, "head_dim", None) or config.hidden_size // layer.num_attention_heads

    def queries_per_group(self, config: Any) -> int:
        """Query heads that share the keys and values of one head."""
        layer = config.per_layer_config[0]
        return layer.num_attention_heads // (getattr(layer, "num_key_value_heads", None) or layer.num_attention_heads)

    def layer_counts(self, config: Any) -> list[tuple[int, int]]:
        """Groups of heads, and width of the MLP, of each layer."""
        queries = self.queries_per_group(config)
        return [
            (layer.num_attention_heads // queries, getattr(layer, self.mlp_key)) for layer in config.per_layer_config
        ]

    def axes(self, config: Any) -> list[Axis]:
        found = [Axis(STREAM, config.hidden_size)]
        for number, (groups, mlp) in enumerate(self.layer_counts(config), start=1):
            found += [Axis(f"layer{number}.heads", groups), Axis(f"layer{number}.mlp", mlp)]
        return found

    def rules(self, config: Any) -> dict[str, Rule]:
        found, path = self.outer_rules(config), self.stack(config)
        for number in range(config.num_hidden_layers):
            heads = Heads(f"layer{number + 1}.heads", self.head_dim(config), self.queries_per_group(config))
            layer = self.layer_rules(heads, f"layer{number + 1}.mlp")
            found |= {f"{path}.{number}.{name}": rule for name, rule in layer.items()}
        return found

    def depths(self, config: Any) -> Sequence[Depth]:
        count = config.num_hidden_layers
        if count < 2:
            return []
        inner = {number: (f"layer{number + 1}.heads", f"layer{number + 1}.mlp") for number in range(count)}
        return [Depth(STACK, self.stack(config), fixed=(), ranking=tuple(range(count)), inner=inner)]

    def config_at(self, config: Any, size: Size) -> PreTrainedConfig:
        queries, head_dim = self.queries_per_group(config), self.head_dim(config)
        numbers = range(1, config.num_hidden_layers + 1)
        layers = [
            (size[f"layer{number}.heads"] * queries, size[f"layer{number}.mlp"])
            for number in numbers
            if size[f"layer{number}.heads"]
        ]
        fields = homogeneous(config).to_dict()
        model_type, before = fields.pop("model_type"), fields["hidden_size"]
        fields |= {"hidden_size": size[STREAM], "num_hidden_layers": len(layers)}
        for name in ("stage_names", "out_features", "out_indices"):  # of backbones; the last layer unless it is said
            fields.pop(name, None)
        if isinstance(types := fields.get("layer_types"), list):  # these say of each layer how it attends
            kept = [number - 1 for number in numbers if size[f"layer{number}.heads"]]
            fields["layer_types"] = [types[number] for number in kept]
        if fields.get("pooler_output_size") == before:
            fields["pooler_output_size"] = size[STREAM]
        stock, own = next(pair for pair in self.stock_types.items() if issubclass(type(config), pair[0]))
        fields.pop("head_dim", None)
        fields |= self.fields_of(layers[0], queries)
        cls = stock if self.is_stock(fields, layers, head_dim) else own
        if hasattr(stock, "head_dim") or cls is own or layers[0][0] * head_dim != size[STREAM]:
            fields["head_dim"] = head_dim
        if cls is own:
            fields["per_layer_config"] = {number: self.fields_of(layer, queries) for number, layer in enumerate(layers)}
        if cls.model_type != model_type:
            fields["architectures"] = None
        return cls(**fields)

    def is_stock(self, fields: Mapping[str, Any], layers: Sequence[tuple[int, int]], head_dim: int) -> bool:
        """Tell whether the stock class can have these sizes."""
        return len(set(layers)) == 1

    def fields_of(self, layer: tuple[int, int], queries: int) -> dict[str, int]:
        """Write the config fields of a layer with that many query heads and that width of the MLP."""
        heads, mlp = layer
        grouped = {"num_key_value_heads": heads // queries} if self.has_groups else {}
        return {"num_attention_heads": heads, self.mlp_key: mlp, **grouped}


class Heads:
    """The attention heads of one layer, as rules name them.

    Attributes:
        queries: What query heads put out, and what the output projection reads.
        keys: What heads of keys and values put out.
    """

    def __init__(self, axis: str, head_dim: int, queries_per_group: int):
        self.queries = (axis, 1, head_dim * queries_per_group)
        self.keys = (axis, 1, head_dim)


def homogeneous(config: Any) -> Any:
    """Copy a config so that it says the same of all layers: what a stock class can build, before resizing."""
    copied = copy.deepcopy(config)
    copied.per_layer_config = None
    return copied


class PerLayerSizes:
    """Mixed into a stock class of transformers: builds the layers that `per_layer_config` says.

    A subclass says where its layers are and how one is resized.
    """

    def __init__(self, config: Any):
        super().__init__(self.stock_config(config))  # pyright: ignore[reportCallIssue]
        for layer, fields in zip(self.sized_layers(), config.per_layer_config, strict=True):
            self.resize_layer(layer, fields)
        config._attn_implementation = self.config._attn_implementation  # which the stock class has chosen
        self.config = config
        self.post_init()  # pyright: ignore[reportAttributeAccessIssue]

    @staticmethod
    def stock_config(config: Any) -> Any:
        """Make the config that the stock class is built with, before its layers are resized."""
        return homogeneous(config)

    def sized_layers(self) -> Sequence[nn.Module]:
        """List the layers, in order."""
        raise NotImplementedError

    def resize_layer(self, layer: Any, config: Any) -> None:
        """Give a layer the sizes of its own config."""
        raise NotImplementedError


def resized(linear: nn.Linear, *, inputs: int | None = None, outputs: int | None = None) -> nn.Linear:
    """Make a linear layer like another, with other numbers of inputs or outputs and fresh weights."""
    return nn.Linear(inputs or linear.in_features, outputs or linear.out_features, bias=linear.bias is not None)
