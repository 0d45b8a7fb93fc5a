"""Where a plan's planes lie: one flat row of numbers for each image, the same for every sampler."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raypixel.nn.plan import Plan, Plane

# compiled code reads whole vectors, and so up to this many numbers past a plane
_SPARE = 16


class Memory:
    """The planes of a batch of images, (num_slots, numbers of one image).

    Attributes:
        plan: The plan.
        block_rows: Whole rows kept of every plane, for a block; 0 keeps rings.
        flat: All numbers, (num_slots, numbers of one image).
        outside: What an image holds before its first row, (numbers of one image,).
    """

    def __init__(
        self,
        plan: Plan,
        num_slots: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        block_rows: int = 0,
        scratch: Sequence[Plane] = (),
    ) -> None:
        """Make the planes, as if no row were written.

        Args:
            plan: The plan.
            num_slots: Images.
            dtype: Floating type.
            device: Where.
            block_rows: Whole rows kept beside those above them, of cells too; 0 keeps each plane's ring only.
            scratch: Planes beside the plan's own.
        """
        self.plan, self.block_rows = plan, block_rows
        planes = [*plan.planes, *scratch]
        self.index = {plane: number for number, plane in enumerate(planes)}
        self.offsets: list[int] = []
        parts = []
        offset = 0
        shapes = []
        for plane in planes:
            part = _outside(plane, plan.width, block_rows)
            shapes.append(part.shape)
            self.offsets.append(offset)
            parts.append(part.to(dtype).flatten())
            offset += part.numel()
        parts.append(torch.zeros(_SPARE, dtype=dtype))
        self.outside = torch.cat(parts).to(device)
        self.flat = self.outside.repeat(num_slots, 1)
        self.views = [
            self.flat[:, start : start + shape.numel()].unflatten(1, shape)
            for start, shape in zip(self.offsets, shapes, strict=True)
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


def _outside(plane: Plane, width: int, block_rows: int) -> Tensor:
    """Return what a plane holds before the first row, (rows, columns, size)."""
    num_rows, num_columns = plane.rows, padded_width(plane, width)
    if block_rows and plane.kind != "image":
        num_rows, num_columns = plane.rows - 1 + block_rows, plane.left + width + plane.right
    outside = torch.zeros(num_rows, num_columns, plane.size, dtype=torch.float64)
    if plane.above is not None:
        outside[:] = plane.above.cpu()
    if plane.kind == "row":
        beside = 0.0 if plane.beside is None else plane.beside.cpu()
        outside[:, : plane.left] = beside
        outside[:, plane.left + width :] = beside
    return outside
