"""How many replicas are wanted: the sub-pixels that accepted images still lack, over what a replica should have to do.

Ray Serve pickles this module by value, so it imports nothing of raypixel.
"""

import math
from typing import Any

METRIC = "remaining_sub_pixels"


class RemainingSubPixels:
    """A policy for `autoscaling_config.policy.policy_function`."""

    def __init__(
        self,
        sub_pixels_per_replica: float = 200_000.0,
        upscale_delay_s: float = 10.0,
        downscale_delay_s: float = 300.0,
    ) -> None:
        """Set the target and how long it must be missed before something is done.

        Args:
            sub_pixels_per_replica: What a replica should have left to write, about its speed times the seconds that a
                request may wait.
            upscale_delay_s: How long more must be wanted before replicas are started.
            downscale_delay_s: How long fewer must be wanted before replicas are ended.
        """
        self.sub_pixels_per_replica = sub_pixels_per_replica
        self.delays = {1: upscale_delay_s, -1: downscale_delay_s}

    def __call__(self, ctx: Any) -> tuple[int, dict[str, Any]]:
        """Return the number of replicas wanted, and what to remember.

        Args:
            ctx: Ray Serve's `AutoscalingContext`.
        """
        metrics = (ctx.aggregated_metrics or {}).get(METRIC, {})
        wanted = math.ceil(sum(metrics.values()) / self.sub_pixels_per_replica)
        if not wanted and ctx.total_num_requests:
            wanted = 1
        low, high = ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas
        wanted = max(low, min(high, wanted))
        now, target = ctx.current_time or 0.0, ctx.target_num_replicas
        direction = (wanted > target) - (wanted < target)
        state = dict(ctx.policy_state or {})
        if not direction:
            return target, {}
        if state.get("direction") != direction:
            state = {"direction": direction, "since": now}
        if target and now - state["since"] < self.delays[direction]:
            return target, state
        return wanted, {}
