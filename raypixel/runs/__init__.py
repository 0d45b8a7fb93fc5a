"""Runs: their folders, here or in storage, what they tell, and what MLflow is told of them.

This and `raypixel.storage` alone know that a place may be in storage; everyone else has a `Run`, whose folder is on this machine.
"""

from raypixel.runs.events import Event, Follower
from raypixel.runs.run import Run, claim, find_checkpoint
from raypixel.runs.writer import RunWriter, carrying, reading, writing

__all__ = [
    "Event",
    "Follower",
    "Run",
    "RunWriter",
    "carrying",
    "claim",
    "find_checkpoint",
    "reading",
    "writing",
]
