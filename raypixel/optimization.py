"""Options of a training, its learning-rate schedule and its optimizer."""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from raypixel.config import Frozen

Schedule = Literal["constant", "linear", "cosine", "exponential", "wsd"]


class TrainingConfig(Frozen):
    """Options of the training loop."""

    num_epochs: int = Field(10, ge=1)
    """Passes over the train split."""
    max_steps: int | None = Field(None, ge=1)
    """Stop after this many steps, whatever `num_epochs` says."""
    max_minutes: float | None = Field(None, gt=0)
    """Stop after this much training time (resumed time counted in), validate and save."""
    batch_size: int = Field(64, ge=1)
    """Images of a global batch, whatever the number of workers."""
    optimizer: Literal["rmsprop", "adam", "adamw"] = "rmsprop"
    """The paper uses RMSProp."""
    learning_rate: float = Field(1e-3, gt=0)
    """Learning rate after the warm-up."""
    schedule: Schedule = "constant"
    """How the learning rate falls over the training; `exponential` uses `decay_rate`. `wsd` (warm-up, stable, decay): constant,
    then linear to zero over the last `decay_share` of the steps."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    decay_rate: float = Field(1.0, gt=0, le=1)
    """Factor of each step under `exponential`."""
    decay_share: float = Field(0.2, gt=0, le=1)
    """Share of the steps, without the warm-up, at the end of a training over which `wsd` falls."""
    weight_decay: float = Field(0.0, ge=0)
    """Added to the gradient (rmsprop, adam) or decoupled (adamw); of weights only, not of biases, norms and initial states."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of rmsprop."""
    rmsprop_decay: float = Field(0.99, gt=0, lt=1)
    """Smoothing of rmsprop's squared gradients."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Smoothing of adam's gradients."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Smoothing of adam's squared gradients."""
    gradient_clip_norm: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Average weights over steps with this decay (less at first), for validation, checkpoints and samples."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: autocast in the forward pass, also of the validation in training; `raypixel evaluate` computes in float32."""
    compile: bool | Literal["auto"] = "auto"
    """torch.compile the forward pass of training steps, not of validation; on CPUs it needs a C++ compiler. `auto`: a training
    with a quarter of an hour or more left times both after 20 steps and keeps the faster; what is resumed keeps what it had."""
    seed: int = Field(0, ge=0)
    """Seed of weights, order, binarization draws and dropout."""
    eval_batch_size: int = Field(256, ge=1)
    """Images of a validation batch."""
    checkpoint_every_minutes: float | None = Field(2.0, gt=0)
    """Also save within an epoch, so that little is lost when a machine is; never changes the result."""


def learning_rate_at(config: TrainingConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then the schedule down to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * done)),
        "exponential": config.decay_rate ** (step - config.warmup_steps),
        "wsd": min(1.0, (1.0 - done) / config.decay_share),
    }[config.schedule]
    return config.learning_rate * factor


def make_optimizer(config: TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; its learning rate is set at each step."""
    weights = [p for name, p in model.named_parameters() if _decays(name, p)]
    others = [p for name, p in model.named_parameters() if not _decays(name, p)]
    groups = [
        {"params": weights, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    rate, betas = config.learning_rate, (config.adam_beta1, config.adam_beta2)
    match config.optimizer:
        case "rmsprop":
            return torch.optim.RMSprop(
                groups, lr=rate, alpha=config.rmsprop_decay, momentum=config.momentum
            )
        case "adam":
            return torch.optim.Adam(groups, lr=rate, betas=betas)
        case "adamw":
            return torch.optim.AdamW(groups, lr=rate, betas=betas)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    """Tell weights from biases, scales of a norm and learned initial states (one vector for each direction)."""
    return parameter.dim() > 1 and not name.rpartition(".")[2].startswith("initial_")
