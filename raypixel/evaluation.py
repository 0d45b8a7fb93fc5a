"""Exact likelihood of a model over a data set: nats and counts are summed, then divided once."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from raypixel.data.loader import Batch
from raypixel.models import PixelModel
from raypixel.nn.likelihoods import nll_nats
from raypixel.units import Likelihood


@torch.no_grad()
def evaluate(
    model: PixelModel,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """Sum the nats of every image in the batches.

    Args:
        model: A registered model; it is left in the mode it was in.
        batches: For example `EvalBatches`; with several workers each sums its own share.
        device: Where the model lives.
        precision: "float32", or "bf16" for autocast.
        progress: Called with the number of images after each batch.

    Returns:
        Sums and counts; `bits_per_dim` and `nats_per_image` are its properties.
    """
    was_training = model.training
    model.eval()
    num_dims = math.prod(model.image_shape)
    total = Likelihood(0.0, 0.0, 0, num_dims)
    try:
        for batch in batches:
            nats = batch_nll_nats(model, batch, device=device, precision=precision)
            total += Likelihood(float(nats.sum()), float(nats.square().sum()), len(nats), num_dims)
            if progress:
                progress(len(nats))
    finally:
        model.train(was_training)
    return total


def batch_nll_nats(
    model: PixelModel,
    batch: Batch,
    *,
    device: torch.device,
    precision: str,
    network: nn.Module | None = None,
) -> Tensor:
    """Return the nats of each image of a batch, (n,), float64, on the device.

    Args:
        model: A registered model.
        batch: Images; class labels go to models that want them.
        device: Where the model lives.
        precision: "float32", or "bf16" for autocast.
        network: What is called in the model's place: the model inside DDP or `torch.compile`.
    """
    labels = batch.class_labels if model.num_classes else None
    x = _move(batch.x, device)
    labels = None if labels is None else _move(labels, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        params = (model if network is None else network)(x, labels)
    return nll_nats(model.likelihood, params, x)


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to the device, to a GPU through pinned memory: from other memory the host would wait for it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@torch.no_grad()
def nats_map(model: PixelModel, x: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Return how much each sub-pixel surprises a model, in nats, (N, C, H, W), on the CPU.

    Args:
        model: A registered model in evaluation mode.
        x: Levels, (N, C, H, W).
        class_labels: (N,) int64 for a class-conditional model.
    """
    device = next(model.parameters()).device
    labels = None if class_labels is None else class_labels.to(device)
    x = x.to(device)
    return model.likelihood.nll_map(model(x, labels), x).cpu()


def uniform_baseline(x: Tensor, *, num_levels: int) -> Likelihood:
    """Return the likelihood of images (N, C, H, W) when every level is as likely: log K for each dimension."""
    num_dims = math.prod(x.shape[1:])
    nats = num_dims * math.log(num_levels)
    return Likelihood(nats * len(x), nats**2 * len(x), len(x), num_dims)


def histogram_baseline(train_x: Tensor, x: Tensor, *, num_levels: int) -> Likelihood:
    """Return the likelihood of images under one histogram for each dimension, all dimensions independent.

    Args:
        train_x: Images that are counted, (M, C, H, W); one is added to every count (Laplace).
        x: Images that are scored, (N, C, H, W).
        num_levels: K.

    Raises:
        ValueError: A level is K or more.
    """
    highest = max(int(levels.max()) for levels in (train_x, x) if levels.numel())
    if highest >= num_levels:
        raise ValueError(f"x must hold levels in [0, {num_levels - 1}], got {highest}")
    counted, scored = train_x.flatten(1).long(), x.flatten(1).long()
    num_dims = counted.shape[1]
    bins = counted + num_levels * torch.arange(num_dims)  # dimension d has bins d*K .. d*K + K-1
    counts = torch.bincount(bins.flatten(), minlength=num_levels * num_dims).double() + 1.0
    log_p = (counts / (len(counted) + num_levels)).log()
    nats = -log_p[scored + num_levels * torch.arange(num_dims)].sum(1)
    return Likelihood(float(nats.sum()), float(nats.square().sum()), len(x), num_dims)
