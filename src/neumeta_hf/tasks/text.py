"""What tasks on text share: labels of tokens, their losses, and figures of text."""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from neumeta_hf.errors import DataError
from neumeta_hf.images import Interpolation
from neumeta_hf.targets import TargetFamily
from neumeta_hf.tasks.base import Task
from neumeta_hf.tokens import labelled, token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TextTask(Task):
    """A task whose networks read tokens; its figure is text, side by side."""

    modality = "text"

    @abc.abstractmethod
    def write(
        self, family: TargetFamily, network: nn.Module, batch: Mapping[str, Tensor], tokenizer: Any
    ) -> Sequence[str]:
        """Write what a network makes of a few texts.

        Args:
            family: The network's family.
            network: In evaluation mode.
            batch: A few rows.
            tokenizer: Reads and writes tokens.

        Returns:
            A text for each row, or fewer.
        """

    def draw(
        self,
        family: TargetFamily,
        networks: Mapping[str, nn.Module],
        batch: Mapping[str, Tensor],
        images: Any,
        label_names: Sequence[str],
    ) -> "Figure":
        with torch.inference_mode():
            texts = {heading: self.write(family, network, batch, images) for heading, network in networks.items()}
        return text_figure(texts)

    def make_image_processor(
        self,
        *,
        num_channels: int,
        image_size: int | Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        center_crop: bool,
        interpolation: Interpolation,
    ) -> None:
        return None


class TokenMeter:
    """Cross-entropy of all labelled tokens of a split, and what follows from it.

    Args:
        split_name: For messages.
        shift: As for `labelled`.
    """

    def __init__(self, split_name: str, *, shift: bool):
        self.split_name = split_name
        self.shift = shift
        self.loss = 0.0
        self.num_tokens = self.num_right = self.num_bytes = 0

    def add(self, outputs: Any, batch: Mapping[str, Tensor]) -> None:
        found = labelled(outputs.logits, batch["labels"], shift=self.shift)
        vocabulary = found.logits.shape[-1]
        if len(found.labels) and (largest := int(found.labels.max())) >= vocabulary:
            raise DataError(
                f"the {self.split_name} split holds token {largest}, and the model knows {vocabulary} (0 is the "
                "first): measure it with the tokenizer that it was trained with."
            )
        self.loss += token_loss(found).item() * len(found.labels)
        self.num_tokens += len(found.labels)
        self.num_right += int((found.logits.argmax(-1) == found.labels).sum())
        self.num_bytes += int(batch["num_bytes"].sum()) if "num_bytes" in batch else 0

    def compute(self) -> dict[str, float]:
        """Loss in nats a token, perplexity, bits a byte (NaN where bytes are not known), and accuracy.

        Raises:
            DataError: No token of the batches has a label.
        """
        if not self.num_tokens:
            raise DataError(f"no token of the {self.split_name} split has a label, so there is nothing to measure.")
        loss = self.loss / self.num_tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": self.loss / math.log(2) / self.num_bytes if self.num_bytes else math.nan,
            "accuracy": self.num_right / self.num_tokens,
        }


def text_figure(texts: Mapping[str, Sequence[str]]) -> "Figure":
    """Make a figure of texts, with a column for each heading.

    Args:
        texts: Heading to texts.

    Returns:
        The figure, which holds nothing of matplotlib's global state.
    """
    import textwrap

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def wrapped(text: str) -> str:
        # Dollar signs would begin formulas.
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, 40) or [""]]
        return "\n".join(lines).replace("$", r"\$")

    columns = {heading: "\n\n".join(map(wrapped, found)) for heading, found in texts.items()}
    num_lines = max((text.count("\n") + 1 for text in columns.values()), default=1)
    figure = Figure(figsize=(3.2 * max(len(columns), 1), 0.6 + 0.15 * num_lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(len(columns), 1), squeeze=False)
    for place, (heading, text) in zip(axes[0], columns.items(), strict=False):
        place.set_axis_off()
        place.set_title(heading, fontsize=8, loc="left")
        place.text(0, 1, text, fontsize=6, family="monospace", va="top", transform=place.transAxes)
    return figure
