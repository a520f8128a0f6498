"""Named tensors that live in a checkpoint under their own dotted names."""

from collections.abc import Mapping

from torch import Tensor, nn


class TensorTree(nn.Module):
    """Named tensors that live in a checkpoint under their own dotted names.

    Args:
        parameters: Name to tensor; kept as parameters.
        buffers: Name to tensor; kept as persistent buffers.
    """

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]):
        super().__init__()
        for tensors, is_parameter in ((parameters, True), (buffers, False)):
            for name, tensor in tensors.items():
                *path, leaf = name.split(".")
                node: nn.Module = self
                for part in path:
                    if part not in node._modules:
                        node.add_module(part, TensorTree({}, {}))
                    node = node.get_submodule(part)
                if is_parameter:
                    node.register_parameter(leaf, nn.Parameter(tensor))
                else:
                    node.register_buffer(leaf, tensor)

    def tensors(self) -> dict[str, Tensor]:
        """Map names to tensors, parameters with their gradients."""
        return {**dict(self.named_parameters()), **dict(self.named_buffers())}
