"""The training loop, pure torch: batches in, reports out; it knows neither Ray nor MLflow.

Every random draw is a function of (seed, epoch, step): weights from the seed, order and binarization from the
batches, dropout from a generator seeded at each step. So a training that stops anywhere and resumes from a snapshot
repeats the undisturbed run bit for bit (on CPU), with no random state to save.

With several workers the loop averages gradients (torch DDP). The batch size is that of the global batch: each
worker's loss is divided by the global number of images, so the gradient does not depend on the number of workers.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raypixel import compiled_steps
from raypixel.checkpoint import Checkpoint, Snapshot
from raypixel.data.batches import Batch
from raypixel.errors import TrainingError
from raypixel.evaluation import batch_nll_nats
from raypixel.models import PixelModel
from raypixel.nn.shifted import initialize
from raypixel.optimization import TrainingConfig, learning_rate_at, make_optimizer
from raypixel.units import Likelihood, bits_per_dim


class BatchSource(Protocol):
    """A source of shuffled batches, resumable at any (epoch, step)."""

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        ...

    def epoch(self, epoch: int, *, start_step: int = 0) -> Iterator[Batch]:
        """Yield one worker's batches of an epoch."""
        ...


@dataclass
class Position:
    """Where a training stands, after the last complete step.

    Attributes:
        epoch: Complete epochs.
        step_in_epoch: Complete steps of the current epoch.
        step: Complete steps in all.
        seconds: Training time so far, resumed parts counted in.
        best: Lowest validation bits/dim so far, None before the first.
        best_step: The step that had it.
        nats: Sum of train nats over the current epoch.
        num_images: Images in that sum.
        is_compiled: Steps are compiled from now on; None before that is decided.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    nats: float = 0.0
    num_images: int = 0
    is_compiled: bool | None = None


@dataclass(frozen=True)
class Report:
    """One message from the loop.

    Attributes:
        kind: "step" after each step, "checkpoint" when there is something to save, "epoch" after validation, "note" for a
            line of text.
        position: Where the training stands.
        total_steps: Steps of the whole training.
        metrics: Numbers by name, such as `train/bits_per_dim`.
        snapshot: What to save; None for "step" and "note". Valid only during the call.
        is_best: The validation likelihood is the lowest so far.
        text: The line of a "note".
    """

    kind: Literal["step", "checkpoint", "epoch", "note"]
    position: Position
    total_steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    is_best: bool = False
    text: str = ""


def beginning(weights: Mapping[str, Tensor], config: TrainingConfig) -> Snapshot:
    """Return the snapshot of a training that begins with given weights in place of random ones: nothing is done yet."""
    tensors: dict[str, Tensor] = {}
    if config.ema_decay:
        tensors = {f"raw.{name}": value for name, value in weights.items()}
        tensors["ema.n_averaged"] = torch.tensor(0)
    return Snapshot(weights, tensors, asdict(Position()))


def train(
    model: PixelModel,
    batches: BatchSource,
    config: TrainingConfig,
    *,
    device: torch.device,
    validate: Callable[[PixelModel], Likelihood],
    report: Callable[[Report], None],
    resume: Checkpoint | None = None,
    is_save_asked: Callable[[], bool] | None = None,
) -> Position:
    """Train a model until its epochs, steps or minutes are used up.

    Args:
        model: A registered model; trained in place. In a process group every rank passes the same weights.
        batches: This worker's share of every global batch.
        config: Options.
        device: Where to train.
        validate: Sums this worker's share of the validation likelihood of a model.
        report: Called on every rank; saving is up to rank 0.
        resume: Continue from here; its weights replace the model's.
        is_save_asked: Asked after each step whether to save at once, for example because this machine is to go.

    Returns:
        The position at the end.

    Raises:
        TrainingError: The loss is no longer finite.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        loop = _Loop(model, batches, config, device, resume)
        return loop.run(validate, report, is_save_asked or (lambda: False))


class _Loop:
    """The state of one training; `run` reads top to bottom."""

    def __init__(
        self,
        model: PixelModel,
        batches: BatchSource,
        config: TrainingConfig,
        device: torch.device,
        resume: Checkpoint | None,
    ) -> None:
        self.config = config
        self.batches = batches
        self.device = device
        self.model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.num_dims = math.prod(model.image_shape)
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.saved_at = time.monotonic()
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.position = Position()
        self.total_steps = batches.num_steps * config.num_epochs
        if config.max_steps is not None:
            self.total_steps = min(self.total_steps, config.max_steps)
        if resume is None:
            self._initialize()
        self.ema = (
            AveragedModel(self.model, multi_avg_fn=_warmed_ema(config.ema_decay))
            if config.ema_decay
            else None
        )
        self.optimizer = make_optimizer(config, self.model)
        if resume is not None:
            self._restore(resume)
        self.network: nn.Module = (
            DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
            if self.world_size > 1
            else self.model
        )
        self.fastest_step = math.inf
        if isinstance(config.compile, bool):
            self.position.is_compiled = config.compile
        if self.position.is_compiled:
            self.network = compiled_steps.compiled(self.network)

    def run(
        self,
        validate: Callable[[PixelModel], Likelihood],
        report: Callable[[Report], None],
        is_save_asked: Callable[[], bool],
    ) -> Position:
        position, num_steps = self.position, self.batches.num_steps
        seconds_before, started = position.seconds, time.monotonic()
        while position.step < self.total_steps and not self._out_of_time():
            for batch in self.batches.epoch(position.epoch, start_step=position.step_in_epoch):
                if self._is_choice_due(batch):
                    self._choose_compiled(batch, report)
                metrics = self._step(batch)
                position.seconds = seconds_before + time.monotonic() - started
                report(Report("step", position, self.total_steps, metrics))
                if position.step >= self.total_steps or self._out_of_time():
                    break
                if position.step_in_epoch == num_steps:
                    continue
                if is_save_asked() or self._is_checkpoint_due():
                    report(Report("checkpoint", position, self.total_steps, {}, self._snapshot()))
            metrics = self._finish_epoch(validate, is_whole=position.step_in_epoch == num_steps)
            value = metrics["val/bits_per_dim"]
            is_best = position.best is None or value < position.best
            if is_best:
                position.best, position.best_step = value, position.step
            position.seconds = seconds_before + time.monotonic() - started
            snapshot = self._snapshot()
            report(Report("epoch", position, self.total_steps, metrics, snapshot, is_best))
        return position

    def _is_choice_due(self, batch: Batch) -> bool:
        """Whether it is to be decided now if steps are compiled: the same step however the training was cut into parts."""
        is_whole = batch.global_size == self.config.batch_size
        is_late = self.position.step >= compiled_steps.STEPS_BEFORE_CHOICE
        return self.position.is_compiled is None and is_whole and is_late

    def _choose_compiled(self, batch: Batch, report: Callable[[Report], None]) -> None:
        """Decide whether steps are compiled; leaves no trace but the decision, since each step draws from a seed of its own."""

        def step(network: nn.Module) -> None:
            self._nats(batch, network).sum().backward()
            self.optimizer.zero_grad(set_to_none=True)

        if math.isinf(self.fastest_step):  # resumed right here
            self.fastest_step = compiled_steps.seconds_of(lambda: step(self.network), self.device)
        left = self.fastest_step * (self.total_steps - self.position.step)
        if self.config.max_minutes is not None:
            left = min(left, 60 * self.config.max_minutes - self.position.seconds)
        is_worth = left >= compiled_steps.LEAST_SECONDS
        self.position.is_compiled = False
        if not self._all(is_worth and compiled_steps.has_compiler(self.device)):
            return
        self.network.train()
        timing = compiled_steps.time_both(self.network, step, self.device)
        if self._all(timing.is_faster):
            self.position.is_compiled = True
            self.network = timing.network
        text = timing.describe(is_used=self.position.is_compiled)
        report(Report("note", self.position, self.total_steps, text=text))

    def _initialize(self) -> None:
        """Let the first global batch set what weight-normalized layers start from, without dropout, in float32."""

        counts = True  # a blank image does not

        def run() -> None:
            nonlocal counts
            batch = next(self.batches.epoch(0))
            counts = len(batch.x) > 0
            self.model.eval()
            batch = batch if counts else self._blank(batch)
            batch_nll_nats(self.model, batch, device=self.device, precision="float32")

        def over_workers(sums: Tensor) -> Tensor:
            sums = sums * counts
            if self.world_size > 1:
                dist.all_reduce(sums)
            return sums

        initialize(self.model, run, over_workers)

    def _step(self, batch: Batch) -> dict[str, float]:
        config, position, started = self.config, self.position, time.perf_counter()
        rate = learning_rate_at(config, position.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(hash((config.seed, position.step, self.rank)) & (2**63 - 1))
        self.network.train()
        nats = self._nats(batch, self.network)
        total = nats.sum()
        # nats per dimension of the global batch; DDP divides by world_size, so multiply
        loss = total * self.world_size / (batch.global_size * self.num_dims)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.gradient_clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip_norm)
        value = self._sum(total.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"loss must be finite, got {value} at epoch {position.epoch + 1}, step "
                f"{position.step + 1}: try a lower training.learning_rate or set "
                "training.gradient_clip_norm"
            )
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        position.step += 1
        position.step_in_epoch += 1
        position.nats += value
        position.num_images += batch.global_size
        if batch.global_size == config.batch_size:
            self.fastest_step = min(self.fastest_step, time.perf_counter() - started)
        return {
            "train/bits_per_dim": bits_per_dim(value, batch.global_size, self.num_dims),
            "train/learning_rate": rate,
            "train/images": float(batch.global_size),
        }

    def _nats(self, batch: Batch, network: nn.Module) -> Tensor:
        if len(batch.x):
            return self._batch_nats(batch, network)
        # DDP needs a backward pass on every rank: one black image, weighted zero
        return 0.0 * self._batch_nats(self._blank(batch), network)

    def _blank(self, batch: Batch) -> Batch:
        """Return one black image in the place of a batch of which this worker has no share."""
        blank = torch.zeros((1, *self.model.image_shape), dtype=torch.uint8)
        labels = None if batch.class_labels is None else torch.zeros(1, dtype=torch.int64)
        return Batch(blank, labels, batch.global_size)

    def _batch_nats(self, batch: Batch, network: nn.Module) -> Tensor:
        return batch_nll_nats(
            self.model,
            batch,
            device=self.device,
            precision=self.config.precision,
            network=network,
        )

    def _finish_epoch(
        self, validate: Callable[[PixelModel], Likelihood], *, is_whole: bool
    ) -> dict[str, float]:
        position = self.position
        likelihood = self._over_workers(validate(self._model_for_use()))
        train = Likelihood(position.nats, 0.0, position.num_images, self.num_dims)
        if is_whole:
            position.epoch += 1
            position.step_in_epoch = 0
            position.nats, position.num_images = 0.0, 0
        return {
            "train/bits_per_dim": train.bits_per_dim,
            "train/nll_nats": train.nats_per_image,
            "val/bits_per_dim": likelihood.bits_per_dim,
            "val/nll_nats": likelihood.nats_per_image,
            "val/num_images": float(likelihood.num_images),
        }

    def _over_workers(self, share: Likelihood) -> Likelihood:
        sums = (share.nll_nats, share.squared_nats, float(share.num_images))
        nats, squares, count = (self._sum(torch.tensor(s, dtype=torch.float64)) for s in sums)
        return Likelihood(nats, squares, int(count), share.num_dims)

    def _sum(self, value: Tensor) -> float:
        """Sum a float64 scalar over the workers."""
        if self.world_size > 1:
            value = value.to(self.device)
            dist.all_reduce(value)
        return float(value)

    def _all(self, is_so: bool) -> bool:  # noqa: FBT001 (what is asked of all workers)
        """Return whether something is so on every worker."""
        return self._sum(torch.tensor(float(is_so), dtype=torch.float64)) == self.world_size

    def _is_checkpoint_due(self) -> bool:
        every = self.config.checkpoint_every_minutes
        if every is None or time.monotonic() - self.saved_at < 60 * every:
            return False
        self.saved_at = time.monotonic()
        return True

    def _out_of_time(self) -> bool:
        limit = self.config.max_minutes
        if limit is None:
            return False
        is_over = torch.tensor(float(self.position.seconds >= 60 * limit))
        if self.world_size > 1:  # clocks differ: rank 0 decides for all
            is_over = is_over.to(self.device)
            dist.broadcast(is_over, src=0)
        return bool(is_over)

    def _model_for_use(self) -> PixelModel:
        if self.ema is None:
            return self.model
        assert isinstance(self.ema.module, PixelModel)
        return self.ema.module

    def _snapshot(self) -> Snapshot:
        tensors = {
            f"optimizer.{index}.{name}": value
            for index, parameter in enumerate(self.model.parameters())
            for name, value in self.optimizer.state.get(parameter, {}).items()
        }
        if self.ema is not None:
            tensors |= {f"raw.{name}": value for name, value in self.model.state_dict().items()}
            tensors["ema.n_averaged"] = self.ema.n_averaged
        return Snapshot(self._model_for_use().state_dict(), tensors, asdict(self.position))

    def _restore(self, checkpoint: Checkpoint) -> None:
        weights, tensors = checkpoint.weights(), checkpoint.training_tensors()
        if self.ema is not None:
            self.ema.module.load_state_dict(weights)
            self.ema.n_averaged.copy_(tensors["ema.n_averaged"])
            weights = _with_prefix(tensors, "raw.")
        self.model.load_state_dict(weights)
        state: dict[int, dict[str, Any]] = {}
        groups = self.optimizer.state_dict()["param_groups"]
        grouped = [p for group in self.optimizer.param_groups for p in group["params"]]
        places = {parameter: place for place, parameter in enumerate(grouped)}
        parameters = list(self.model.parameters())  # a checkpoint counts them in this order
        for key, value in _with_prefix(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(places[parameters[int(index)]], {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:  # in the parameter's memory layout: faster steps
                    values[name] = torch.empty_like(parameter).copy_(value)
        self.position = Position(**checkpoint.state)


def _warmed_ema(decay: float) -> Callable[[Any, Any, Any], None]:
    """Average with at most this decay, at first less: the untrained weights would weigh 1/e after 1 / (1 - decay) steps."""

    def update(averages: Any, currents: Any, num_averaged: Any) -> None:
        count = float(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averages, currents, count)

    return update


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
