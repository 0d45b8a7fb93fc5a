"""Where a plan's planes lie: one flat row of numbers for each image, the same for every sampler."""

from collections.abc import Sequence

import torch
from torch import Tensor

from raypixel.nn.plan import Plan, Plane

# compiled code reads whole vectors, and so up to this many numbers past a plane
_SPARE = 16


class Planes:
    """The planes of a batch of images, (num_slots, numbers of one image).

    Attributes:
        plan: The plan.
        block_rows: Whole rows kept of every plane, for a block; 0 keeps rings.
        flat: All numbers, (num_slots, numbers of one image).
        outside: What an image holds before its first row, (numbers of one image,).
        offsets: Where each plane begins in an image's numbers.
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
        self.offsets: dict[Plane, int] = {}
        shapes, parts, offset = [], [], 0
        for plane in (*plan.planes, *scratch):
            part = _outside(plane, plan.width, block_rows)
            shapes.append(part.shape)
            self.offsets[plane] = offset
            parts.append(part.to(dtype).flatten())
            offset += part.numel()
        self.outside = torch.cat([*parts, torch.zeros(_SPARE, dtype=dtype)]).to(device)
        self.flat = self.outside.repeat(num_slots, 1)
        self._views = {
            plane: self.flat[:, start : start + shape.numel()].unflatten(1, shape)
            for (plane, start), shape in zip(self.offsets.items(), shapes, strict=True)
        }

    def __getitem__(self, plane: Plane) -> Tensor:
        """Return a plane of all images, (num_slots, rows, columns, size), shared."""
        return self._views[plane]


def padded_width(plane: Plane, width: int) -> int:
    """Return the columns that a plane keeps."""
    return plane.left + -(-width // plane.scale) + plane.right if plane.kind == "row" else 1


def _outside(plane: Plane, width: int, block_rows: int) -> Tensor:
    """Return what a plane holds before the first row, (rows, columns, size)."""
    num_rows, num_columns = plane.rows, padded_width(plane, width)
    width = -(-width // plane.scale)
    if block_rows and plane.kind != "image":
        num_rows = plane.rows - 1 + -(-block_rows // plane.scale)
        num_columns = plane.left + width + plane.right
    outside = torch.zeros(num_rows, num_columns, plane.size, dtype=torch.float64)
    if plane.above is not None:
        outside[:] = plane.above.cpu()
    if plane.kind == "row":
        beside = 0.0 if plane.beside is None else plane.beside.cpu()
        outside[:, : plane.left] = beside
        outside[:, plane.left + width :] = beside
    return outside
