"""Files that describe a cluster: checked before anything starts, and tried out on one machine.

Above jobs and serving, whose settings the files carry; Ray's own checks and its autoscaler are called here.
"""

from raypixel.cluster.check import check_file, kind_of

__all__ = ["check_file", "kind_of"]
