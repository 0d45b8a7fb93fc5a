"""Plans: what a network computes for one position, written once by its layers and run by every sampler.

Sampling advances by one sub-pixel at a time, so of each map only a few rows are alive. A plan names these maps
(`Plane`: a ring of rows, as deep as the kernels that read it) and the operations that fill them:

- passes over a whole row, run when the row begins: everything that reads finished rows only (the rows above a
  kernel, the vertical stack, state-to-state from the row above, the right-to-left states of the finished row);
- for each colour group, the operations at one position: what reads the pixels to the left, and earlier colours;
- operations at a position whose level is known, for what reads the pixel itself (keys and values of attention).

A network may have layers of lower resolution: a plane of scale s has a cell for every s-th row and column, and its
operations run there only (`Phase`). Each layer has, beside `forward`, a method `emit` that appends its operations. Samplers
interpret the plan: one in PyTorch over a batch (any device and type), one compiled. Neither knows an architecture. A
position costs what its share of a forward pass costs; memory grows with the width of the image, not its area, but for
attention over all rows.

Reference: caching as in Ramachandran et al. 2017 (arXiv 1704.06001) and van den Oord et al. 2016a, sec. 3.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["row", "cell", "image"]
Order = Literal["parallel", "leftwards"]
When = Literal["row", "position", "end"]


@dataclass(eq=False)
class Plane:
    """A map of which a ring of rows is kept.

    Attributes:
        size: Channels.
        kind: "row" keeps whole rows; "cell" one position, until the next one; "image" one vector for an image.
        rows: Rows alive, the current one included.
        scale: Rows and columns of the image for one of the plane's, a power of 2.
        left: Columns kept to the left of the image.
        right: Columns kept to the right of the image.
        above: What rows above the image hold, (size,); zeros if None.
        beside: What columns beside the image hold, (size,); zeros if None.
    """

    size: int
    kind: Kind
    rows: int = 1
    scale: int = 1
    left: int = 0
    right: int = 0
    above: Tensor | None = None
    beside: Tensor | None = None

    def at(self, row: int = 0, column: int = 0, start: int = 0, stop: int | None = None) -> "Tap":
        """Return a view of channels start to stop, `row` rows up and `column` columns to the right."""
        if row or column:
            assert self.kind != "image"
            self.kind = "row"  # a neighbour reads it, so it must outlive its position
        self.rows = max(self.rows, row + 1)
        self.left, self.right = max(self.left, -column), max(self.right, column)
        return Tap(self, row, column, start, self.size if stop is None else stop)


@dataclass(frozen=True)
class Tap:
    """Some channels of a plane at a position relative to the current one, in rows and columns of the plane."""

    plane: Plane
    row: int
    column: int
    start: int
    stop: int


@dataclass(frozen=True)
class Linear:
    """target = weight^T (taps, one after another, through a ReLU if so) + bias + the sum of `plus`."""

    target: Tap
    taps: tuple[Tap, ...]
    weight: Tensor
    """(channels of all taps, channels of the target)."""
    bias: Tensor | None = None
    plus: tuple[Tap, ...] = ()
    relu: bool = False


@dataclass(frozen=True)
class Norm:
    """Layer normalization of the source's channels at a position, with scale and shift."""

    target: Tap
    source: Tap
    weight: Tensor
    bias: Tensor
    eps: float = 1e-5


@dataclass(frozen=True)
class Gate:
    """target = tanh(first half of the source), or that half itself if so, * sigmoid(second half) + plus."""

    target: Tap
    source: Tap
    is_linear: bool = False
    plus: Tap | None = None


@dataclass(frozen=True)
class Elu:
    """target = elu(source), with elu(-source) after it where the target is twice as wide."""

    target: Tap
    source: Tap


@dataclass(frozen=True)
class Attention:
    """Each head's mean of the values at earlier positions, weighted by softmax(query . key / sqrt(size)); zero at the first.

    The channels of query, keys, values and target are those of one head after another. Positions are earlier in raster order, and
    in the rows that the planes of keys and values keep.
    """

    target: Tap
    query: Tap
    keys: Tap
    values: Tap
    num_heads: int


@dataclass(frozen=True)
class Cell:
    """An LSTM cell: hidden and cell states from gates o, f, i, g and the earlier cell state."""

    hidden: Tap
    cell: Tap
    gates: Tap
    previous: Tap


Op = Linear | Norm | Gate | Cell | Elu | Attention


@dataclass(frozen=True)
class Phase:
    """The positions at which an operation runs: every so many rows and columns, from the given ones on."""

    every: int = 1
    row: int = 0
    column: int = 0


EVERYWHERE = Phase()


@dataclass(frozen=True)
class RowPass:
    """Operations over a row that begins: one after another over all columns, or together, from right to left.

    Attributes:
        ops: The operations.
        order: "parallel" or "leftwards".
        skips_first: Not run for the first row, above which there is none.
        phase: In which rows and columns.
    """

    ops: tuple[Op, ...]
    order: Order = "parallel"
    skips_first: bool = False
    phase: Phase = EVERYWHERE


@dataclass(frozen=True)
class Step:
    """An operation at one position.

    Attributes:
        op: The operation.
        group: Colour group, whose sub-step runs it.
        scans: It reads its own result from the left, so a row of it cannot be computed at once.
        is_output: Its result leads to the parameters only, to no later position.
        phase: At which positions.
    """

    op: Op
    group: int
    scans: bool = False
    is_output: bool = False
    phase: Phase = EVERYWHERE


@dataclass
class Plan:
    """A network's planes and operations for images of one width.

    Attributes:
        num_groups: Colour groups, each with its own sub-step.
        width: Columns of the image.
        levels: Scaled image, C channels.
        classes: One-hot class of the image, where the network has classes.
        condition: Conditioning maps, where the network has them.
        params: The parameters' maps at the current position.
        passes: What runs when a row begins.
        steps: What runs at a position, before its levels are known.
        ends: What runs there when they are.
    """

    num_channels: int
    num_groups: int
    width: int
    num_classes: int = 0
    condition_channels: int = 0
    planes: list[Plane] = field(default_factory=list)
    passes: list[RowPass] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    ends: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.levels = self.plane(self.num_channels)
        self.classes = self.plane(self.num_classes, kind="image") if self.num_classes else None
        self.condition = self.plane(self.condition_channels) if self.condition_channels else None
        self.params = self.levels  # until the output layers set it

    def plane(
        self,
        size: int,
        *,
        kind: Kind = "row",
        scale: int = 1,
        above: Tensor | None = None,
        beside: Tensor | None = None,
    ) -> Plane:
        """Add a plane; `Plane.at` widens it to what is read of it."""
        plane = Plane(size, kind, scale=scale, above=above, beside=beside)
        self.planes.append(plane)
        return plane

    def over_row(
        self,
        *ops: Op,
        order: Order = "parallel",
        skips_first: bool = False,
        phase: Phase = EVERYWHERE,
    ) -> None:
        """Run operations over each row that begins."""
        self.passes.append(RowPass(ops, order, skips_first, phase))

    def step(
        self,
        op: Op,
        group: int,
        *,
        scans: bool = False,
        is_output: bool = False,
        phase: Phase = EVERYWHERE,
    ) -> None:
        """Run an operation in the sub-step of a colour group."""
        self.steps.append(Step(op, group, scans, is_output, phase))

    def add(
        self, op: Op, when: When, *, phase: Phase = EVERYWHERE, is_output: bool = False
    ) -> None:
        """Run an operation of a network without colour groups over each row that begins, at each position, or at its end.

        The end of a position is when its levels are known.
        """
        if when == "row":
            self.over_row(op, phase=phase)
        elif when == "position":
            self.step(op, 0, is_output=is_output, phase=phase)
        else:
            self.ends.append(Step(op, 0, phase=phase))

    def program(self, group: int) -> list[Step]:
        """Return the operations of a sub-step, in order."""
        return [step for step in self.steps if step.group == group]

    def num_products(self) -> int:
        """Return the multiplications by weights for one position: all passes and all sub-steps."""
        ops = [(op, each.phase) for each in self.passes for op in each.ops]
        ops += [(step.op, step.phase) for step in (*self.steps, *self.ends)]
        products = (
            op.weight.numel() / phase.every**2 for op, phase in ops if isinstance(op, Linear)
        )
        return round(sum(products))


@dataclass(frozen=True)
class Stage:
    """A raster scan over an image, or over every stride-th pixel of it.

    Attributes:
        plan: What to compute at each position.
        stride: The scan visits every stride-th row and column.
        height: Rows that it visits.
        given: Positions whose value an earlier stage wrote, (height, width), bool; None if there are none.
        condition: Computes conditioning maps (N, c, height, width) from the visited levels, (N, C, height, width).
    """

    plan: Plan
    stride: int
    height: int
    given: Tensor | None = None
    condition: Callable[[Tensor], Tensor] | None = None


def group_slices(groups: Tensor, num_groups: int) -> list[tuple[int, int]]:
    """Return (start, stop) of each group's channels; groups ascend."""
    bounds = torch.searchsorted(groups, torch.arange(num_groups + 1)).tolist()
    return list(itertools.pairwise(bounds))


def by_group(groups: Tensor, num_groups: int) -> list[list[int]]:
    """Return the channels of each group; groups need not ascend."""
    return [(groups == group).nonzero().flatten().tolist() for group in range(num_groups)]


def in_group_order(groups: Tensor, num_groups: int) -> list[int]:
    """Return all channels, those of the first group first."""
    return [channel for group in by_group(groups, num_groups) for channel in group]


def pick(weight: Tensor, outputs: Sequence[int]) -> Tensor:
    """Return the rows of (O, I) weights as columns, (I, len(outputs)), contiguous."""
    return weight.detach()[list(outputs)].t().contiguous()
