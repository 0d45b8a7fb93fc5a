"""The loop: what it trains is a function of its config, however it is cut into parts or spread over workers."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

from raypixel.checkpoint import CheckpointStore, read_checkpoint
from raypixel.data import load_manifest
from raypixel.data.batches import EvalBatches, TrainBatches
from raypixel.errors import TrainingError
from raypixel.evaluation import evaluate
from raypixel.experiment import build_experiment_model
from raypixel.train.start import read_splits
from raypixel.train.worker import model_info
from raypixel.training import Report, train
from raypixel.units import Likelihood


class Stop(Exception):
    """Stands for a machine that is lost."""


def run(
    config,
    folder: Path,
    *,
    resume=None,
    stop_at=None,
    ask_at=None,
    rank=0,
    world_size=1,
    notes: list[str] | None = None,
):
    """Train in this process; return the loss of each step, the last metrics and the model."""
    manifest = load_manifest(config.data.root, config.data.name)
    splits = read_splits(config.data, manifest)
    share = {"rank": rank, "world_size": world_size}
    batches = TrainBatches(
        splits["train"],
        config.data,
        manifest,
        batch_size=config.training.batch_size,
        seed=config.training.seed,
        **share,
    )
    val = EvalBatches(splits["val"], config.data, manifest, batch_size=16, **share)
    torch.manual_seed(config.training.seed)
    model = build_experiment_model(config, manifest)
    info = model_info(config, model)
    store = CheckpointStore(folder)
    losses, metrics, cpu = [], {}, torch.device("cpu")

    def report(report: Report) -> None:
        if report.kind == "note" and notes is not None:
            notes.append(report.text)
        if report.kind == "step":
            losses.append(report.metrics["train/bits_per_dim"])
            if report.position.step == stop_at:
                raise Stop
        elif report.snapshot is not None and rank == 0:
            store.save(report.snapshot, info, step=report.position.step, is_best=report.is_best)
        if report.kind == "epoch":
            metrics.update(report.metrics)

    def validate(model: torch.nn.Module) -> Likelihood:
        return evaluate(model, val, device=cpu)

    train(
        model,
        batches,
        config.training,
        device=cpu,
        validate=validate,
        report=report,
        resume=None if resume is None else read_checkpoint(resume),
        is_save_asked=lambda: len(losses) == ask_at,
    )
    return losses, metrics, model


def equal_weights(first, second) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"training__optimizer": "rmsprop", "training__momentum": 0.9},
        {"training__optimizer": "adam", "training__ema_decay": 0.9},
        {
            "training__optimizer": "adamw",
            "training__weight_decay": 0.1,
            "training__warmup_steps": 3,
        },
        {
            "data__binarization": "stochastic",
            "data__augment": "shift",
            "training__schedule": "exponential",
        },
        {"training__precision": "bf16"},
        {"model__dropout": 0.3},
        {"recipe": "digits_pixelcnn_pp", "training__ema_decay": 0.9},
    ],
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
@pytest.mark.parametrize("stop_at", [6, 8, 9])
def test_stopping_anywhere_and_resuming_repeats_the_undisturbed_run_bit_for_bit(
    tiny, tmp_path, options, stop_at
):
    # 100 images in batches of 32: 4 steps an epoch; a checkpoint after every step
    config = tiny(
        training__num_epochs=3,
        training__checkpoint_every_minutes=1e-9,
        training__decay_rate=0.9,
        **options,
    )
    whole, whole_metrics, undisturbed = run(config, tmp_path / "whole")
    with pytest.raises(Stop):
        run(config, tmp_path / "cut", stop_at=stop_at)
    saved = tmp_path / "cut" / "last"
    step = json.loads((saved / "state.json").read_text())["step"]
    assert 0 < step < stop_at
    rest, metrics, resumed = run(config, tmp_path / "cut", resume=saved)
    assert rest == whole[step:]
    assert metrics == whole_metrics
    assert equal_weights(resumed, undisturbed)
    assert (
        read_checkpoint(saved).state["best"]
        == (read_checkpoint(tmp_path / "whole" / "last").state["best"])
    )


def test_checkpoint_that_is_asked_for_is_saved_after_the_current_step(tiny, tmp_path):
    config = tiny(training__num_epochs=3, training__checkpoint_every_minutes=60.0)
    with pytest.raises(Stop):
        run(config, tmp_path, stop_at=7, ask_at=6)
    assert read_checkpoint(tmp_path / "last").state["step"] == 6
    with pytest.raises(Stop):  # without being asked, the newest is that of the epoch's end
        run(config, tmp_path / "unasked", stop_at=7)
    assert read_checkpoint(tmp_path / "unasked" / "last").state["step"] == 4


def test_training_drops_features_and_validation_does_not(tiny, tmp_path):
    """One more step that changes no weights, with dropout and without: another train loss, the same validation."""
    run(tiny(training__max_steps=4, training__learning_rate=1e-2), tmp_path / "start")
    found = []
    for dropout in (0.0, 0.9):
        more = tiny(training__max_steps=5, training__learning_rate=1e-30, model__dropout=dropout)
        folder = tmp_path / str(dropout)
        losses, metrics, _ = run(more, folder, resume=tmp_path / "start" / "last")
        found.append((losses[0], metrics["val/bits_per_dim"]))
    assert found[0][0] != pytest.approx(found[1][0], rel=1e-7)
    assert found[0][1] == found[1][1]


def test_state_of_the_optimizer_is_saved_under_the_numbers_of_the_models_parameters(tiny, tmp_path):
    _, _, model = run(tiny(training__optimizer="adamw", training__weight_decay=0.1), tmp_path)
    tensors = read_checkpoint(tmp_path / "last").training_tensors()
    for index, parameter in enumerate(model.parameters()):
        assert tensors[f"optimizer.{index}.exp_avg"].shape == parameter.shape


def test_training_goes_on_where_a_shorter_one_ended(tiny, tmp_path):
    _, _, whole = run(tiny(training__schedule="constant"), tmp_path / "whole")
    short = tiny(training__num_epochs=1, training__schedule="constant")
    run(short, tmp_path / "short")
    longer = tiny(training__schedule="constant")
    _, _, continued = run(longer, tmp_path / "short", resume=tmp_path / "short" / "last")
    assert equal_weights(whole, continued)


def _worker(rank: int, config, folder: Path, world_size: int) -> None:
    torch.set_num_threads(1)
    share = {"rank": rank, "world_size": world_size}
    rendezvous = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, **share)
    losses, metrics, model = run(config, folder / "checkpoints", **share)
    torch.save((losses, metrics, model.state_dict()), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_workers_train_what_one_does(tiny, tmp_path, world_size):
    """Same losses, weights and exact validation count; 97 images make a last batch of one, empty for all but worker 0."""
    config = tiny(
        data__max_train_images=97,
        data__max_eval_images=49,
        data__binarization="stochastic",
        training__gradient_clip_norm=0.5,
        training__num_epochs=2,
    )
    losses, metrics, model = run(config, tmp_path / "one")
    several = tmp_path / "several"
    several.mkdir()
    torch.multiprocessing.spawn(_worker, args=(config, several, world_size), nprocs=world_size)
    for rank in range(world_size):
        their_losses, their_metrics, weights = torch.load(several / f"{rank}.pt")
        assert their_losses == pytest.approx(losses, rel=1e-4)
        assert their_metrics == pytest.approx(metrics, rel=1e-3)
        assert their_metrics["val/num_images"] == 49
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_the_first_global_batch_initializes_a_model_whatever_the_number_of_workers(tiny, tmp_path):
    """Three workers, of which one has no image of a batch of two."""
    config = tiny(
        "digits_pixelcnn_pp",
        model__dropout=0.0,
        training__batch_size=2,
        training__max_steps=2,
        training__seed=3,
    )
    losses, _, model = run(config, tmp_path / "one")
    torch.multiprocessing.spawn(_worker, args=(config, tmp_path, 3), nprocs=3)
    for rank in range(3):
        their_losses, _, weights = torch.load(tmp_path / f"{rank}.pt")
        assert their_losses == pytest.approx(losses, rel=1e-3)
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
def test_several_workers_drop_features_of_their_own_and_keep_the_same_weights(tiny, tmp_path):
    config = tiny(model__dropout=0.3, training__num_epochs=2)
    torch.multiprocessing.spawn(_worker, args=(config, tmp_path, 2), nprocs=2)
    (losses, metrics, weights), others = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    alone, _, _ = run(tiny(training__num_epochs=2), tmp_path / "without")
    assert losses[0] == pytest.approx(alone[0], rel=1e-6)  # the last layer is still zero
    assert losses[2:] != pytest.approx(alone[2:], rel=1e-7)
    assert others[0] == losses
    assert others[1] == metrics
    assert all(torch.equal(weights[name], others[2][name]) for name in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_compiled_training_is_the_uncompiled_one_but_for_rounding(tiny, tmp_path):
    """Same losses, and checkpoints that either continues; the EMA weights are saved and validated under the same names."""
    options = {"training__optimizer": "adam", "training__ema_decay": 0.9, "model__dropout": 0.3}
    options |= {"training__num_epochs": 3, "training__checkpoint_every_minutes": 1e-9}
    configs = {use: tiny(training__compile=use, **options) for use in (False, True)}
    losses, metrics, model = run(configs[False], tmp_path / "whole")
    for first in (True, False):
        folder = tmp_path / str(first)
        with pytest.raises(Stop):
            run(configs[first], folder, stop_at=6)
        rest, their_metrics, resumed = run(configs[not first], folder, resume=folder / "last")
        assert rest == pytest.approx(losses[5:], rel=1e-4)
        assert their_metrics == pytest.approx(metrics, rel=1e-4)
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(resumed.state_dict()[name], weight, rtol=1e-2, atol=1e-4)


def endless(tiny, **options):
    """A training that would take hours, were it not stopped."""
    options = {"training__num_epochs": 10**8, "training__schedule": "constant", **options}
    return tiny(training__checkpoint_every_minutes=1e-9, **options)


def notes_of(config, folder: Path, **how) -> list[str]:
    notes: list[str] = []
    with pytest.raises(Stop):
        run(config, folder, notes=notes, **how)
    return notes


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # the compiler's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs g++")
def test_a_long_training_times_both_keeps_the_faster_and_is_resumed_bit_for_bit(tiny, tmp_path):
    config = endless(tiny, model__dropout=0.3)
    assert config.training.compile == "auto"
    (note,) = notes_of(config, tmp_path / "cut", stop_at=24)
    pattern = r"a step takes \d+ ms, compiled \d+ ms: (compiled|plain) steps are used \(training.compile\)"
    found = re.fullmatch(pattern, note)
    assert found is not None
    saved = read_checkpoint(tmp_path / "cut" / "last")
    assert saved.state["step"] == 23
    assert saved.state["is_compiled"] == (found[1] == "compiled")
    # the same steps by one who was told from the start; before the choice they are plain
    plain = endless(tiny, model__dropout=0.3, training__compile=False)
    assert notes_of(plain, tmp_path / "plain", stop_at=21) == []
    told = endless(tiny, model__dropout=0.3, training__compile=saved.state["is_compiled"])
    assert notes_of(told, tmp_path / "plain", stop_at=24, resume=tmp_path / "plain" / "last") == []
    same = read_checkpoint(tmp_path / "plain" / "last")
    assert same.state["step"] == 23
    for name, weight in saved.weights().items():
        assert torch.equal(same.weights()[name], weight)
    # and what was decided is not decided again
    assert notes_of(config, tmp_path / "cut", stop_at=30, resume=tmp_path / "cut" / "last") == []
    assert read_checkpoint(tmp_path / "cut" / "last").state["is_compiled"] == (
        found[1] == "compiled"
    )


def test_a_short_training_is_not_compiled_and_nothing_is_said(tiny, tmp_path):
    notes: list[str] = []
    run(tiny(training__num_epochs=6), tmp_path, notes=notes)
    assert notes == []
    state = read_checkpoint(tmp_path / "last").state
    assert (state["step"], state["is_compiled"]) == (24, False)


def test_without_a_compiler_a_training_is_not_compiled_and_nothing_is_said(
    tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert notes_of(endless(tiny), tmp_path, stop_at=23) == []
    assert read_checkpoint(tmp_path / "last").state["is_compiled"] is False


def test_loss_that_is_not_finite_stops_the_training(tiny, tmp_path):
    config = tiny(
        training__learning_rate=1e30,
        training__gradient_clip_norm=None,
        training__schedule="constant",
    )
    with pytest.raises(
        TrainingError, match=r"loss must be finite, got .* at epoch 1, step [23].*learning_rate"
    ):
        run(config, tmp_path)
    assert not (tmp_path / "last").exists()


def test_steps_and_minutes_end_a_training_with_validation_and_a_checkpoint(tiny, tmp_path):
    losses, metrics, _ = run(tiny(training__max_steps=6), tmp_path / "steps")
    assert len(losses) == 6
    assert metrics["val/num_images"] == 50
    assert read_checkpoint(tmp_path / "steps" / "last").state["step_in_epoch"] == 2
    losses, metrics, _ = run(tiny(training__max_minutes=1e-9), tmp_path / "minutes")
    assert len(losses) == 1
    assert read_checkpoint(tmp_path / "minutes" / "last").state["step"] == 1


def test_train_likelihood_of_an_epoch_is_exact_over_uneven_batches(tiny, tmp_path):
    """With a learning rate too small to change anything, train bits/dim is that of the untrained model."""
    config = tiny(training__learning_rate=1e-30, training__num_epochs=1, training__warmup_steps=0)
    losses, metrics, _ = run(config, tmp_path)
    sizes = [32, 32, 32, 4]
    mean = sum(loss * n for loss, n in zip(losses, sizes, strict=True)) / 100
    assert metrics["train/bits_per_dim"] == pytest.approx(mean, rel=1e-12)


def test_ema_weights_are_validated_and_saved(tiny, tmp_path):
    _, _, model = run(tiny(training__ema_decay=0.99), tmp_path)
    checkpoint = read_checkpoint(tmp_path / "last")
    name = "stack.head.last.weight"
    averaged, raw = checkpoint.weights()[name], checkpoint.training_tensors()[f"raw.{name}"]
    assert torch.equal(raw, model.state_dict()[name])
    assert averaged.norm() < raw.norm()  # it starts at zero and lags behind
    assert averaged.norm() > 0


def test_ema_of_a_short_training_holds_little_of_the_untrained_weights(tiny, tmp_path):
    """8 steps at decay 0.9999: a plain average would be the untrained model, at log2(17) = 4.09 bits/dim."""
    options = {"training__learning_rate": 2e-2, "training__schedule": "constant"}
    _, raw, _ = run(tiny(**options), tmp_path / "raw")
    _, averaged, _ = run(tiny(**options, training__ema_decay=0.9999), tmp_path / "ema")
    assert raw["val/bits_per_dim"] < 3.7
    assert averaged["val/bits_per_dim"] == pytest.approx(raw["val/bits_per_dim"], abs=0.25)


def test_likelihood_under_bf16_stays_close_to_float32(tiny, tmp_path):
    _, float32, _ = run(tiny(training__num_epochs=4), tmp_path / "a")
    _, bf16, _ = run(tiny(training__num_epochs=4, training__precision="bf16"), tmp_path / "b")
    assert bf16["val/bits_per_dim"] == pytest.approx(float32["val/bits_per_dim"], rel=0.01)


def test_training_lowers_the_validation_likelihood_well_below_uniform(tiny, tmp_path):
    config = tiny(data__max_train_images=1000, training__num_epochs=3, training__learning_rate=5e-3)
    _, metrics, _ = run(config, tmp_path)
    assert metrics["val/bits_per_dim"] < 2.9  # uniform: log2(17) = 4.09
