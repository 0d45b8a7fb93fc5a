"""Autoregressive image models, trained, swept, evaluated and sampled on Ray.

`raypixel.load(checkpoint)` gives a trained model to draw, complete and score images with;
`raypixel.Client(url)` asks a service for the same.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# the door to the upper floors, opened on first use: `import raypixel` stays fast
_NAMES = {
    "load": "raypixel.model",
    "Model": "raypixel.model",
    "Client": "raypixel.client",
}


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'raypixel' has no attribute {name!r}")
    return getattr(importlib.import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]
