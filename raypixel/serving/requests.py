"""The bodies of requests: what they hold, examples, and the bounds that do not depend on a model."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from raypixel.serving.settings import Limits

# an 8x8 gray PNG, so that an example can be sent as it stands to a model of digits
EXAMPLE_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEE"
    "lEQVR4nGNkEIQAJkGKGACW0QQ/Ddd0qQAAAABJRU5ErkJggg=="
)

Name = Annotated[
    str | None, Field(max_length=64, description="A served model; the first by default.")
]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1, description="The same seed, the same images.")]
Temperature = Annotated[
    float, Field(ge=0.01, le=100, description="Divides the logits: less than 1 sharpens.")
]
ClassLabel = Annotated[
    int | None, Field(ge=0, le=2**31 - 1, description="Class, for a class-conditional model.")
]
Stream = Annotated[
    bool, Field(description="Answer with server-sent events: rows as they are written.")
]
Pictures = Annotated[
    list[str], Field(min_length=1, description="PNG or WebP of the model's size, in base64.")
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SampleRequest(_Body):
    """Ask for new images."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"n": 4, "seed": 7}]})

    model: Name = None
    n: Annotated[int, Field(ge=1, description="How many images.")] = 1
    seed: Seed = 0
    temperature: Temperature = 1.0
    class_label: ClassLabel = None
    stream: Stream = False


class CompletionRequest(_Body):
    """Ask for what the part of a picture that is not observed may be."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"images": [EXAMPLE_PICTURE], "observed": "rows:3", "n": 2, "seed": 7}]
        }
    )

    model: Name = None
    images: Pictures
    observed: Annotated[
        str,
        Field(description="top-half, rows:N, columns:N, or a mask's PNG or WebP in base64."),
    ] = "top-half"
    n: Annotated[int, Field(ge=1, description="Completions of each picture.")] = 1
    seed: Seed = 0
    temperature: Temperature = 1.0
    class_label: ClassLabel = None
    stream: Stream = False


class ScoreRequest(_Body):
    """Ask how likely pictures are."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [EXAMPLE_PICTURE], "per_pixel": True}]}
    )

    model: Name = None
    images: Pictures
    class_label: ClassLabel = None
    per_pixel: Annotated[bool, Field(description="Add the nats of each pixel.")] = False


BODIES: dict[str, type[BaseModel]] = {
    "/v1/samples": SampleRequest,
    "/v1/completions": CompletionRequest,
    "/v1/scores": ScoreRequest,
}


def check_limits(body: Any, limits: Limits) -> str | None:
    """Return what of a request is beyond the limits, in a sentence; None if nothing is."""
    if isinstance(body, SampleRequest | CompletionRequest) and body.n > limits.max_n:
        return f"n must be at most {limits.max_n}, got {body.n}"
    if isinstance(body, CompletionRequest | ScoreRequest):
        if len(body.images) > limits.max_images:
            return f"images must be at most {limits.max_images}, got {len(body.images)}"
        n = body.n if isinstance(body, CompletionRequest) else 1
        if len(body.images) * n > limits.max_queued_images:
            rule = f"images times n must be at most {limits.max_queued_images}"
            return f"{rule}, got {len(body.images) * n}"
    elif isinstance(body, SampleRequest) and body.n > limits.max_queued_images:
        return f"n must be at most {limits.max_queued_images}, got {body.n}"
    return None
