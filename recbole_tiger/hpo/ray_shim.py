"""The few names of Ray that differ between 2.6.3, which RecBole's requirements resolve to, and today's.

Input: an installed Ray. Output: start, a report from inside a trial, a run of all trials, schedulers and a searcher
that take the same arguments under both.
"""

from __future__ import annotations

import inspect
import logging
import os
import socket
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from recbole_tiger.errors import ConfigError

#: Ray's store for objects that trials share; ours exchange files instead.
_OBJECT_STORE_BYTES = 100 * 2**20
#: Seconds that a cluster's port has to answer.
_ANSWER_SECONDS = 5
#: Trials report in one record that we keep: Ray's own log files and table would repeat it. They have the priority of
#: every other program: by Ray's default, nice 15, they would hardly run beside one.
_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def import_ray():
    """Ray with Tune; a `ConfigError` if it is not installed, or installed but unable to start."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():  # of its own old imports
            warnings.simplefilter("ignore")
            import ray
            import ray.tune
        # Why a trial fails is reported in a line of ours, without the stacks of three processes.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    except Exception as error:  # an old Ray beside a new setuptools, numpy or pyarrow fails in its own ways
        raise ConfigError(
            f"a sweep needs Ray Tune, which cannot be imported ({type(error).__name__}: {error}); "
            "install it with: pip install 'ray[tune]'"
        ) from error
    return ray


def start(address: str | None, cpus: int | None, dashboard: bool):
    """Start Ray on this machine (`address` None), or join a cluster at `auto` or `host:port`.

    A Ray started here may use this many `cpus`, None for all. A `ConfigError` if the address does not answer.
    """
    ray = import_ray()
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": False}
    if address is None:
        # "local": without it Ray joins whatever cluster was last started on this machine.
        options |= {"num_cpus": cpus, "include_dashboard": dashboard, "object_store_memory": _OBJECT_STORE_BYTES}
        ray.init("local", **options)
        return ray
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise ConfigError(f"address='{address}' must be 'auto' or host:port, for example 10.0.0.1:6379")
    try:
        if address != "auto":  # Ray itself would wait for minutes
            socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ConfigError(
            f"address='{address}': no Ray cluster answers ({reason}); start one with 'ray start --head', or leave "
            "--address out"
        ) from error
    return ray


def report(metrics: Mapping[str, Any]) -> None:
    """Report to Ray how a trial stands, from inside it; does not return if the trial is stopped here."""
    from ray import tune

    if hasattr(tune, "RunConfig"):
        tune.report(dict(metrics))
    else:
        from ray.air import session

        session.report(dict(metrics))


def run(trainable: Callable, resources: Mapping, callback, max_failures: int, folder: str, **search: Any) -> None:
    """All trials of a sweep through Ray's ``Tuner``; returns when they have ended or the user has interrupted them.

    Args:
        trainable: a function of a trial's configuration.
        resources: of one trial, `cpu` and `gpu`.
        max_failures: restarts of a trial whose process or node died.
        folder: for Ray's own files.
        **search: arguments of ``ray.tune.TuneConfig``, which are the same under both versions.
    """
    from ray import tune

    options: dict[str, Any] = {"name": "ray", "storage_path": folder, "callbacks": [callback], "verbose": 0}
    configs: Any = tune
    if not hasattr(tune, "RunConfig"):
        from ray import air

        configs = air
        # Nothing is copied between nodes: trials write to the sweep's folder.
        options["sync_config"] = tune.SyncConfig(syncer=None)
    if "reuse_actors" in inspect.signature(tune.TuneConfig).parameters:
        search["reuse_actors"] = False  # a new process for each trial: nothing of the one before is left in it
    failures = configs.FailureConfig(max_failures=max_failures)
    tune.Tuner(
        tune.with_resources(trainable, dict(resources)),
        tune_config=tune.TuneConfig(trial_name_creator=_trial_name, trial_dirname_creator=_trial_name, **search),
        run_config=configs.RunConfig(failure_config=failures, **options),
    ).fit()


def _trial_name(trial) -> str:
    return f"{trial.config['number']:04d}-{trial.trial_id}"


def make_scheduler(name: str, *, max_epochs: int, grace_period: int, reduction_factor: float):
    """ASHA or median stopping on `score` by `epoch`; None for `none`."""
    from ray.tune import schedulers

    common: dict[str, Any] = {"time_attr": "epoch", "grace_period": grace_period, "metric": "score", "mode": "max"}
    if name == "asha":
        # The last rung does not stop trials: they end by themselves, and a trial at its end is not one stopped early.
        return schedulers.ASHAScheduler(
            max_t=max_epochs, reduction_factor=reduction_factor, stop_last_trials=False, **common
        )
    return schedulers.MedianStoppingRule(min_samples_required=2, **common) if name == "median" else None


def make_optuna(parameters, seed: int):
    """Ray's Optuna searcher over the parameters of a :class:`recbole_tiger.hpo.space.Space`, lists by their positions;
    a `ConfigError` if Optuna is not installed."""
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch
    except ImportError as error:
        raise ConfigError(
            "search=optuna needs Optuna, which is not installed: pip install optuna (or the extra "
            "'recbole-tiger[optuna]')"
        ) from error
    from ray import tune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {}
    for parameter in parameters:
        kind, values = parameter.domain.kind, parameter.domain.values
        if kind == "randint":
            space[parameter.name] = tune.randint(values[0], values[1] + 1)
        elif kind in ("uniform", "loguniform"):
            space[parameter.name] = getattr(tune, kind)(*values)
        else:
            space[parameter.name] = tune.choice(list(range(len(parameter.domain.choices))))
    return OptunaSearch(OptunaSearch.convert_search_space(space), metric="score", mode="max", seed=seed)


def node_id() -> str:
    """The node that this process runs on, the first digits of its name."""
    import ray

    return ray.get_runtime_context().get_node_id()[:12]
