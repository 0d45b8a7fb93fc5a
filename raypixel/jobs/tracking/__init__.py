"""Tracking with MLflow, the only package that imports it: a lost server neither stops nor slows a training.

The driver is the only writer. What it logs goes to a queue, and one daemon thread writes the queue to the store, so no
call but opening waits for the store. While the store does not answer, the thread keeps trying at growing intervals;
beyond a bound the oldest entries are dropped, and closing says how many were lost. An entry that the store refuses
although it answers is left out. Every write may be repeated: a run is found again by its key, points by their time.

MLflow is imported when a store is opened (2 to 4 s). `MlflowClient` is used and never the fluent functions, whose
active run is one for the whole process.
"""

from raypixel.jobs.tracking.runs import Status, TrackedRun
from raypixel.jobs.tracking.store import TrackingError
from raypixel.jobs.tracking.tracker import Tracker

__all__ = ["Status", "TrackedRun", "Tracker", "TrackingError"]
