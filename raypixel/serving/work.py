"""What the endpoints have in common: a request becomes images, images become an answer, and problems become statuses."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raypixel.errors import ConfigError, DataError
from raypixel.sampling import Image, image_seeds
from raypixel.serving import answers
from raypixel.serving.engine import JobCancelled, NotAccepting, QueueFull
from raypixel.serving.hosts import Card, UnknownModel
from raypixel.serving.pictures import read_observed, read_pictures
from raypixel.serving.requests import CompletionRequest, SampleRequest, ScoreRequest
from raypixel.serving.settings import Limits

RETRY_DRAINING_S = 5


class Problem(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        detail: What is wrong, in a sentence.
        retry_after_s: When to come back, in seconds.
    """

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s


@contextmanager
def problems(limits: Limits) -> Iterator[None]:
    """Turn what can go wrong with a request into the problem that is answered."""
    try:
        yield
    except UnknownModel as error:
        raise Problem(404, str(error)) from None
    except QueueFull as error:
        raise Problem(429, str(error), retry_after_s=error.retry_after_s) from None
    except (NotAccepting, JobCancelled) as error:
        raise Problem(503, str(error), retry_after_s=RETRY_DRAINING_S) from None
    except (ConfigError, DataError) as error:
        raise Problem(422, str(error)) from None
    except TimeoutError:
        rule = f"the request must finish within {limits.timeout_s:g} s and is cancelled"
        raise Problem(504, f"{rule}: ask for less, or ask again later") from None


@dataclass(frozen=True)
class Order:
    """Images to be made, and all that the answer needs to know of the request.

    Attributes:
        card: Of the model.
        images: What is to be made.
        seed: Of the request.
        temperature: Of the request.
        n: Completions of each picture; None for samples.
        observed: Which sub-pixels are observed, for completions.
    """

    card: Card
    images: list[Image]
    seed: int
    temperature: float
    n: int | None = None
    observed: Tensor | None = None

    def to_mapping(self, x: Tensor) -> dict[str, Any]:
        """Return the JSON answer for the images that were made, (N, C, H, W)."""
        labels = [image.class_label for image in self.images]
        return answers.images_mapping(
            x,
            self.card,
            seed=self.seed,
            temperature=self.temperature,
            class_labels=labels,
            n=self.n,
        )

    def to_grid(self, x: Tensor) -> bytes:
        """Return one PNG of all images."""
        columns = None if self.n in (None, 1) else self.n
        return answers.grid(x, self.card, num_columns=columns)

    def to_arrays(self, x: Tensor) -> bytes:
        """Return an .npz file of levels."""
        if self.observed is None or self.n is None:
            return answers.arrays(images=x)
        return answers.arrays(completions=x.unflatten(0, (-1, self.n)), observed=self.observed)


async def sample_order(body: SampleRequest, card: Card) -> Order:
    """Return the images of a request for samples.

    Raises:
        ConfigError: The class is not one of the model's.
    """
    labels: list[int | None] = [body.class_label] * body.n
    if body.class_label is not None or not card.num_classes:
        _check_label(body.class_label, card)
    else:
        labels = [k % card.num_classes for k in range(body.n)]
    images = [
        Image(seed, label, body.temperature)
        for seed, label in zip(image_seeds(body.seed, body.n), labels, strict=True)
    ]
    return Order(card, images, body.seed, body.temperature)


async def completion_order(body: CompletionRequest, card: Card, limits: Limits) -> Order:
    """Return the images of a request for completions.

    Raises:
        ConfigError: The class or what is observed does not fit the model.
        DataError: A picture cannot be taken.
    """
    _check_label(body.class_label, card)
    observed = await asyncio.to_thread(read_observed, body.observed, card, limits)
    x = await asyncio.to_thread(read_pictures, body.images, card, limits)
    seeds = image_seeds(body.seed, body.n)
    images = [
        Image(seed, body.class_label, body.temperature, picture, observed)
        for picture in x
        for seed in seeds
    ]
    return Order(card, images, body.seed, body.temperature, body.n, observed)


async def score_inputs(
    body: ScoreRequest, card: Card, limits: Limits
) -> tuple[Tensor, Tensor | None]:
    """Return levels (N, C, H, W) and labels (N,) of a request for scores.

    Raises:
        ConfigError: The class does not fit the model.
        DataError: A picture cannot be taken.
    """
    _check_label(body.class_label, card)
    x = await asyncio.to_thread(read_pictures, body.images, card, limits)
    return x, None if body.class_label is None else torch.full((len(x),), body.class_label)


def _check_label(label: int | None, card: Card) -> None:
    if not card.num_classes and label is not None:
        rule = f"class_label must be left out: {card.name} has no classes"
        raise ConfigError(f"{rule}, got {label}")
    if card.num_classes and (label is None or label >= card.num_classes):
        got = "none" if label is None else label
        raise ConfigError(f"class_label must be one of 0 to {card.num_classes - 1}, got {got}")
