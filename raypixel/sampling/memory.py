"""Where a plan's planes lie: one flat row of numbers for each image, the same for every sampler."""

import torch
from torch import Tensor

from raypixel.nn.plan import Plan, Plane

# compiled code reads whole vectors, and so up to this many numbers past a plane
_SPARE = 16


class Memory:
    """The planes of a batch of images, (num_slots, numbers of one image)."""

    def __init__(
        self, plan: Plan, num_slots: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.index = {plane: number for number, plane in enumerate(plan.planes)}
        self.offsets: list[int] = []
        parts = []
        offset = 0
        for plane in plan.planes:
            part = _outside(plane, plan.width)
            self.offsets.append(offset)
            parts.append(part.to(dtype).flatten())
            offset += part.numel()
        parts.append(torch.zeros(_SPARE, dtype=dtype))
        self.outside = torch.cat(parts).to(device)
        self.flat = self.outside.repeat(num_slots, 1)
        self.views = [
            self.flat[:, start : start + part.numel()].unflatten(
                1, (plane.rows, padded_width(plane, plan.width), plane.size)
            )
            for plane, start, part in zip(plan.planes, self.offsets, parts[:-1], strict=True)
        ]

    def of(self, plane: Plane) -> Tensor:
        """Return a plane of all images, (num_slots, rows, columns, size), shared."""
        return self.views[self.index[plane]]

    def reset(self, slots: slice | Tensor) -> None:
        """Forget the images of some slots."""
        self.flat[slots] = self.outside


def padded_width(plane: Plane, width: int) -> int:
    """Return the columns that a plane keeps."""
    return plane.left + width + plane.right if plane.kind == "row" else 1


def _outside(plane: Plane, width: int) -> Tensor:
    """Return what a plane holds before the first row, (rows, columns, size)."""
    outside = torch.zeros(plane.rows, padded_width(plane, width), plane.size, dtype=torch.float64)
    if plane.above is not None:
        outside[:] = plane.above.cpu()
    if plane.kind == "row":
        beside = 0.0 if plane.beside is None else plane.beside.cpu()
        outside[:, : plane.left] = beside
        outside[:, plane.left + width :] = beside
    return outside
