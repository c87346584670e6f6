"""One trial: a run that trains and validates, reports after every validated epoch, and never looks at the test set.

Input: settings and a folder. Output: records, one after each validated epoch, each of the whole trial so far.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from recbole_tiger.experiment.configuration import build_config
from recbole_tiger.experiment.run import run_config
from recbole_tiger.hpo import ray_shim
from recbole_tiger.hpo.sweep import Sweep
from recbole_tiger.io import atomic_write_text
from recbole_tiger.models import model_spec

#: What a trial leaves in its folder when it fails by its own fault, so that it is not tried again.
FAILED = "failed.json"


def run_trial(settings: Mapping, folder: Path, report: Callable[[dict], None]) -> None:
    """Train one configuration, from its last checkpoint if it has one; a `ValueError` for what cannot work.

    Args:
        settings: of the run, all paths absolute; `model` and `dataset` among them.
        folder: of this trial alone.
        report: called with the record of :func:`record_of` after each validated epoch; may raise to end the trial.
    """
    last = folder / "last.pth"
    settings = {**settings, "run_dir": str(folder), "resume": str(last) if last.is_file() else None}
    config = build_config(settings["model"], settings["dataset"], config_dict=settings)
    run_config(config, test=False, on_epoch=lambda trainer, data: report(record_of(trainer, data)))


def record_of(trainer, data) -> dict:
    """The `history`, the `costs` and whether it is `finished` of a :class:`recbole_tiger.hpo.sweep.Trial`."""
    history = [{**entry, "epoch": entry["epoch"] + 1} for entry in trainer.history]
    for entry in history:
        if "valid" in entry:
            entry["valid"] = {name: float(value) for name, value in entry["valid"].items()}
    return {"history": history, "finished": bool(trainer.finished), "costs": costs_of(trainer, data)}


def costs_of(trainer, data) -> dict:
    """What a configuration costs, beside its quality.

    Returns:
        `tokens_per_history`: mean encoder tokens of a validation history; `parameters`: trainable ones;
        `epoch_seconds`: mean of training; `decode_ms_per_user`: validation time; and of models with Semantic IDs
        `items_in_collisions`, and `usage`: the share of codewords in use, a mean over the levels.
    """
    model, validation, traits = trainer.model, data.valid._dataset, model_spec(trainer.config["model"])
    length = float(validation.inter_feat[model.ITEM_SEQ_LEN].float().mean())
    last = trainer.history[-1]  # of an epoch, or of a validation within one, which says how many epochs it comes after
    n_validations = sum("valid" in entry for entry in trainer.history)
    costs = {
        "tokens_per_history": None if traits.generative else length,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "epoch_seconds": trainer.seconds["training"] / last.get("epochs", last["epoch"] + 1),
        "decode_ms_per_user": 1000 * trainer.seconds["validation"] / max(n_validations, 1) / len(validation),
    }
    if traits.uses_semantic_ids:
        report = model.prepared_ids.table.report()
        n_tokens = model.prepared_ids.table.codes.shape[1]
        costs["tokens_per_history"] = length * n_tokens + bool(trainer.config["user_buckets"])
        costs["items_in_collisions"] = report["items_in_collisions"]
        costs["usage"] = sum(level["usage"] for level in report["levels"]) / len(report["levels"])
    return costs


def reason_of(error: BaseException) -> str:
    """Why a trial failed, in a sentence; running out of memory is called so."""
    text = " ".join(str(error).split()) or type(error).__name__
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or any(words in text for words in ("out of memory", "not enough memory", "can't allocate memory")):
        way_out = "lower train_batch_size, eval_batch_size, decode_batch_size or the model's sizes"
        return f"out of memory: {text[:300]}; {way_out}"
    return text[:1000] if isinstance(error, ValueError) else f"{type(error).__name__}: {text[:1000]}"


def reason_of_death(text: str) -> str:
    """Why the process of a trial ended without an error of its own, from what Ray says about it."""
    lowered = text.lower()
    if "OutOfMemoryError" in text or "memory usage" in lowered or "running low on memory" in lowered:
        way_out = "run fewer trials at once, or a smaller model"
        return f"out of memory: the machine ran low and Ray ended this trial's process; {way_out}"
    if "node" in lowered and any(word in lowered for word in ("died", "dead", "lost")):
        return "the node that it ran on was lost"
    return "its process was killed, perhaps for lack of memory"


def make_trainable(sweep: Sweep, resources: Mapping[str, float]) -> Callable:
    """The function that Ray runs for each trial, with `cpu` and `gpu` of one; every node can reach the sweep's folder.

    It is sent to the workers by value, and imports this package there from the same place as here.
    """
    package_home = str(Path(__file__).resolve().parents[2])
    folder, selection = str(sweep.trials_folder), (sweep.metric, sweep.sign)
    n_threads, use_gpu = max(1, int(resources["cpu"])), bool(resources["gpu"])
    settings = {
        "model": sweep.model,
        "dataset": sweep.dataset,
        **sweep.settings,
        "data_path": sweep.base["data_path"],
        "cache_dir": sweep.base["cache_dir"],
        "checkpoint_dir": folder,
        "show_progress": False,
        **({} if use_gpu else {"use_gpu": False}),
    }
    fixed = json.dumps(settings)

    def trial(config: dict) -> None:
        import json
        import os
        import sys
        from pathlib import Path

        own = Path(folder) / f"{config['number']:04d}"
        if (own / "failed.json").is_file():  # it has failed by its own fault: no second try after a restart
            raise RuntimeError(json.loads((own / "failed.json").read_text(encoding="utf-8"))["reason"])
        if package_home not in sys.path:
            sys.path.insert(0, package_home)
        os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
        from recbole_tiger.hpo.trainable import run_in_worker

        run_in_worker({**json.loads(fixed), **json.loads(config["settings"])}, own, *selection, n_threads)

    return trial


def run_in_worker(settings: dict, folder: Path, metric: str, sign: int, n_threads: int) -> None:
    """One trial inside a Ray worker: its own folder, no arguments of the worker's, the cards that Ray has given it."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # logs and tensorboard files are written to the current folder
    sys.argv = sys.argv[:1]  # RecBole parses the arguments of a process in every Config
    torch.set_num_threads(n_threads)
    node = ray_shim.node_id()

    def report(record: dict) -> None:
        last = [entry for entry in record["history"] if "valid" in entry][-1]
        value = last["valid"][metric]
        score = -math.inf if math.isnan(value) else sign * value
        ray_shim.report({"epoch": last["epoch"], "score": score, "node": node, "record": json.dumps(record)})

    try:
        run_trial(settings, folder, report)
    except Exception as error:
        reason = reason_of(error)
        atomic_write_text(folder / FAILED, json.dumps({"reason": reason}))
        raise RuntimeError(reason) from error
