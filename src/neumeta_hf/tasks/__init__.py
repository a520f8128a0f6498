"""Tasks: what networks are trained and judged by. A task is one file: its loss, its metrics and its picture.

What only measuring or drawing needs (datasets, evaluate, torchmetrics, matplotlib) is imported there.
"""

from neumeta_hf.tasks.base import Meter, Task, build_task, list_tasks, register_task
from neumeta_hf.tasks.classification import ImageClassification
from neumeta_hf.tasks.embedding import SentenceEmbedding
from neumeta_hf.tasks.generation import ImageGeneration
from neumeta_hf.tasks.language import CausalLanguageModelling, MaskedLanguageModelling
from neumeta_hf.tasks.reconstruction import ImageReconstruction
from neumeta_hf.tasks.segmentation import SemanticSegmentation

__all__ = [
    "CausalLanguageModelling",
    "ImageClassification",
    "ImageGeneration",
    "ImageReconstruction",
    "MaskedLanguageModelling",
    "Meter",
    "SemanticSegmentation",
    "SentenceEmbedding",
    "Task",
    "build_task",
    "list_tasks",
    "register_task",
]
