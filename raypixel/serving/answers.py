"""What is answered: JSON, images as one grid or as NumPy arrays, problems; and which form a client accepts."""

import base64
import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import numpy as np
from PIL.Image import Image as Picture
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response
from torch import Tensor

from raypixel.errors import ConfigError, DataError
from raypixel.grids import image_grid, plain_picture
from raypixel.sampling import Image
from raypixel.serving.engine import JobCancelled, NotAccepting, QueueFull
from raypixel.serving.replica import ModelAnswer, UnknownModel
from raypixel.serving.requests import CompletionRequest, ImagesRequest
from raypixel.serving.settings import Limits

JSON, PNG, NPZ = "application/json", "image/png", "application/x-npz"
RETRY_DRAINING_S = 5


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

    @classmethod
    def of(
        cls, x: Tensor, model: ModelAnswer, request: ImagesRequest, images: Sequence[Image]
    ) -> Self:
        """Return the answer for levels, (N, C, H, W), that were made of the images of a request."""
        n = request.n if isinstance(request, CompletionRequest) else None
        answers = [
            ImageAnswer(
                png=base64.b64encode(_png(plain_picture(levels, num_levels=model.num_levels))),
                source=None if n is None else number // n,
                class_label=image.class_label,
            )
            for number, (levels, image) in enumerate(zip(x, images, strict=True))
        ]
        return cls(
            model=model.name,
            seed=request.seed,
            temperature=request.temperature,
            image_shape=model.image_shape,
            num_levels=model.num_levels,
            images=answers,
        )


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

    @classmethod
    def of(cls, nats: Tensor, model: ModelAnswer, *, per_pixel: bool) -> Self:
        """Return the answer for the nats of each sub-pixel, (N, C, H, W)."""
        scores = [
            ScoreAnswer(nll_nats=total, bits_per_dim=bits)
            for total, bits in zip(*(each.tolist() for each in _likelihoods(nats)), strict=True)
        ]
        if per_pixel:  # otherwise it stays unset, and is left out of the JSON
            for score, rows in zip(scores, nats.double().sum(1).tolist(), strict=True):
                score.surprise = [[round(value, 6) for value in row] for row in rows]
        return cls(model=model.name, image_shape=model.image_shape, scores=scores)


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


class Problem(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        detail: What is wrong, in a sentence.
        headers: That go with the status.
    """

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None = None) -> None:
        """Describe the error; the client should come back after some seconds if they are given."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))

    def to_response(self) -> Response:
        """Return the answer; a lone surrogate, which UTF-8 has no bytes for, is spelled out."""
        answer = ErrorAnswer(detail=self.detail.encode("ascii", "backslashreplace").decode())
        return JSONResponse(answer.model_dump(), self.status, self.headers)


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


def choose_form(accept: str, offered: tuple[str, ...]) -> str:
    """Return the form that an `Accept` header likes best, the first offered one where it does not care.

    Args:
        accept: The header; empty takes anything.
        offered: Media types, the server's favorite first.

    Raises:
        Problem: It takes none of them.
    """
    qualities = {form: _quality(form, accept or "*/*") for form in offered}
    best = max(offered, key=qualities.__getitem__)
    if not qualities[best]:
        raise Problem(406, f"Accept must allow one of {', '.join(offered)}, got {accept!r}")
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
                return max(0.0, float(parameter[2:]))  # 0 for a NaN
            except ValueError:
                return 0.0
    return 1.0


def images_file(
    form: str, x: Tensor, model: ModelAnswer, request: ImagesRequest, images: Sequence[Image]
) -> bytes:
    """Encode levels, (N, C, H, W), that were made of the images of a request: a PNG of all, or an .npz file."""
    n = request.n if isinstance(request, CompletionRequest) else None
    if form == PNG:
        columns = None if n == 1 else n
        return _png(image_grid(x, num_levels=model.num_levels, num_columns=columns))
    observed = images[0].observed
    if n is None or observed is None:
        return arrays(images=x)
    return arrays(completions=x.unflatten(0, (-1, n)), observed=observed)


def scores_file(nats: Tensor, *, per_pixel: bool) -> bytes:
    """Encode scores as an .npz file, for the nats of each sub-pixel, (N, C, H, W)."""
    totals, bits = _likelihoods(nats)
    surprise = {"surprise": nats} if per_pixel else {}
    return arrays(nll_nats=totals, bits_per_dim=bits, **surprise)


def arrays(**values: Tensor) -> bytes:
    """Encode tensors as an .npz file; no object is pickled, and the same arrays give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in values.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, value.numpy(), allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())
    return buffer.getvalue()


def _likelihoods(nats: Tensor) -> tuple[Tensor, Tensor]:
    """Return nats and bits per dimension of each image, (N,) float64, for those of each sub-pixel."""
    totals = nats.double().flatten(1).sum(1)
    return totals, totals / (nats[0].numel() * math.log(2))


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
