"""The families that whole_network.py measures beside a recipe's own, and what their rows are called."""

CALIBRATED = ", calibrated on real images"
SHAPES = "individual, random widths per stage"
STATIC = "individual, static part of the reference"
FOUR_SIZES = ("sizes.turns=[]", "sizes.num_per_group=1")
HALF_DISTILLATION = ("losses.distillation=0.5", "losses.temperature=4.0")
INR = (
    "family.hypernetwork={type: inr, hidden_size: 256, num_hidden_layers: 4, num_frequencies: 16, encode_sizes: true, "
    "centered: false, output: channels}",
    "family.coordinate_noise=1.0",
    "preparation.order=path",
    "fit.steps=500",
    "train.optimizer={name: adamw, learning_rate: 0.001, weight_decay: 0.0}",
    "train.ema_decay=0.995",
)
INR_DEFAULTS = (
    "family.hypernetwork={type: inr, hidden_size: 256, num_hidden_layers: 5}",
    "family.coordinate_noise=1.0",
    "preparation.order=path",
    "sizes={widths: '0.25:1.0:0.03125', sampler: uniform, num_random: 1}",
    "train.batch_size=256",
    "train.optimizer={name: muon, muon_learning_rate: 0.015, learning_rate: 0.0015, weight_decay: 0.0}",
    "train.schedule={name: cosine, warmup: 0.05}",
    "train.ema_decay=0.995",
)
FAMILIES = {  # part: name of its rows, and how its recipe differs
    "family": ("family", ()),
    "inr": ("family, the paper's INR", INR),
    "inr-no-noise": ("family, the paper's INR without noise", (*INR, "family.coordinate_noise=0.0")),
    "inr-defaults": ("family, the INR with its defaults", INR_DEFAULTS),
    # Without BatchNorm: a lower rate, and a bound on the gradient.
    "fused": (
        "family, BatchNorm fused",
        ("preparation.normalization=fuse", "train.optimizer.learning_rate=0.02", "train.clip=1.0"),
    ),
    "field": ("family, the field", ("family.hypernetwork={type: field, positions: absolute, levels: 3}",)),
    "strata": ("family, widths drawn by strata", ("sizes.strata=3",)),
    "one-level": ("family, one level", ("family.hypernetwork.levels=1",)),
    "noise": ("family, noise", ("family.coordinate_noise=0.5",)),
    "uniform-only": ("family, trained at uniform widths only", ("sizes.num_per_group=0",)),
    # What is published of nested transformers: first channels of one set of weights, uniform widths of a list.
    "nested": ("family, plain nested slicing", ("family.hypernetwork.levels=1", "sizes.num_per_group=0")),
    "full-size-always": ("family, full size at every step", FOUR_SIZES),
    "no-distillation": ("family, no distillation", ("losses.distillation=0.0",)),
    "temperature": (
        "family, distillation at temperature 4",
        ("losses.task=0.3", "losses.distillation=0.7", "losses.temperature=4.0"),
    ),
    "half-distillation": ("family, half the distillation", HALF_DISTILLATION),
    "always": (
        "family, half width at every step",
        (*FOUR_SIZES, *HALF_DISTILLATION, "sizes.always=[0.5]", "sizes.alternate=true"),
    ),
    "smallest-per-group": ("family, narrow stages more often", ("sizes.smallest_per_group=0.25",)),
    "smallest-share": ("family, smallest share of one half", ("sizes.smallest_share=0.5",)),
}
