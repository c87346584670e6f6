"""One trial: a run that trains and validates, reports after every validated epoch, and never looks at the test set.

Comes in: settings and a folder. Goes out: records, one after each validated epoch, each telling the whole trial so far.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from recbole_tiger.models import model_spec

#: What a trial leaves in its folder when it fails by its own fault, so that it is not tried again.
FAILED = "failed.json"


def run_trial(settings: Mapping, folder: Path, report: Callable[[dict], None]) -> None:
    """Train one configuration, from its last checkpoint if it has one.

    Args:
        settings: of the run, all paths absolute; `model` and `dataset` among them.
        folder: of this trial alone.
        report: called with the record of :func:`record_of` after each validated epoch; may raise to end the trial.

    Raises:
        ValueError: for settings, data or a loss that cannot work.
    """
    from recbole_tiger.experiment.configuration import build_config
    from recbole_tiger.experiment.run import run_config

    last = folder / "last.pth"
    settings = {**settings, "run_dir": str(folder), "resume": str(last) if last.is_file() else None}
    config = build_config(settings["model"], settings["dataset"], config_dict=settings)
    run_config(config, test=False, on_epoch=lambda trainer, data: report(record_of(trainer, data)))


def record_of(trainer, data) -> dict:
    """A trial so far, in plain values.

    Returns:
        `history`: of every epoch so far `epoch` (from 1), `train_loss`, `seconds`, and `valid` metrics where it was
        validated; `finished`: whether the run has come to its own end; `costs`: see :func:`costs_of`.
    """
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

    model, config = trainer.model, trainer.config
    validation = data.valid._dataset
    lengths = validation.inter_feat[model.ITEM_SEQ_LEN].float()
    validations = sum("valid" in entry for entry in trainer.history)
    costs = {
        "tokens_per_history": None,
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "epoch_seconds": trainer.seconds["training"] / max(len(trainer.history), 1),
        "decode_ms_per_user": 1000 * trainer.seconds["validation"] / max(validations, 1) / len(validation),
    }
    if model_spec(config["model"]).uses_semantic_ids:
        report = model.prepared_ids.table.report()
        tokens = model.prepared_ids.table.codes.shape[1]
        costs["tokens_per_history"] = float(lengths.mean()) * tokens + bool(config["user_buckets"])
        costs["items_in_collisions"] = report["items_in_collisions"]
        costs["usage"] = sum(level["usage"] for level in report["levels"]) / len(report["levels"])
    elif not model_spec(config["model"]).generative:
        costs["tokens_per_history"] = float(lengths.mean())
    return costs


def score_of(record: Mapping, metric: str, bigger: bool) -> tuple[int, float]:
    """Epoch and value of the last validation, the value such that more is better."""
    entry = [entry for entry in record["history"] if "valid" in entry][-1]
    return entry["epoch"], entry["valid"][metric] * (1 if bigger else -1)


def best_of(record: Mapping, metric: str, bigger: bool) -> tuple[int, dict] | None:
    """Epoch and metrics of the best validation, the first of equal ones; None before the first."""
    validated = [entry for entry in record.get("history") or [] if "valid" in entry]
    if not validated:
        return None
    sign = 1 if bigger else -1
    entry = max(validated, key=lambda entry: sign * entry["valid"][metric])
    return entry["epoch"], entry["valid"]


def reason_of(error: BaseException) -> str:
    """Why a trial failed, in a sentence; running out of memory is called so."""
    text = " ".join(str(error).split()) or type(error).__name__
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or any(words in text for words in ("out of memory", "not enough memory", "can't allocate memory")):
        return f"out of memory: {text[:300]}; lower train_batch_size, eval_batch_size, decode_batch_size or the model's sizes"
    if isinstance(error, ValueError):
        return text[:1000]
    return f"{type(error).__name__}: {text[:1000]}"


def reason_of_death(text: str) -> str:
    """Why the process of a trial ended without a word, from what Ray says about it."""
    if "OutOfMemoryError" in text or "memory usage" in text.lower() or "running low on memory" in text:
        return "out of memory: the machine ran low and Ray ended this trial's process; fewer trials at once, or a smaller model"
    if "node" in text.lower() and any(word in text.lower() for word in ("died", "dead", "lost")):
        return "the node that it ran on was lost"
    return "its process was ended from outside (killed, perhaps for lack of memory)"


def make_trainable(folder: str, fixed: Mapping, metric: str, bigger: bool, cpus: float, gpus: float) -> Callable:
    """The function that Ray runs for each trial.

    It is sent to the workers by value and imports this package there, from the same place as here.

    Args:
        folder: that holds one folder for each trial, and that every node can reach.
        fixed: settings of all trials.
        metric: of the score, such as `ndcg@10`.
        bigger: whether more of it is better.
        cpus, gpus: of one trial.
    """
    package_home = str(Path(__file__).resolve().parents[2])
    fixed = json.dumps(dict(fixed))

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
        from recbole_tiger.hpo.trainable import run_in_worker

        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(cpus))))
        run_in_worker({**json.loads(fixed), **json.loads(config["settings"])}, own, metric, bigger, cpus, gpus)

    return trial


def run_in_worker(settings: dict, folder: Path, metric: str, bigger: bool, cpus: float, gpus: float) -> None:
    """One trial inside a Ray worker: its own folder, no arguments of the worker's, the cards that Ray has given it."""
    import torch

    from recbole_tiger.hpo import ray_shim
    from recbole_tiger.io import atomic_write_text

    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # logs and tensorboard files are written to the current folder
    sys.argv = sys.argv[:1]  # RecBole parses the arguments of a process in every Config
    torch.set_num_threads(max(1, int(cpus)))
    if not gpus:
        settings = {**settings, "use_gpu": False}

    node = ray_shim.node_id()

    def report(record: dict) -> None:
        epoch, score = score_of(record, metric, bigger)
        ray_shim.report({"epoch": epoch, "score": score, "node": node, "record": json.dumps(record)})

    try:
        run_trial(settings, folder, report)
    except Exception as error:
        reason = reason_of(error)
        atomic_write_text(folder / FAILED, json.dumps({"reason": reason}))
        raise RuntimeError(reason) from error
