"""One stage of sampling whose step can be captured: every number that changes lies in a tensor that stays.

A step in PyTorch is a few dozen operations of a few microseconds each on a GPU, and as much again to launch each of them.
Here positions lie on the device and move there, so that every step is the same sequence of operations on the same
addresses: a GPU captures it once, as a CUDA graph, and replays it, one launch for a pixel and one for a row that begins.
Images may stand at different positions; slots whose image is not in this stage take part and write nothing that counts.
Elsewhere than on a GPU the same steps run one operation after another: so the tests hold them to the oracle.
"""

import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raypixel.nn.plan import Stage
from raypixel.sampling.interpreter import Positions
from raypixel.sampling.stages import InterpretedStage, Slots

Action = Callable[[], None]
# a process captures one graph at a time, and may serve several models
_ONE_AT_A_TIME = threading.Lock()


class CapturedAction:
    """An action on fixed tensors, run the first time, captured the second, and replayed from then on."""

    def __init__(self, action: Action, device: torch.device) -> None:
        self._action, self._device = action, device
        self._times = 0
        self._replay: Action | None = None

    def __call__(self) -> None:
        """Do it once."""
        if not is_available(self._device):
            self._action()
        elif self._times == 0:
            _warm_up(self._action, self._device)
        else:
            self._replay = self._replay or capture(self._action, self._device)
            self._replay()
        self._times += 1


def is_available(device: torch.device) -> bool:
    """Whether steps can be captured there."""
    return device.type == "cuda"


def capture(action: Action, device: torch.device) -> Action:
    """Capture an action as a CUDA graph, without doing it; return what replays it."""
    graph = torch.cuda.CUDAGraph()
    with (
        _ONE_AT_A_TIME,
        torch.cuda.device(device),
        torch.cuda.graph(graph, capture_error_mode="thread_local"),  # a server has other threads
    ):
        action()
    return graph.replay


def _warm_up(action: Action, device: torch.device) -> None:
    """Do an action on a stream of its own, as before a capture must be: libraries make their workspaces."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            action()
        torch.cuda.current_stream().wait_stream(stream)


class GraphStage(InterpretedStage):
    """One stage, in steps that can be captured."""

    def __init__(self, slots: Slots, stage: Stage, first_dimension: Tensor) -> None:
        super().__init__(slots, stage, first_dimension)
        self._slots = torch.arange(len(slots.x), device=slots.device)
        # positions; of a slot that is not in this stage the row after the last
        self._rows = torch.full_like(self._slots, stage.height)
        self._columns = torch.zeros_like(self._slots)
        self._write_pixels = CapturedAction(self._write_every_pixel, slots.device)
        self._start_rows = CapturedAction(self._begin_every_row, slots.device)

    def advance(self, slots: NDArray[np.int64], num_pixels: int) -> None:
        """Write the next pixels of images that stand in this stage."""
        rows = np.full(len(self._slots), self.stage.height)
        columns = np.zeros(len(self._slots), dtype=np.int64)
        rows[slots], columns[slots] = self.slots.row[slots], self.slots.column[slots]
        self._rows.copy_(torch.as_tensor(rows))
        self._columns.copy_(torch.as_tensor(columns))
        super().advance(slots, num_pixels)

    def _step(self, slots: NDArray[np.int64]) -> None:
        rows, columns = self.slots.row[slots], self.slots.column[slots]
        if (columns == 0).any():
            if (rows > 0).all():
                self._start_rows()
            else:
                self._begin(slots)
        self._write_pixels()

    def _begin_every_row(self) -> None:
        """Run the passes of every slot's row, begun or not: they read finished rows only and give the same again."""
        rows = self._rows.clamp(max=self.stage.height - 1)
        self._begin_rows(Positions(self._slots, rows), is_first=False)

    def _write_every_pixel(self) -> None:
        """Write the next pixel of every slot in this stage and move its position."""
        rows = self._rows.clamp(max=self.stage.height - 1)
        is_idle = self._rows >= self.stage.height
        self._write(Positions(self._slots, rows, self._columns), is_idle)
        self._columns.add_(1)
        has_ended = self._columns == self.plan.width
        self._rows.add_(has_ended)
        self._columns.masked_fill_(has_ended, 0)
