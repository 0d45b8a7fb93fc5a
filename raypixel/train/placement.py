"""Placement groups that a stopped training leaves behind are removed.

Ray Train has an actor for this, which asks the dashboard whether the training still lives and whose thread ends when the
dashboard once does not answer: the next trial of a sweep then waits for ever. So the first worker of a training writes
down its placement group, and who stops the training removes it.
"""

import time
from contextlib import suppress

from raypixel.errors import StorageError
from raypixel.storage import Location, delete, read_bytes, write_bytes

FILE_NAME = "placement_group"
WATCHED_SECONDS = 60.0
SECONDS_BETWEEN_LOOKS = 1.0


def note_group(place: Location) -> None:
    """Write down the placement group of the worker that calls this."""
    from ray.util import get_current_placement_group

    group = get_current_placement_group()
    if group is not None:
        write_bytes(place / FILE_NAME, group.id.hex().encode())


def remove_group(place: Location) -> None:
    """Remove the placement group that was written down, if there is one; one of another cluster is unknown to this one."""
    from ray import PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    content = read_bytes(place / FILE_NAME)
    if not content:
        return
    try:
        group_id = PlacementGroupID.from_hex(content.decode())
    except ValueError:  # none, or a half-written file
        return
    remove_placement_group(PlacementGroup(group_id))
    delete([place / FILE_NAME])


class GroupRemover:
    """Remove the groups of stopped trainings, for some time: one that dies may yet start its workers anew."""

    def __init__(self) -> None:
        self._until: dict[Location, float] = {}
        self._looked_at: dict[Location, float] = {}

    def add(self, place: Location) -> None:
        """Begin with a place whose training was stopped."""
        self._until[place] = time.monotonic() + WATCHED_SECONDS
        self._looked_at.pop(place, None)
        self.look()

    def look(self) -> None:
        """Remove what is there; called often."""
        for place, until in list(self._until.items()):
            now = time.monotonic()
            if now - self._looked_at.get(place, -1e9) < SECONDS_BETWEEN_LOOKS:
                continue
            self._looked_at[place] = now
            with suppress(StorageError):  # asked again
                remove_group(place)
            if now > until:
                del self._until[place]
