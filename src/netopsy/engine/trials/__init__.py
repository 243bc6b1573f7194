"""Trials: a spec, a function and a record each; run in process, over worker processes, or on a cluster."""

from netopsy.engine.trials.pool import current_workers, workers
from netopsy.engine.trials.run import run_trials
from netopsy.engine.trials.trial import Outcome, Record

__all__ = ["Outcome", "Record", "current_workers", "run_trials", "workers"]
