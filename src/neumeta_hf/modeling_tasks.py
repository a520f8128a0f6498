"""`NeuMetaModel` for each task, with the forward pass and the loss that users of the task expect."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForSemanticSegmentation,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    CausalLMOutput,
    ImageClassifierOutput,
    MaskedLMOutput,
    SemanticSegmenterOutput,
)

from neumeta_hf.configuration_neumeta import NeuMetaConfig
from neumeta_hf.family_sizes import Width
from neumeta_hf.modeling_neumeta import NeuMetaModel
from neumeta_hf.pixels import pixel_cross_entropy
from neumeta_hf.targets import AutoencoderOutput
from neumeta_hf.tokens import labelled, mean_pooling, token_loss


class NeuMetaForImageClassification(NeuMetaModel):
    """A family of image classifiers; its checkpoints and those of `NeuMetaModel` are the same files."""

    task = "image-classification"
    main_input_name = "pixel_values"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs: Any,
    ) -> ImageClassifierOutput:
        """Classify images with the network of a size.

        Args:
            pixel_values: Normalised images, `[batch, channels, height, width]`.
            labels: Class of each image, `[batch]`; given, the cross-entropy comes back as `loss`.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            `logits`, `[batch, num_labels]`, and `loss` if there are labels.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        outputs = super().forward(pixel_values, width=width, noise=noise, seed=seed, **inputs)
        return self.with_loss(outputs, labels)

    @staticmethod
    def with_loss(outputs: Any, labels: Tensor | None) -> ImageClassifierOutput:
        """Add the cross-entropy to what a network of the task puts out; no labels, no loss."""
        loss = F.cross_entropy(outputs.logits.float(), labels) if labels is not None else None
        return ImageClassifierOutput(loss=loss, logits=outputs.logits)


class NeuMetaForSemanticSegmentation(NeuMetaModel):
    """A family of segmentation networks; its checkpoints and those of `NeuMetaModel` are the same files."""

    task = "semantic-segmentation"
    main_input_name = "pixel_values"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs: Any,
    ) -> SemanticSegmenterOutput:
        """Segment images with the network of a size.

        Args:
            pixel_values: Normalised images, `[batch, channels, height, width]`.
            labels: Class of each pixel, `[batch, height, width]`; 255 belongs to none. Given, the mean cross-entropy
                of the others comes back as `loss`, 0 where there are no others.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            `logits`, `[batch, num_labels, height, width]`, and `loss` if there are labels.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        outputs = super().forward(pixel_values, width=width, noise=noise, seed=seed, **inputs)
        return self.with_loss(outputs, labels)

    @staticmethod
    def with_loss(outputs: Any, labels: Tensor | None) -> SemanticSegmenterOutput:
        """Add the mean cross-entropy of a pixel to what a network of the task puts out; no labels, no loss."""
        loss = pixel_cross_entropy(outputs.logits, labels) if labels is not None else None
        return SemanticSegmenterOutput(loss=loss, logits=outputs.logits)  # pyright: ignore[reportArgumentType]


class NeuMetaForImageGeneration(NeuMetaModel):
    """A family of autoencoders; its checkpoints and those of `NeuMetaModel` are the same files.

    `forward` reconstructs images from the mean of their posterior: its output has `sample`, `mean` and `logvar`.
    """

    task = "image-generation"
    main_input_name = "pixel_values"

    def forward(
        self, pixel_values: Tensor, *, width: Width = 1.0, noise: float = 0.0, seed: int = 0, **inputs: Any
    ) -> AutoencoderOutput:
        """Reconstruct images with the network of a size.

        Args:
            pixel_values: Images in [-1, 1], `[batch, channels, height, width]`.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            The images again, and the distribution of their latents.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
            CheckpointError: BatchNorm was kept and has no statistics for that size (evaluation mode).
        """
        return super().forward(pixel_values, width=width, noise=noise, seed=seed, **inputs)


class NeuMetaForCausalLM(NeuMetaModel):
    """A family of causal language models; its checkpoints and those of `NeuMetaModel` are the same files.

    Text is generated by a morph, which is a plain network: `family.morph(0.5).generate(...)`.
    """

    task = "causal-lm"
    main_input_name = "input_ids"

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs: Any,
    ) -> CausalLMOutput:
        """Foretell the next token at each place with the network of a size.

        Args:
            input_ids: Tokens, `[batch, tokens]`.
            labels: The same tokens, -100 for those that do not count; given, the mean cross-entropy of each token but
                the first comes back as `loss`.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **inputs: Further inputs of the target's forward pass, such as `attention_mask`.

        Returns:
            `logits`, `[batch, tokens, vocabulary]`, and `loss` if there are labels.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
        """
        outputs = super().forward(input_ids, width=width, noise=noise, seed=seed, **inputs)
        return self.with_loss(outputs, labels)

    @staticmethod
    def with_loss(outputs: Any, labels: Tensor | None) -> CausalLMOutput:
        """Add the mean cross-entropy of a token to what a network of the task puts out; no labels, no loss."""
        loss = token_loss(labelled(outputs.logits, labels, shift=True)) if labels is not None else None
        return CausalLMOutput(loss=loss, logits=outputs.logits)  # pyright: ignore[reportArgumentType]


class NeuMetaForMaskedLM(NeuMetaModel):
    """A family of masked language models; its checkpoints and those of `NeuMetaModel` are the same files."""

    task = "masked-lm"
    main_input_name = "input_ids"

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs: Any,
    ) -> MaskedLMOutput:
        """Tell hidden tokens with the network of a size.

        Args:
            input_ids: Tokens, some of them hidden, `[batch, tokens]`.
            labels: What was hidden, -100 elsewhere; given, its mean cross-entropy comes back as `loss`.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **inputs: Further inputs of the target's forward pass, such as `attention_mask`.

        Returns:
            `logits`, `[batch, tokens, vocabulary]`, and `loss` if there are labels.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
        """
        outputs = super().forward(input_ids, width=width, noise=noise, seed=seed, **inputs)
        return self.with_loss(outputs, labels)

    @staticmethod
    def with_loss(outputs: Any, labels: Tensor | None) -> MaskedLMOutput:
        """Add the mean cross-entropy of a hidden token to what a network puts out; no labels, no loss."""
        loss = token_loss(labelled(outputs.logits, labels, shift=False)) if labels is not None else None
        return MaskedLMOutput(loss=loss, logits=outputs.logits)  # pyright: ignore[reportArgumentType]


class NeuMetaForSentenceEmbedding(NeuMetaModel):
    """A family of sentence encoders; its checkpoints and those of `NeuMetaModel` are the same files."""

    task = "sentence-embedding"
    main_input_name = "input_ids"

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        width: Width = 1.0,
        noise: float = 0.0,
        seed: int = 0,
        **inputs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode sentences with the network of a size.

        Args:
            input_ids: Tokens, `[sentences, tokens]`.
            attention_mask: 1 for tokens, 0 for padding; none: there is no padding.
            width: As for `size_at`.
            noise: Coordinate noise in channels, for training.
            seed: Seed of the noise.
            **inputs: Further inputs of the target's forward pass.

        Returns:
            `last_hidden_state`, and as `pooler_output` the mean over the tokens of each sentence, of length one.

        Raises:
            TargetError: The target takes no such further input.
            SizeError: No network of the family has that size.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        outputs = super().forward(input_ids, width=width, noise=noise, seed=seed, attention_mask=mask, **inputs)
        hidden = outputs.last_hidden_state
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=mean_pooling(hidden, mask))  # pyright: ignore[reportArgumentType]


def family_class(task: str) -> type[NeuMetaModel]:
    """Find the class of families for a task.

    Args:
        task: As target families name it.

    Returns:
        `NeuMetaModel` itself for tasks that have none of their own.
    """
    return NeuMetaModel.class_for(task)


AutoModelForCausalLM.register(NeuMetaConfig, NeuMetaForCausalLM)
AutoModelForMaskedLM.register(NeuMetaConfig, NeuMetaForMaskedLM)
AutoModelForImageClassification.register(NeuMetaConfig, NeuMetaForImageClassification)
AutoModelForSemanticSegmentation.register(NeuMetaConfig, NeuMetaForSemanticSegmentation)
