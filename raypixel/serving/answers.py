"""What is answered: images as PNG in JSON, as one grid or as NumPy arrays; scores; and which form a client accepts."""

import base64
import io
import math
import zipfile
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel
from torch import Tensor

from raypixel.figures import image_grid, plain_picture
from raypixel.serving.hosts import Card

JSON, PNG, NPZ = "application/json", "image/png", "application/x-npz"


class ImageAnswer(BaseModel):
    """One image."""

    png: str
    source: int | None
    class_label: int | None


class ImagesAnswer(BaseModel):
    """Images, in the order of the request."""

    model: str
    seed: int
    temperature: float
    image_shape: list[int]
    num_levels: int
    images: list[ImageAnswer]


class ScoreAnswer(BaseModel):
    """How likely one picture is."""

    nll_nats: float
    bits_per_dim: float
    surprise: list[list[float]] | None = None


class ScoresAnswer(BaseModel):
    """Scores, in the order of the pictures."""

    model: str
    image_shape: list[int]
    scores: list[ScoreAnswer]


class ModelAnswer(BaseModel):
    """What is told of a model."""

    name: str
    kind: str
    image_shape: list[int]
    num_levels: int
    num_classes: int
    num_parameters: int
    data: str
    is_default: bool


class LimitsAnswer(BaseModel):
    """Bounds on what is asked for."""

    max_n: int
    max_images: int
    max_image_bytes: int
    max_body_bytes: int
    max_queued_images: int
    timeout_s: float


class ModelsAnswer(BaseModel):
    """What is served."""

    models: list[ModelAnswer]
    limits: LimitsAnswer
    requires_key: bool


class ErrorAnswer(BaseModel):
    """What is wrong, in a sentence."""

    detail: str


def choose_form(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return the form that an `Accept` header likes best, the first offered one where it does not care; None if none.

    Args:
        accept: The header; empty takes anything.
        offered: Media types, the server's favorite first.
    """
    best, best_quality = None, 0.0
    for form in offered:
        quality = _quality(form, accept or "*/*")
        if quality > best_quality:
            best, best_quality = form, quality
    return best


def _quality(form: str, accept: str) -> float:
    """Return the q of the most specific range that takes a form; 0 if none does."""
    found = (-1, 0.0)
    for part in accept.split(","):
        name, *parameters = (word.strip().lower() for word in part.split(";"))
        ranges = [form, form.split("/")[0] + "/*", "*/*"]
        if name in ranges:
            found = max(found, (2 - ranges.index(name), _q(parameters)))
    return found[1]


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def images_mapping(
    x: Tensor,
    card: Card,
    *,
    seed: int,
    temperature: float,
    class_labels: list[int | None],
    n: int | None = None,
) -> dict[str, Any]:
    """Return the JSON of images.

    Args:
        x: Levels, (N, C, H, W).
        card: Of their model.
        seed: Of the request.
        temperature: Of the request.
        class_labels: Of each image.
        n: Completions of each picture; None for samples.
    """
    images = [
        {
            "png": base64.b64encode(png(image, card)).decode(),
            "source": None if n is None else number // n,
            "class_label": class_labels[number],
        }
        for number, image in enumerate(x)
    ]
    return {
        "model": card.name,
        "seed": seed,
        "temperature": temperature,
        "image_shape": list(card.image_shape),
        "num_levels": card.num_levels,
        "images": images,
    }


def png(image: Tensor, card: Card) -> bytes:
    """Encode one image, (C, H, W), one pixel a pixel."""
    return _encoded(plain_picture(image, num_levels=card.num_levels))


def grid(x: Tensor, card: Card, *, num_columns: int | None = None) -> bytes:
    """Encode all images as one picture."""
    return _encoded(image_grid(x, num_levels=card.num_levels, num_columns=num_columns))


def arrays(**values: Tensor) -> bytes:
    """Encode tensors as an .npz file; no object is pickled, and the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in values.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, value.numpy(), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return buffer.getvalue()


def scores_mapping(nats: Tensor, card: Card, *, per_pixel: bool) -> dict[str, Any]:
    """Return the JSON of scores for the nats of each sub-pixel, (N, C, H, W)."""
    totals, bits = likelihoods(nats)
    scores = []
    for number in range(len(nats)):
        score: dict[str, Any] = {
            "nll_nats": float(totals[number]),
            "bits_per_dim": float(bits[number]),
        }
        if per_pixel:
            rows = nats[number].double().sum(0)
            score["surprise"] = [[round(value, 6) for value in row] for row in rows.tolist()]
        scores.append(score)
    return {"model": card.name, "image_shape": list(card.image_shape), "scores": scores}


def likelihoods(nats: Tensor) -> tuple[Tensor, Tensor]:
    """Return nats and bits per dimension of each image, (N,) float64, for those of each sub-pixel."""
    totals = nats.double().flatten(1).sum(1)
    return totals, totals / (nats[0].numel() * math.log(2))


def model_mapping(card: Card) -> dict[str, Any]:
    """Return the JSON that tells of a model."""
    return {
        "name": card.name,
        "kind": card.kind,
        "image_shape": list(card.image_shape),
        "num_levels": card.num_levels,
        "num_classes": card.num_classes,
        "num_parameters": card.num_parameters,
        "data": card.data,
        "is_default": card.is_default,
    }


def _encoded(picture: Any, form: Literal["PNG"] = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()
