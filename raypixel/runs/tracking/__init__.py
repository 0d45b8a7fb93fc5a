"""Tracking with MLflow, the only package that imports it: a lost server neither stops nor slows a training.

The driver alone publishes, as a follower of its runs' folders (`publisher`). MLflow is imported when a store is opened (2 to 4
s). `MlflowClient` is used and never the fluent functions, whose active run is one for the whole process.
"""

from raypixel.runs.tracking.publisher import Publication, Publisher, opening_publisher
from raypixel.runs.tracking.record import Record, record_of
from raypixel.runs.tracking.store import TrackingError

__all__ = [
    "Publication",
    "Publisher",
    "Record",
    "TrackingError",
    "opening_publisher",
    "record_of",
]
