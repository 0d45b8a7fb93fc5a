"""Sweeps: a YAML file in W&B's words to experiments, and the search that chooses among them; no Ray here.

`load_sweep` reads and validates a file with all its trials, `open_search` hands them out.
"""

from raypixel.sweeps.file import SweepConfig
from raypixel.sweeps.load import expected_manifest, load_sweep
from raypixel.sweeps.search import Search, open_search
from raypixel.sweeps.trials import Sweep, Trial

__all__ = [
    "Search",
    "Sweep",
    "SweepConfig",
    "Trial",
    "expected_manifest",
    "load_sweep",
    "open_search",
]
