"""The loop on a linear model, where every step can be followed by hand."""

import contextlib
import copy
import itertools
import math
import os
import signal
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from neumeta_hf.errors import CheckpointError, DataError, RecipeError
from neumeta_hf.training import loop as loop_module
from neumeta_hf.training.loop import StoppedEarly, TrainingLoop
from neumeta_hf.training.recipe import LoopRecipe, OptimizerRecipe, ScheduleRecipe

PLAIN = {
    "epochs": 2,
    "batch_size": 16,
    "optimizer": OptimizerRecipe(name="sgd", learning_rate=0.1, momentum=0.0),
    "schedule": ScheduleRecipe(name="constant"),
}


class Objective(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 10)
        self.seen = []

    def forward(self, pixel_values, labels, *, step):
        self.seen.append((step, labels.tolist()))
        return {"loss": F.cross_entropy(self.linear(pixel_values.flatten(1)), labels)}


@pytest.fixture
def another_precision():
    """Accelerate keeps the precision of the first run of a process for good."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


@pytest.fixture
def make_loop(digits, tmp_path):
    def make(*, name="state", scores=None, num_images=80, objective=None, mixed_precision="no", **options):
        objective = objective or Objective()
        scores = iter(scores or [0.0] * 99)
        kept = []

        def validate():
            score = next(scores)
            return score, {"accuracy": score}

        loop = TrainingLoop(
            objective,
            copy.copy(digits.train.subset(num_images, seed=0)),
            LoopRecipe(**{**PLAIN, **options}),
            accelerator=Accelerator(cpu=True, mixed_precision=mixed_precision),
            seed=0,
            state_dir=tmp_path / name,
            validate=validate,
            keep=lambda is_best: kept.append((is_best, objective.linear.weight.detach().clone())),
            name="test",
        )
        loop.kept = kept
        return loop

    return make


def weights(loop):
    return [parameter.detach().clone() for parameter in loop.plain_objective.parameters()]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_every_image_is_seen_once_an_epoch_in_a_new_order(make_loop, digits):
    loop = make_loop()
    progress = loop.run()
    seen = loop.plain_objective.seen
    assert [step for step, _ in seen] == list(range(10))
    epochs = [sum((labels for _, labels in seen[start : start + 5]), []) for start in (0, 5)]
    everything = digits.train.subset(80, seed=0).source.labels(digits.train.subset(80, seed=0).indices).tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(everything)
    assert epochs[0] != epochs[1]
    assert (progress.batch, progress.step) == (10, 10)


def test_accumulated_batches_equal_one_large_batch(make_loop):
    small = make_loop(batch_size=4, gradient_accumulation_steps=4)
    assert small.run().step == 10
    large = make_loop(batch_size=16)
    assert large.run().step == 10
    for a, b in zip(weights(small), weights(large), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_what_is_left_of_an_epoch_is_a_step_of_its_own(make_loop):
    loop = make_loop(batch_size=16, gradient_accumulation_steps=2, schedule=ScheduleRecipe(name="one_cycle"))
    rates = []
    loop.optimizer.optimizer.register_step_post_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    progress = loop.run()
    assert (progress.batch, progress.step) == (10, 6)
    assert rates == pytest.approx([0.1 * (1 - (number + 0.5) / 6) for number in range(6)])


@pytest.mark.parametrize(("clip_by", "clip"), [("norm", 0.01), ("value", 0.001)])
def test_gradients_are_clipped(make_loop, clip_by, clip):
    loop = make_loop(epochs=1, batch_size=80, clip=clip, clip_by=clip_by)
    before = weights(loop)
    loop.run()
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, weights(loop), strict=True)]) / 0.1
    size = moved.norm() if clip_by == "norm" else moved.abs().max()
    assert size.item() == pytest.approx(clip, rel=1e-3)


def test_the_average_by_hand(make_loop):
    loop = make_loop(ema_decay=0.5)
    expected, steps = weights(loop), 0
    step = loop.average.step

    def follow(parameters):
        nonlocal steps
        step(parameters)
        decay = min(0.5, (1 + steps) / (10 + steps)) if steps else 0.0
        for average, value in zip(expected, weights(loop), strict=True):
            average.mul_(decay).add_(value, alpha=1 - decay)
        steps += 1

    loop.average.step = follow
    loop.run()
    assert steps == 10
    for average, value in zip(loop.average.tensors, expected, strict=True):
        assert torch.allclose(average, value, atol=1e-6)
    assert torch.equal(loop.kept[-1][1], loop.average.tensors[0])


def test_averaged_weights_are_put_in_place_and_taken_back_whatever_happens(make_loop):
    loop = make_loop(ema_decay=0.9)
    loop.run()
    trained, average = weights(loop), [tensor.clone() for tensor in loop.average.tensors]
    assert not torch.equal(trained[0], average[0])
    with loop.averaged_weights():
        assert_equal(weights(loop), average)
    assert_equal(weights(loop), trained)
    with pytest.raises(ZeroDivisionError), loop.averaged_weights():
        _ = 1 / 0
    assert_equal(weights(loop), trained)
    with loop.averaged_weights(), loop.averaged_weights():  # twice must not lose the trained ones
        assert_equal(weights(loop), average)
    assert_equal(weights(loop), trained)


def test_averaged_weights_are_copies(make_loop):
    loop = make_loop(ema_decay=0.9)
    loop.run()
    average = [tensor.clone() for tensor in loop.average.tensors]
    with loop.averaged_weights():
        for parameter in loop.plain_objective.parameters():
            parameter.data.fill_(7)
    assert_equal(loop.average.tensors, average)


def test_without_an_average_the_weights_are_their_own(make_loop):
    loop = make_loop()
    loop.run()
    trained = weights(loop)
    with loop.averaged_weights():
        assert_equal(weights(loop), trained)


def test_the_best_score_decides_what_is_kept(make_loop):
    loop = make_loop(epochs=4, scores=[0.2, 0.9, 0.9, 0.5])
    assert loop.run().best_score == 0.9
    assert [is_best for is_best, _ in loop.kept] == [True, True, False, False]


def test_evaluation_happens_as_often_as_said_and_at_the_end(make_loop):
    loop = make_loop(epochs=5, evaluate_every=2)
    loop.run()
    assert len(loop.kept) == 3


@pytest.mark.parametrize("stop", [2, 5, 7])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopping_anywhere_and_resuming_is_bit_equal(make_loop, monkeypatch, stop, accumulate):
    options = {
        "epochs": 3,
        "ema_decay": 0.9,
        "gradient_accumulation_steps": accumulate,
        "optimizer": OptimizerRecipe(name="adamw", learning_rate=0.01),
        "schedule": ScheduleRecipe(name="cosine", warmup=0.3),
        "scores": [0.3, 0.2, 0.1],
    }
    # A clock on which a batch takes a second.
    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    whole = make_loop(name="whole", **options)
    whole.run()
    first = make_loop(name="parts", stop_after_steps=stop, **options)
    with pytest.raises(StoppedEarly, match=f"stopped after {stop} steps"):
        first.run()
    second = make_loop(name="parts", **{**options, "scores": options["scores"][len(first.kept) :]})
    progress = second.run(resume=True)
    assert_equal(weights(second), weights(whole))
    assert_equal(second.average.tensors, whole.average.tensors)
    assert vars(progress) == vars(whole.progress)
    assert progress.seconds == progress.batch
    assert first.plain_objective.seen + second.plain_objective.seen == whole.plain_objective.seen
    assert [best for best, _ in first.kept + second.kept] == [best for best, _ in whole.kept]
    assert second.schedule.get_last_lr() == whole.schedule.get_last_lr()


class DrawingObjective(Objective):
    """Draws from the global random numbers at every step."""

    def forward(self, pixel_values, labels, *, step):
        return super().forward(F.dropout(pixel_values, 0.5), labels, step=step)


def train_drawing(make_loop, **options):
    """What three epochs of augmented images, with random numbers in every step, end with."""
    loop = make_loop(objective=DrawingObjective(), epochs=3, **options)
    torch.manual_seed(3)
    with contextlib.suppress(StoppedEarly):
        loop.run()
    return loop


def test_workers_that_live_on_change_no_bit(make_loop):
    alone = train_drawing(make_loop, name="alone")
    assert_equal(weights(train_drawing(make_loop, name="helped", num_workers=2)), weights(alone))


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_stopping_anywhere_and_resuming_with_workers_is_bit_equal(make_loop, stop):
    whole = train_drawing(make_loop, name="whole")
    train_drawing(make_loop, name="parts", stop_after_steps=stop, num_workers=1)
    rest = make_loop(objective=DrawingObjective(), name="parts", epochs=3, num_workers=1)
    rest.run(resume=True)
    assert_equal(weights(rest), weights(whole))


def test_a_stop_at_the_last_step_is_the_end(make_loop):
    loop = make_loop(stop_after_steps=10)
    assert loop.run().step == 10
    assert len(loop.kept) == 2


def test_every_call_stops_after_as_many_steps(make_loop):
    for step in (4, 8):
        loop = make_loop(stop_after_steps=4)
        with pytest.raises(StoppedEarly):
            loop.run(resume=step > 4)
        assert loop.progress.step == step
    assert make_loop(stop_after_steps=4).run(resume=True).step == 10


def test_resuming_with_another_number_of_processes_is_refused(make_loop):
    first = make_loop()
    first.run()
    # Half of the images: what two processes would have each.
    second = make_loop(num_images=40)
    with pytest.raises(RecipeError, match="of 5 batches per epoch, .* have 2 batches: resume with as many"):
        second.run(resume=True)


def test_resuming_a_finished_loop_does_nothing(make_loop):
    first = make_loop()
    first.run()
    second = make_loop()
    assert second.run(resume=True).step == 10
    assert second.plain_objective.seen == []
    assert_equal(weights(second), weights(first))


def test_a_run_can_be_killed_between_two_states(make_loop, monkeypatch):
    whole = make_loop(name="whole", epochs=3)
    whole.run()
    first = make_loop(name="parts", epochs=3)
    monkeypatch.setattr(first, "_evaluate", lambda epoch: 1 / 0 if epoch == 1 else None)
    with pytest.raises(ZeroDivisionError):
        first.run()
    second = make_loop(name="parts", epochs=3)
    second.run(resume=True)
    assert_equal(weights(second), weights(whole))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("second", [False, True])
def test_a_signal_in_an_evaluation_leaves_the_trained_weights_and_random_numbers_to_the_state(
    make_loop, monkeypatch, ema_decay, second
):
    options = {"epochs": 2, "ema_decay": ema_decay, "scores": [0.3, 0.2]}
    whole = make_loop(name="whole", **options)
    whole.run()
    first = make_loop(name="parts", **options)

    def be_told(again):
        torch.rand(7)
        first.progress.best_score = 99.0
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            if again:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(first, "validate", lambda: be_told(second))
    with first.signals, pytest.raises(StoppedEarly, match="stopped after 5 steps"):
        first.run()
    resumed = make_loop(name="parts", **options)
    progress = resumed.run(resume=True)
    assert_equal(weights(resumed), weights(whole))
    assert progress.best_score == whole.progress.best_score
    assert [best for best, _ in resumed.kept] == [best for best, _ in whole.kept]
    for name in ("model", "optimizer", "random"):
        files = [load_file(loop.state_dir / f"{name}.safetensors") for loop in (whole, resumed)]
        assert_equal(*(list(dict(sorted(tensors.items())).values()) for tensors in files))


def test_nothing_to_resume_is_refused(make_loop):
    with pytest.raises(CheckpointError, match="no state to resume from"):
        make_loop().run(resume=True)


@pytest.mark.parametrize("at", [0, 3, 4, 9])
def test_a_loss_that_is_no_number_ends_the_run_and_is_never_saved(make_loop, at, tmp_path):
    class Diverging(Objective):
        def forward(self, pixel_values, labels, *, step):
            loss = super().forward(pixel_values, labels, step=step)["loss"]
            return {"loss": loss * (math.nan if step >= at else 1.0)}

    loop = make_loop(objective=Diverging())
    reason = "before any weight was changed" if at == 0 else r"Lower the learning rate \(0\.1"
    with pytest.raises(RecipeError, match=f"test: the loss is nan at step .*{reason}"):
        loop.run()
    assert len(loop.kept) == at // 5
    assert (tmp_path / "state").is_dir() == (at >= 5)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("row_of", [0, 79])
def test_data_that_are_not_finite_are_named_by_split_and_row(make_loop, broken, row_of):
    loop = make_loop()
    row = int(loop.split.indices[row_of])

    class Broken(type(loop.split)):
        def __getitems__(self, positions):
            batch = super().__getitems__(positions)
            batch["pixel_values"][self.indices[list(positions)] == row, 0, 3, 3] = broken
            return batch

    loop.split.__class__ = Broken
    with pytest.raises(DataError, match=rf"data are not finite: row {row} of the train split"):
        loop.run()
    assert loop.kept == []


def test_weights_that_were_not_finite_at_the_start_are_named_before_the_first_step(make_loop):
    objective = Objective()
    with torch.no_grad():
        objective.linear.bias[3] = math.inf
    with pytest.raises(CheckpointError, match=r"linear\.bias held NaN or infinite values before the first step"):
        make_loop(objective=objective).run()
    assert objective.seen == []


def test_a_rate_that_is_too_high_is_told_apart_and_what_it_made_is_never_saved(make_loop, tmp_path):
    loop = make_loop(optimizer=OptimizerRecipe(name="sgd", learning_rate=1e38, momentum=0.0))
    with pytest.raises(RecipeError, match=r"Images, and the weights at the start, are finite: .* since step 1, "):
        loop.run()
    assert loop.kept == []
    assert not (tmp_path / "state").exists()


def test_weights_that_break_in_the_last_step_before_a_stop_are_not_saved(make_loop, tmp_path):
    class Breaking(Objective):
        """Its loss is finite, and the gradient of its third step is not."""

        def forward(self, pixel_values, labels, *, step):
            loss = super().forward(pixel_values, labels, step=step)["loss"]
            if step == 2:
                loss = loss + (self.linear.bias[0] * 0).sqrt()
            return {"loss": loss}

    with pytest.raises(RecipeError, match=r"linear\.bias.* holds NaN or infinite values after step 3\b.*learning rate"):
        make_loop(objective=Breaking(), stop_after_steps=3).run()
    assert not (tmp_path / "state").exists()


def test_an_overflow_of_mixed_precision_is_told_apart(make_loop, another_precision):
    class Overflowing(Objective):
        def forward(self, pixel_values, labels, *, step):
            loss = super().forward(pixel_values, labels, step=step)["loss"]
            return {"loss": loss * (math.inf if torch.is_autocast_enabled("cpu") else 1.0)}

    loop = make_loop(objective=Overflowing(), mixed_precision="bf16")
    with pytest.raises(RecipeError, match="in bf16, and finite in full precision: .*mixed_precision: no"):
        loop.run()


def test_too_few_images_for_a_batch_are_refused(make_loop):
    with pytest.raises(DataError, match="15 training rows do not fill one batch of 16"):
        make_loop(num_images=15)


def test_one_accelerator_serves_two_loops_in_a_row(make_loop, digits, tmp_path):
    accelerator = Accelerator(cpu=True)
    for name in ("first", "second"):
        loop = TrainingLoop(
            Objective(),
            digits.train.subset(32, seed=0),
            LoopRecipe(**{**PLAIN, "epochs": 1, "ema_decay": 0.9}),
            accelerator=accelerator,
            seed=0,
            state_dir=tmp_path / name,
            validate=lambda: (0.0, {}),
            keep=lambda is_best: None,
            name=name,
        )
        loop.run()
    # Nothing of the first loop is in the second's state.
    assert len(load_file(tmp_path / "second" / "model.safetensors")) == 2
    assert len(load_file(tmp_path / "second" / "average.safetensors")) == 2


class Narrow(Objective):
    """Objective with the shortcut of a narrow ResNet before it."""

    def __init__(self):
        super().__init__()
        self.shortcut = nn.Conv2d(1, 16, 1, stride=4)
        self.linear = nn.Linear(64, 10)

    def forward(self, pixel_values, labels, *, step):
        features = self.shortcut(pixel_values)
        self.strides = tuple(features.grad_fn._saved_stride)
        return super().forward(features, labels, step=step)


def test_training_avoids_the_backward_pass_that_hangs(make_loop):
    # A strided 1x1 convolution of few channels, channels last: uxlfoundation/oneDNN#6035.
    loop = make_loop(objective=Narrow())
    loop.run()
    assert loop.plain_objective.strides == (1, 1)
