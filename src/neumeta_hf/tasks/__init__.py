"""Tasks: what networks are trained and judged by. A task is one file: its loss, its metrics and its picture."""

from neumeta_hf.tasks.accuracy import Accuracy
from neumeta_hf.tasks.base import Meter, Task, build_task, list_tasks, register_task
from neumeta_hf.tasks.classification import ImageClassification
from neumeta_hf.tasks.generation import ImageGeneration
from neumeta_hf.tasks.mean_iou import MeanIoU
from neumeta_hf.tasks.segmentation import SemanticSegmentation

__all__ = [
    "Accuracy",
    "ImageClassification",
    "ImageGeneration",
    "MeanIoU",
    "Meter",
    "SemanticSegmentation",
    "Task",
    "build_task",
    "list_tasks",
    "register_task",
]
