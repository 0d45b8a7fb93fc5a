"""What an engine tells of itself: for metrics, for autoscaling, and for the time after which to come back."""

from bisect import bisect_left
from dataclasses import dataclass, field

# attributes of `EngineStats` that metrics tell, each with what is said of it
GAUGES = {
    "active_slots": "Images that are being made",
    "num_slots": "Images that can be made at a time",
    "queued_images": "Images that wait for a slot",
    "remaining_sub_pixels": "Sub-pixels that accepted images still lack",
    "sub_pixels_per_second": "Recent speed",
}
COUNTERS = {
    "sub_pixels": "Sub-pixels written",
    "images": "Images completed",
    "jobs_finished": "Requests for images that were finished",
    "jobs_cancelled": "Requests for images that were cancelled",
    "jobs_failed": "Requests for images that failed",
}
WAIT_BOUNDS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass
class Waits:
    """A histogram of seconds.

    Attributes:
        counts: Values up to each of `WAIT_BOUNDS_S` and above the last, not cumulative.
        total_s: Sum of the values.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(WAIT_BOUNDS_S) + 1))
    total_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Count a value."""
        self.counts[bisect_left(WAIT_BOUNDS_S, seconds)] += 1
        self.total_s += seconds


@dataclass
class EngineStats:
    """Counters since the start, and gauges.

    Attributes:
        num_slots: Images that can be made at a time.
        num_dims: Sub-pixels of an image.
        active_slots: Images that are being made.
        queued_images: Images that wait for a slot.
        sub_pixels: Sub-pixels written or taken over from a completion's picture.
        images: Images completed.
        jobs_finished: Jobs whose images are all complete.
        jobs_cancelled: Jobs that were cancelled by their caller.
        jobs_failed: Jobs that ended with an error.
        queue_waits: How long images waited for a slot.
        sub_pixels_per_second: Recent speed; 0 before the first step.
    """

    num_slots: int
    num_dims: int
    active_slots: int = 0
    queued_images: int = 0
    sub_pixels: int = 0
    images: int = 0
    jobs_finished: int = 0
    jobs_cancelled: int = 0
    jobs_failed: int = 0
    queue_waits: Waits = field(default_factory=Waits)
    sub_pixels_per_second: float = 0.0
    _written: int = 0

    @property
    def remaining_sub_pixels(self) -> int:
        """Sub-pixels of the images that wait or are being made."""
        num_images = self.queued_images + self.active_slots
        return max(0, num_images * self.num_dims - self._written)

    def seconds_for(self, num_images: int) -> float:
        """Return about how long making some images takes, 1 to 60 s."""
        seconds = num_images * self.num_dims / max(self.sub_pixels_per_second, 1.0)
        return min(max(seconds, 1.0), 60.0)

    def note_step(self, gained: int, written: int, seconds: float) -> None:
        """Count what a step wrote, and what the images in the slots have now."""
        self.sub_pixels += gained
        self._written = written
        speed = gained / seconds
        weight = min(1.0, seconds) if self.sub_pixels_per_second else 1.0
        self.sub_pixels_per_second += weight * (speed - self.sub_pixels_per_second)
