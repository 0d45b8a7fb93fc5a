"""The one door to torchvision, opened only when something behind it is needed.

Its wheel is linked against CUDA. Beside a CPU-only torch the C++ library cannot load, and the import fails because two
operators, for which it registers shape functions, have no schema. They are declared here, only after such a failure: declared
first, they would collide with the real ones on a normal install.
"""

import functools
import importlib
from types import ModuleType

import torch

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # a schema lives only as long as its Library


@functools.cache
def torchvision(submodule: str = "") -> ModuleType:
    """Import torchvision, or one of its modules such as `datasets` or `utils`."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    return importlib.import_module(name)
