"""A sweep that hangs is noticed and named."""

import time
from collections.abc import Callable, Sequence

SECONDS_BETWEEN_LOOKS = 10.0
STALL_SECONDS = 300.0


class StallWatch:
    """Warn when nothing was heard for a time while something waits for resources."""

    def __init__(
        self,
        running: Callable[[], Sequence[str]],
        warn: Callable[[str], None],
        *,
        stall_s: float = STALL_SECONDS,
    ) -> None:
        """Start to watch.

        Args:
            running: Returns the labels of the trials that run.
            warn: Shows a line.
            stall_s: Silence that is too long.
        """
        self.running = running
        self.warn = warn
        self.stall_s = stall_s
        self.heard_at = self.looked_at = time.monotonic()

    def forget(self) -> None:
        """Take note that something happened."""
        self.heard_at = time.monotonic()

    def look(self) -> None:
        """Warn if it is time; called often."""
        now = time.monotonic()
        if now - self.looked_at < min(SECONDS_BETWEEN_LOOKS, self.stall_s):
            return
        self.looked_at = now
        waiting = waiting_groups() if now - self.heard_at >= self.stall_s else []
        if not waiting:
            return
        self.heard_at = now
        running = ", ".join(self.running()) or "no trial"
        self.warn(
            f"nothing happened for {self.stall_s:.0f} s: {running} running, waiting for "
            f"{'; '.join(waiting)}"
        )


def waiting_groups() -> list[str]:
    """Return what each placement group that has no room asks for."""
    from ray.util import placement_group_table

    return [
        f"{group['name'] or 'workers'} of {' + '.join(map(_amounts, group['bundles'].values()))}"
        for group in placement_group_table().values()
        if group["state"] in ("PENDING", "RESCHEDULING")
    ]


def _amounts(bundle: dict[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in bundle.items())
