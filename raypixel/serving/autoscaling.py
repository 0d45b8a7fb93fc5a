"""How many replicas are wanted: the sub-pixels that accepted images still lack, over what a replica should have to do.

Ray Serve pickles this module by value, so it imports nothing of raypixel.
"""

import math
from typing import Any

METRIC = "remaining_sub_pixels"


class RemainingSubPixels:
    """A policy for `autoscaling_config.policy.policy_function`.

    It has no delays of its own: Ray wraps it in `upscale_delay_s` and `downscale_delay_s` of the `autoscaling_config`, which
    count how long the answer stays the same.
    """

    def __init__(self, sub_pixels_per_replica: float = 200_000.0) -> None:
        """Set the target.

        Args:
            sub_pixels_per_replica: What a replica should have left to write, about its speed times the seconds that a
                request may wait.
        """
        self.sub_pixels_per_replica = sub_pixels_per_replica

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas wanted, and nothing to remember.

        Args:
            ctx: Ray Serve's `AutoscalingContext`.
        """
        metrics = (ctx.aggregated_metrics or {}).get(METRIC, {})
        wanted = math.ceil(sum(metrics.values()) / self.sub_pixels_per_replica)
        if not wanted and ctx.total_num_requests:
            wanted = 1
        low, high = ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}
