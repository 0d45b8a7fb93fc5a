"""Ray Tune around the trials of a sweep: what it asks for next, what it is told, when it stops one.

Nothing here is restored from Tune's own state, which is up to ten seconds old after a kill: trials.json says which
trials ended, and a trial continues from its own newest checkpoint.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from raypixel.data import Manifest
from raypixel.errors import RaypixelError
from raypixel.storage import access, ray_storage, remove
from raypixel.sweeps.actor import run_trial
from raypixel.sweeps.search import Search
from raypixel.sweeps.space import Parameter
from raypixel.sweeps.trial_states import TrialStates
from raypixel.sweeps.trials import Sweep
from raypixel.sweeps.tune_callbacks import (
    GivenUp,
    StallWatch,
    callback,
    order_for,
    searcher,
    target_is_reached,
)
from raypixel.train import ray_cluster, ray_private

NO_LIMIT = 1_000_000


def tune_trials(
    states: TrialStates,
    search: Search,
    manifest: Manifest,
    staged: dict[str, Any],
    *,
    warn: Callable[[str], None],
) -> bool:
    """Run trials until the search is over or the sweep is stopped.

    Returns:
        Whether it came to its end: its trials, its target or its time budget.

    Raises:
        RaypixelError: The cluster cannot hold a trial.
    """
    # a trial that failed for good reports no metric
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")  # the table has them
    from ray import tune

    sweep = states.sweep
    block = sweep.config.raypixel
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the table has what failed
    resources, num_concurrent = trial_resources(sweep)
    given_up = GivenUp(states, block.max_retries)
    rays = states.ledger.home / "ray"
    remove(rays)
    planned = _planned_orders(states, search) if block.scheduler == "pbt" else []
    if planned:  # Tune has no searcher beside population based training
        param_space, source = {"order": tune.grid_search(planned)}, {}
    else:
        param_space = None
        source = {"num_samples": NO_LIMIT, "search_alg": searcher(states, search, given_up)}
    ray_private.let_trials_run_out_of_memory()
    started = time.monotonic()
    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(
                run_trial, manifest=manifest, staged=staged, planned=planned, access=access()
            ),
            resources,
        ),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            metric=sweep.config.metric.name,
            mode="min",
            **source,
            scheduler=_scheduler(sweep),
            reuse_actors=block.resources.workers == 1,
            max_concurrent_trials=min(num_concurrent, block.max_concurrent or num_concurrent),
            time_budget_s=block.time_budget_s,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="ray",
            **ray_storage(states.ledger.home),
            verbose=0,
            callbacks=[callback(states, planned, StallWatch(states.running, warn), given_up)],
            failure_config=tune.FailureConfig(max_failures=block.max_retries),
        ),
    )
    tuner.fit()
    given_up.give_up()
    states.read_events()
    budget = block.time_budget_s
    if budget is not None and time.monotonic() - started >= budget:
        for label in states.running():
            states.stop(label, "time_budget_s")
        return True
    remove(rays)
    return not states.running() and (search.is_over or target_is_reached(states))


def trial_resources(sweep: Sweep) -> tuple[dict[str, float], int]:
    """Return what Tune sets aside for a trial's own process, and how many trials the cluster holds at once.

    The workers of a trial of several are Ray Train's: Tune does not count them, so the number of trials must. Their own
    process asks for no CPU, which would be missing where the workers need all of them.

    Raises:
        RaypixelError: The cluster cannot hold one.
    """
    wanted = sweep.config.raypixel.resources
    gpus = wanted.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if ray_cluster.has_gpus() else 0.0
    each = {"CPU": float(wanted.cpus_per_worker), "GPU": gpus}
    num_concurrent = ray_cluster.num_fitting(each) // wanted.workers
    if not num_concurrent:
        raise RaypixelError(
            f"raypixel.resources must fit the cluster, got {wanted.workers} workers of {each['CPU']:g} CPU "
            f"and {gpus:g} GPU: {ray_cluster.describe_nodes()}"
        )
    if wanted.workers == 1:
        return each, num_concurrent
    return {"CPU": 0.0, "node:__internal_head__": 0.001}, num_concurrent


def _scheduler(sweep: Sweep) -> Any:
    from ray.tune import schedulers

    early, block = sweep.config.early_terminate, sweep.config.raypixel
    if early is not None:
        num_epochs = max(trial.config.training.num_epochs for trial in sweep.trials)
        longest = max(early.max_iter or num_epochs, early.first_rung)
        return schedulers.ASHAScheduler(
            time_attr="epoch",
            grace_period=early.first_rung,
            max_t=max(longest, 1),
            reduction_factor=early.eta,
            brackets=early.num_brackets,
        )
    if block.scheduler == "median":
        return schedulers.MedianStoppingRule(
            time_attr="epoch", grace_period=1, min_samples_required=2
        )
    if block.scheduler == "pbt":
        mutations = {
            name: _mutation(parameter)
            for name, parameter in sweep.config.parameters.items()
            if parameter.is_varied
        }
        return schedulers.PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=1,
            require_attrs=False,
            hyperparam_mutations={"order": {"parameters": mutations}},
        )
    return None


def _mutation(parameter: Parameter) -> Any:
    """Return the values that population based training resamples from, or draws."""
    import random

    if parameter.choices is not None:
        return parameter.choices
    return lambda: parameter.draw(random.uniform(1e-9, 1 - 1e-9))  # noqa: S311 (not a secret)


def _planned_orders(states: TrialStates, search: Search) -> list[dict[str, Any]]:
    """Return the orders of all trials."""
    orders = []
    while (trial := search.next()) is not None:
        orders.append(order_for(states, trial))
    return orders
