"""Placement groups that a stopped training leaves behind are removed.

Ray Train has an actor for this, which asks the dashboard whether the training still lives and whose thread ends when the
dashboard once does not answer: the next trial of a sweep then waits for ever. So the first worker of a training writes
down its placement group, and who stops the training removes it.
"""

import time
from pathlib import Path

FILE_NAME = "placement_group"
WATCHED_SECONDS = 60.0


def note_group(folder: Path) -> None:
    """Write down the placement group of the worker that calls this."""
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    if group is not None:
        (folder / FILE_NAME).write_text(group.id.hex(), encoding="utf-8")


def remove_group(folder: Path) -> None:
    """Remove the placement group that was written down, if there is one; one of another cluster is unknown to this one."""
    from ray import PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    path = folder / FILE_NAME
    try:
        group_id = PlacementGroupID.from_hex(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # none, or a half-written file
        return
    remove_placement_group(PlacementGroup(group_id))
    path.unlink(missing_ok=True)


class Reaper:
    """Remove the groups of stopped trainings, for some time: one that dies may yet start its workers anew."""

    def __init__(self) -> None:
        self._until: dict[Path, float] = {}

    def add(self, folder: Path) -> None:
        """Begin with a folder whose training was stopped."""
        self._until[folder] = time.monotonic() + WATCHED_SECONDS
        self.look()

    def look(self) -> None:
        """Remove what is there; called often."""
        for folder in list(self._until):
            remove_group(folder)
            if time.monotonic() > self._until[folder]:
                del self._until[folder]
