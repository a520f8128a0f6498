"""A run of seconds on the embedded digits, and what lets several runs share one process."""

from accelerate.state import AcceleratorState, GradientState

DATA = {"dataset": "digits", "image_size": 8, "mean": [0.305], "std": [0.376], "augmentation": "crop"}

RECIPE = {
    "data": DATA,
    "target": {"family": "lenet", "config": {"hidden_channels": [4, 6, 8], "kernel_size": 3, "image_size": 8}},
    "pretrain": {
        "epochs": 1,
        "batch_size": 128,
        "optimizer": {"learning_rate": 0.01},
        "schedule": {"name": "constant"},
    },
    "family": {
        "hypernetwork": {"type": "inr", "hidden_size": 16, "num_hidden_layers": 2, "num_frequencies": 4},
        "coordinate_noise": 0.5,
    },
    "sizes": {"widths": [0.5, 0.75, 1.0], "sampler": "sandwich"},
    "train": {"epochs": 2, "batch_size": 128, "ema_decay": 0.9, "clip": 1.0, "schedule": {"warmup": 0.2}},
}


def reset_accelerate():
    """Accelerate keeps the state of a process in singletons, and a run is one process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
