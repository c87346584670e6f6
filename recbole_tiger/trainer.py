"""Trainers: RecBole's loop with selection on unrounded scores, safe checkpoints, exact resume and top-k evaluation.

Comes in: RecBole's data loaders and a model. Goes out: a run folder with ``best.pth`` and ``last.pth``, and metrics.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import dict2str, get_local_time, set_color
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_tiger import processes
from recbole_tiger.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from recbole_tiger.config import check_arithmetic, plain_settings, precision_of
from recbole_tiger.data.batches import Batches, TrainingExamples, TrainingWindows
from recbole_tiger.decoding import BeamResult
from recbole_tiger.errors import ConfigError, TrainingStopped
from recbole_tiger.evaluation.evaluator import (
    Ranks,
    collect_topk,
    expected_metrics,
    metrics_of_ranks,
    tied_places,
    topk_of_scores,
    unrounded_evaluator,
)
from recbole_tiger.leaderboard.table import PLACES
from recbole_tiger.nn import RowAdamW, WeightAverage

#: Steps between two looks at the losses: each look waits for the device (not on a CPU, where every step is looked at).
NAN_CHECK_STEPS = 50
#: Adafactor: the size that weights which start at zero count as, at the least.
ZERO_START_SIZE = 0.1
#: When a run ends; larger, they let one that has ended go on.
END_KEYS = ("epochs", "max_steps", "max_seconds", "stopping_step")
#: Settings that may be others when a run is continued. Of the rest each is what the weights so far were trained under.
MAY_CHANGE = (PLACES - {"seed"}) | {
    *END_KEYS,
    *"eval_step eval_steps eval_batch_size decode_batch_size compile pre_model_path reproducibility encoding".split(),
    *"metric_decimal_place loss_decimal_place log_wandb wandb_project".split(),
}


@contextmanager
def on_sigterm(handle: Callable[[], None]):
    """Call `handle` on SIGTERM, between two steps of Python; outside of the main thread signals stay as they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: handle())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class SafeTrainer(Trainer):
    """RecBole's trainer for any sequential model, with what the benchmark promises.

    Attributes:
        run_dir (Path): everything that this run writes.
        seconds (dict): time spent in "training" and "validation".
        ranks (Ranks): of the last evaluation.
        id_level (dict): metrics of the last evaluation if IDs counted instead of items; None where they are the same.
    """

    def __init__(self, config, model):
        if not config["single_spec"]:
            raise ConfigError(
                "RecBole's own run() starts several processes in its own way, which sees some examples twice; use "
                "recbole_tiger.run_recbole_tiger, or python run_recbole_tiger.py --nproc=…"
            )
        Path(config["checkpoint_dir"]).mkdir(parents=True, exist_ok=True)  # two processes at once break RecBole's way
        super().__init__(config, model)
        self.run_dir = Path(processes.from_main(lambda: str(config["run_dir"] or self._new_run_dir())))
        if processes.is_main():
            self.run_dir.mkdir(parents=True, exist_ok=True)
        self.saved_model_file = str(self.run_dir / "best.pth")
        self.last_model_file = str(self.run_dir / "last.pth")
        self.valid_metric = config["valid_metric"].lower()
        self.evaluator = unrounded_evaluator(config)
        self.seconds = {"training": 0.0, "validation": 0.0}
        self.examples_seen = 0
        self.finished = False
        self.ranks: Ranks | None = None
        self.id_level: dict | None = None
        self._loader_state = None
        self._history: list[dict] = []
        self._progress = (0, 0.0)  # steps of the unfinished epoch, and the sum of their losses
        self._clock = perf_counter()

    def _new_run_dir(self) -> Path:
        name = f"{self.config['model']}-{self.config['dataset']}-{get_local_time()}-{secrets.token_hex(3)}"
        return Path(self.checkpoint_dir) / name

    # ------------------------------------------------------------------------------------------------- checkpoints

    def state(self, epoch: int) -> dict:
        """Everything that training after ``epoch`` depends on; all processes ask for it together."""
        own_state, *other_states = processes.gather(random_state())
        return {
            "config": plain_settings(self.config),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": None if self.best_valid_result is None else dict(self.best_valid_result),
            "history": self._history,
            "seconds": self.seconds,
            "examples_seen": self.examples_seen,
            "progress": list(self._progress),
            "state_dict": self.model.state_dict(),
            "other_parameter": self._plain_other_parameter(),
            "optimizer": self.optimizer.state_dict(),
            "random_state": own_state,
            "other_random_states": other_states,
            "loader_state": self._loader_state,
        }

    def _plain_other_parameter(self) -> dict:
        """The model's other parameters without modules, whose weights are in ``state_dict`` already (FDSA)."""
        other = self.model.other_parameter() or {}
        return {key: value for key, value in other.items() if not isinstance(value, torch.nn.Module)}

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Write a checkpoint whole or not at all; RecBole's own pickles the ``Config``."""
        state = self.state(epoch)
        if not processes.is_main():
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        try:
            save_checkpoint(path, state)
        except OSError as error:
            raise OSError(
                f"cannot write the checkpoint '{path}' ({error.strerror or error}): make room or set --checkpoint_dir; what "
                f"was written before is whole, and --resume={self.last_model_file} continues it"
            ) from error
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def resume_checkpoint(self, resume_file):
        """Continue a run from a checkpoint, in the folder that the checkpoint lies in.

        A run that has ended goes on where `epochs`, `max_steps`, `max_seconds` or `stopping_step` are now larger; after
        `max_steps` within an epoch, with the next one.

        Raises:
            CheckpointError: for a damaged or foreign file.
            ConfigError: for a checkpoint of another model or dataset, or of a run with other settings, or without the
                best epoch's beside it.
        """
        checkpoint = self._read_checkpoint(resume_file)
        for key in ("model", "dataset"):
            if checkpoint["config"][key] != self.config[key]:
                raise ConfigError(
                    f"resume='{resume_file}' is a checkpoint of {key}={checkpoint['config'][key]}, not of "
                    f"{key}={self.config[key]}; name the same {key}"
                )
        self._check_same_run(resume_file, checkpoint)
        self.run_dir = Path(resume_file).resolve().parent
        self.saved_model_file = str(self.run_dir / "best.pth")
        self.last_model_file = str(self.run_dir / "last.pth")
        self.start_epoch = checkpoint["epoch"] + 1
        self.cur_step = checkpoint["cur_step"]
        self.best_valid_score = checkpoint["best_valid_score"]
        self.best_valid_result = checkpoint["best_valid_result"]
        self.seconds = checkpoint["seconds"]
        self.finished = self.cur_step > self.stopping_step or self._is_last(checkpoint["epoch"])
        self.examples_seen = checkpoint["examples_seen"]
        self._progress = tuple(checkpoint["progress"])
        self._history = checkpoint["history"]
        self._load_weights(checkpoint)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self._loader_state = checkpoint["loader_state"]
        random_states = [checkpoint["random_state"], *checkpoint.get("other_random_states", [])]
        if processes.rank() < len(random_states):
            set_random_state(random_states[processes.rank()])
        else:  # more processes than before: these begin sequences that none has drawn from
            processes.seed_generators(self.config, checkpoint["epoch"] + 1, self._progress[0])
        self.logger.info(f"Resuming {resume_file} after epoch {checkpoint['epoch']}")
        return checkpoint

    def _check_same_run(self, resume_file, checkpoint: dict) -> None:
        """Raise where going on would mix two runs, or test another epoch than the best."""
        before, now = checkpoint["config"], json.loads(json.dumps(plain_settings(self.config)))
        before = json.loads(json.dumps(before))
        other = [key for key in sorted(before.keys() & now) if key not in MAY_CHANGE and before[key] != now[key]]
        if other:
            shown = ", ".join(f"{key}={before[key]} (now {now[key]})" for key in other[:8])
            more = f" and {len(other) - 8} more" if len(other) > 8 else ""
            raise ConfigError(
                f"resume='{resume_file}' is of a run with {shown}{more}; give the same settings as then, or start a run of its own "
                f"without resume (what may change: {', '.join(END_KEYS)})"
            )
        best = Path(resume_file).resolve().parent / "best.pth"
        if checkpoint["best_valid_result"] is not None and not self._is_written(str(best)):
            raise ConfigError(
                f"resume='{resume_file}' needs the best epoch of its run, best.pth, beside it; copy both files together"
            )

    @staticmethod
    def _read_checkpoint(path) -> dict:
        """A checkpoint's content on the CPU; the first process reads it for all, which may be on other machines."""
        return processes.from_main(lambda: load_checkpoint(path))

    def _load_weights(self, checkpoint: dict) -> None:
        self.model.load_state_dict(checkpoint["state_dict"])
        self.model.load_other_parameter(checkpoint.get("other_parameter"))

    # ------------------------------------------------------------------------------------------------------ training

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Train until `epochs`, early stopping or `max_steps`; RecBole's signature and return value.

        The best epoch is the first with the highest unrounded validation score; a tie does not reset patience.
        """
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        if self._loader_state is not None:
            train_data.generator.set_state(self._loader_state.cpu())
        self._valid_data, self._saved, self._callback = valid_data, saved, callback_fn
        if saved and not self._is_written(self.last_model_file):
            # So that a run can be continued from its first step on.
            self._save_checkpoint(self.start_epoch - 1, verbose=False, saved_model_file=self.last_model_file)
        with on_sigterm(self._request_stop):
            for epoch in range(self.start_epoch, self.epochs):
                if self.finished:
                    break
                self._fit_epoch(epoch, train_data, valid_data, verbose, saved, show_progress, callback_fn)
        if saved and not self._is_written(self.saved_model_file):
            self._save_checkpoint(self.epochs - 1, verbose=verbose)
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    @staticmethod
    def _is_written(path: str) -> bool:
        return processes.from_main(lambda: os.path.exists(path))

    def _request_stop(self) -> None:
        """What SIGTERM does: end now; the checkpoint of the last whole epoch stands, and resuming repeats the rest."""
        raise TrainingStopped(f"stopped by SIGTERM; continue with --resume={self.last_model_file}")

    def _fit_epoch(self, epoch, train_data, valid_data, verbose, saved, show_progress, callback_fn):
        taken_before = self.seconds["training"]
        started = self._clock = perf_counter()
        loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
        self._count_training()
        trained = started + self.seconds["training"] - taken_before
        self.finished = self.finished or self._is_last(epoch)
        self.train_loss_dict[epoch] = sum(loss) if isinstance(loss, tuple) else loss
        record = {"epoch": epoch, "train_loss": float(self.train_loss_dict[epoch]), "seconds": trained - started}
        if verbose:
            self.logger.info(self._generate_train_loss_output(epoch, started, trained, loss))
        self._add_train_loss_to_tensorboard(epoch, loss)
        rate = self.optimizer.param_groups[0]["lr"]
        self.tensorboard.add_scalar("Learning_rate", rate, epoch)
        self.wandblogger.log_metrics(
            {"epoch": epoch, "train_loss": loss, "learning_rate": rate, "train_step": epoch}, head="train"
        )

        improved = False
        if valid_data and self._validation_is_due(epoch):
            improved, result = self._validate(epoch, valid_data, verbose, show_progress)
            record["valid"] = dict(result)
        self.tensorboard.flush()
        self._history.append(record)
        self._progress = (0, 0.0)
        self._loader_state = train_data.generator.get_state()
        if saved:
            if improved or not valid_data:
                self._save_checkpoint(epoch, verbose=verbose)
            self._save_checkpoint(epoch, verbose=False, saved_model_file=self.last_model_file)
        if callback_fn and "valid" in record:  # after the checkpoints, since it may end this process (hpo)
            callback_fn(epoch, record["valid"][self.valid_metric])

    def _count_training(self) -> None:
        """Add the time since the last count, or since training went on, to what training took."""
        now = perf_counter()
        self.seconds["training"] += now - self._clock
        self._clock = now

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """RecBole's epoch; the sum of the batches' losses.

        Several processes go through the same batches in the same order, each with its share of the rows, and the step
        is that of the whole batch.
        """
        if processes.count() == 1:
            return super()._train_epoch(train_data, epoch_idx, loss_func, show_progress)
        self.model.train()
        loss_func = loss_func or self.model.calculate_loss
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        total_loss = 0.0
        bar = tqdm(
            processes.loader_shares(train_data),
            total=len(train_data),
            ncols=100,
            desc=set_color(f"Train {epoch_idx:>5}", "pink"),
            disable=None if show_progress else True,
        )
        for _, interaction in bar:
            self.optimizer.zero_grad()
            loss, n_targets = torch.zeros((), device=self.device), 0
            if interaction is not None:
                interaction = interaction.to(self.device)
                n_targets = self._targets_before(interaction)
            if n_targets:
                with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                    loss = loss_func(interaction)
                n_targets = getattr(self.model, "n_targets", n_targets)
            scaled = scaler.scale(loss)
            if n_targets:
                scaled.backward()
            loss, _ = processes.average_gradients(parameters, loss, n_targets)
            self._check_nan(loss)
            if self.clip_grad_norm:
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            scaler.step(self.optimizer)
            scaler.update()
            total_loss += loss.item()
        return total_loss

    def _targets_before(self, interaction) -> int:
        """How many targets the loss of a batch is the mean over: its rows, or what RecBole's BERT4Rec has masked in them.

        A model that chooses its targets itself says in `n_targets` how many they were.
        """
        masked = self.config["MASK_INDEX"]
        return int((interaction[masked] > 0).sum()) if masked in interaction else len(interaction)

    def _validation_is_due(self, epoch: int) -> bool:
        """Whether to validate at the end of an epoch: every `eval_step` epochs, and after the last."""
        if self.eval_step <= 0:
            return False
        return (epoch + 1) % self.eval_step == 0 or self.finished

    def _is_last(self, epoch: int) -> bool:
        """Whether no epoch follows: there were `epochs`, or training has taken `max_seconds` by the first process's clock."""
        limit = self.config["max_seconds"]
        taken = processes.from_main(lambda: self.seconds["training"]) if limit else 0.0
        return epoch + 1 >= self.epochs or bool(limit and taken >= limit)

    def _validate(self, epoch, valid_data, verbose, show_progress) -> tuple[bool, dict]:
        started = perf_counter()
        result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        score = result[self.valid_metric]
        seconds = perf_counter() - started
        self.seconds["validation"] += seconds
        improved = score > self.best_valid_score if self.valid_metric_bigger else score < self.best_valid_score
        if improved:
            self.best_valid_score, self.best_valid_result, self.cur_step = score, result, 0
        else:
            self.cur_step += 1
            if self.cur_step > self.stopping_step:
                self.finished = True
        if verbose:
            self.logger.info(
                set_color(f"epoch {epoch} evaluating", "green")
                + f" [time: {seconds:.2f}s, valid_score: {score:.6f}{', best so far' if improved else ''}]"
            )
            self.logger.info(set_color("valid result", "blue") + ": \n" + dict2str(self.rounded(result)))
        place = self._place_of_validation(epoch)
        self.tensorboard.add_scalar("Vaild_score", score, place)  # RecBole's own spelling: dashboards know it
        for name, value in result.items():
            self.tensorboard.add_scalar(f"Valid/{name.replace('@', '_')}", value, place)
        self.wandblogger.log_metrics({**result, "valid_step": place}, head="valid")
        return bool(improved), result

    def _place_of_validation(self, epoch: int) -> int:
        """Where a validation stands on the axis of TensorBoard and wandb: its epoch."""
        return epoch

    def rounded(self, result: dict) -> dict:
        """Metrics as they are printed, with `metric_decimal_place` digits."""
        return {name: round(float(value), self.config["metric_decimal_place"]) for name, value in result.items()}

    def _check_nan(self, loss):
        if torch.isnan(loss):
            raise ValueError("the training loss is NaN: lower learning_rate or set clip_grad_norm: {max_norm: 1.0}")

    # ---------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Full-sort metrics of a validation or test loader, unrounded; RecBole's signature.

        Where items share Semantic IDs (`collision=none`), the order of those of one ID is a matter of luck: metrics are
        expected ones over all orders, and :attr:`id_level` holds what counting IDs instead of items would give.

        Side effect: :attr:`ranks` holds every user's rank.
        """
        if not eval_data:
            return None
        if not isinstance(eval_data, FullSortEvalDataLoader):
            raise ConfigError("eval_args mode: only the full ranking is evaluated; use mode: full")
        if load_best_model:
            path = model_file or self.saved_model_file
            self._load_weights(self._read_checkpoint(path))
            self.logger.info(f"Loading model structure and parameters from {path}")
        self.model.eval()
        self.item_tensor = eval_data._dataset.get_item_feature()
        processes.check_weights(list(self.model.parameters()))
        bar = tqdm(
            processes.loader_shares(eval_data),
            total=len(eval_data),
            ncols=100,
            desc=set_color("Evaluate   ", "pink"),
            disable=None if show_progress else True,
        )
        k = max(self.config["topk"])
        places, users, ranks, ties, id_ranks = [], [], [], [], []
        for rows, batch in bar:
            self._stop_if_asked()
            if batch is None:
                continue
            interaction, history_index, _, target = batch
            places += rows
            interaction = interaction.to(self.device)
            seen = self._seen_items(eval_data, interaction) if self.config["mask_seen_items"] else None
            target = target.to(self.device)
            found = self._topk(interaction, k, seen, history_index)
            rank = collect_topk(self.eval_collector, found.items, target)
            if found.ids is not None:
                reachable = (
                    torch.ones_like(target, dtype=torch.bool) if seen is None else (seen != target[:, None]).all(1)
                )
                rank, tie, id_rank = tied_places(
                    found.ids, found.id_counts, self.model.trie.leaf_of(target), reachable, k
                )
                ties.append(tie.cpu())
                id_ranks.append(id_rank.cpu())
            ranks.append(rank.cpu())
            users.append(interaction[self.config["USER_ID_FIELD"]].cpu())
        columns = [torch.cat(column) for column in (users, ranks, ties, id_ranks) if column]
        columns = processes.assemble(torch.stack(columns, 1), places, eval_data.sample_size)
        self.ranks = Ranks(*columns.T.contiguous().numpy())
        self.eval_collector.model_collect(self.model)
        collected = self.eval_collector.get_data_struct()
        for name in ("rec.topk", "rec.items"):
            if name in collected:
                collected.set(name, processes.assemble(collected.get(name), places, eval_data.sample_size))
        result, self.id_level = processes.from_main(lambda: self._metrics(collected))
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def _metrics(self, collected) -> tuple[dict, dict | None]:
        """Metrics of items and of IDs, from all users' lists and :attr:`ranks`."""
        result = self.evaluator.evaluate(collected)
        if self.ranks.ties is None:
            return result, None
        result.update(expected_metrics(self.config, self.ranks.ranks, self.ranks.ties))
        return result, metrics_of_ranks(self.config, self.ranks.id_ranks)

    def _stop_if_asked(self) -> None:
        """End an evaluation that was asked to stop, in all processes before the same batch."""

    def _seen_items(self, eval_data, interaction) -> torch.Tensor:
        dataset = eval_data._dataset
        users = interaction[self.config["USER_ID_FIELD"]].cpu().numpy()
        return torch.from_numpy(dataset.sequences.seen_before(users, dataset.phase)).to(self.device)

    def _topk(self, interaction, k: int, seen: torch.Tensor | None, history_index=None) -> BeamResult:
        """The k best items of each row; here from a model that scores all items."""
        try:
            scores = self.model.full_sort_predict(interaction).view(len(interaction), -1)
        except NotImplementedError:  # DIN, DIEN: a score for one pair of history and item at a time
            scores = torch.stack(
                [self._scores_of_all_items(interaction[row : row + 1]) for row in range(len(interaction))]
            )
        if history_index is not None:
            scores[history_index] = -torch.inf
        return BeamResult(topk_of_scores(scores, k, seen), scores)

    def _scores_of_all_items(self, one) -> torch.Tensor:
        """Scores [n_items] of the items after one row's history, from a model that only has ``predict``."""
        items = self.item_tensor.to(self.device)
        pairs = one.repeat_interleave(len(items))
        pairs.update(items)
        return self.model.predict(pairs).view(-1)


class S3RecTrainer(SafeTrainer):
    """S3Rec's two stages; the first has no validation and ends after `pretrain_epochs`."""

    def pretrain(self, train_data, verbose=True, show_progress=False) -> str:
        """Self-supervised stage; returns the file that the second stage starts from."""
        path, limit = str(self.run_dir / "pretrained.pth"), self.config["max_seconds"]
        for epoch in range(self.config["pretrain_epochs"]):
            started = perf_counter()
            loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
            self.seconds["training"] += perf_counter() - started
            if verbose:
                self.logger.info("pre" + self._generate_train_loss_output(epoch, started, perf_counter(), loss))
            self._add_train_loss_to_tensorboard(epoch, loss, tag="Loss/Pretrain")
            if limit and processes.from_main(lambda: self.seconds["training"]) >= limit:
                self._save_checkpoint(epoch, verbose=False, saved_model_file=path)
                raise ConfigError(
                    f"max_seconds={limit} ended in epoch {epoch + 1} of pretrain_epochs={self.config['pretrain_epochs']}, before "
                    f"S3Rec's second stage; raise max_seconds, or set --pre_model_path={path} to begin with that stage"
                )
        self._save_checkpoint(self.config["pretrain_epochs"] - 1, verbose=False, saved_model_file=path)
        return path


class TIGERTrainer(SafeTrainer):
    """Trainer of the generative models: batches as index tensors, step-wise schedules, beam search in evaluation, and averaged
    weights (`ema_decay`), which are the ones evaluated and kept."""

    def __init__(self, config, model):
        self.global_step = 0
        super().__init__(config, model)
        self.max_steps = config["max_steps"] or 0
        self.eval_steps = config["eval_steps"] or 0
        self._validated_at = 0  # step of the last validation
        self._stopping = False
        self._epoch = 0
        self._steps_per_epoch = 0
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._learning_rate_factor)
        self._examples: TrainingExamples | TrainingWindows | None = None
        self._look_steps = 1 if self.device.type == "cpu" else NAN_CHECK_STEPS
        self.precision = precision_of(config)
        self.average: WeightAverage | None = None
        if config["ema_decay"]:
            self.average = WeightAverage(model.parameters(), config["ema_decay"])
            self.optimizer.register_step_post_hook(lambda *_: self.average.update())
        self._loss_func = model.calculate_loss
        if config["compile"]:
            self._loss_func = torch.compile(model.calculate_loss, dynamic=True)

    def fit(self, *args, **kwargs):
        """As in the base class; how to compute is checked here once more for RecBole's own ``run_recbole``."""
        check_arithmetic(self.config)
        return super().fit(*args, **kwargs)

    def _build_optimizer(self, **kwargs):
        """RecBole's optimizers and Adafactor; weight decay on matrices only (norms are scales, not weights).

        Adafactor's step is relative to the size of a weight, and what starts at zero would hardly start at all: it counts
        as being of size `ZERO_START_SIZE` until it is larger.
        """
        learner, rate, decay = self.config["learner"], self.config["learning_rate"], self.config["weight_decay"] or 0.0
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": decay},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        classes = {
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
            "sgd": torch.optim.SGD,
            "adagrad": torch.optim.Adagrad,
            "rmsprop": torch.optim.RMSprop,
            "adafactor": getattr(torch.optim, "Adafactor", None),
        }
        if classes.get(learner) is None:
            usable = ", ".join(name for name, value in classes.items() if value is not None)
            raise ConfigError(f"learner='{learner}' cannot train {self.config['model']} here; choose one of {usable}")
        options = {"fused": True} if learner in ("adam", "adamw") else {}
        if learner == "adafactor":
            zero = {id(p) for p in parameters if p.numel() and not p.detach().any()}
            started = [{**g, "params": [p for p in g["params"] if id(p) in zero]} for g in groups]
            groups = [{**g, "params": [p for p in g["params"] if id(p) not in zero]} for g in groups]
            groups += [{**g, "eps": (None, ZERO_START_SIZE)} for g in started if g["params"]]
        return classes[learner](groups, lr=rate, **options)

    def _learning_rate_factor(self, step: int) -> float:
        """Factor on `learning_rate` at a step, from 0.

        constant: 1. inverse_sqrt: 1 for `warmup_steps`, then sqrt(warmup_steps / step), which is the paper's
        "0.01 for the first 10k steps and then follows an inverse square root decay" (4.1.3). cosine: linear from 0
        over `warmup_steps`, then half a cosine down to 0 at `max_steps`.
        """
        kind, warmup = self.config["lr_scheduler"], int(self.config["warmup_steps"] or 0)
        if kind == "inverse_sqrt":
            return math.sqrt(max(warmup, 1) / max(step, warmup, 1))
        if kind == "cosine":
            total = self.max_steps
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))
        return 1.0

    def state(self, epoch: int) -> dict:
        own = {
            "global_step": self.global_step,
            "validated_at": self._validated_at,
            "scheduler": self.scheduler.state_dict(),
        }
        if self.average is not None:
            with self.average.shown(False):
                own |= {"trained_state_dict": self.model.state_dict(), "averaged_steps": self.average.steps}
        with self._averaged():
            return {**super().state(epoch), **own}

    def _averaged(self):
        """A `with` block in which the model has its averaged weights, where there are any."""
        return nullcontext() if self.average is None else self.average.shown(True)

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        with self._averaged():
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def _load_weights(self, checkpoint: dict) -> None:
        super()._load_weights(checkpoint)
        if self.average is not None:
            self.average.restart(checkpoint.get("averaged_steps", 0))

    def resume_checkpoint(self, resume_file):
        checkpoint = super().resume_checkpoint(resume_file)
        if "trained_state_dict" in checkpoint:
            self.model.load_state_dict(checkpoint["trained_state_dict"])
        self.global_step = checkpoint["global_step"]
        self._validated_at = checkpoint["validated_at"]
        self.finished = self.finished or 0 < self.max_steps <= self.global_step
        self.scheduler.load_state_dict(checkpoint["scheduler"])
        return checkpoint

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """One pass over all training prefixes, or the rest of one; the mean loss of a step."""
        if self._examples is None:
            self._examples = self._make_examples(train_data._dataset)
        self._epoch = epoch_idx
        self.model.train()
        loss_func = loss_func or self._loss_func
        batches = self._examples.batches(self.config["train_batch_size"], seed=(self.config["seed"], epoch_idx))
        steps, loss_sum = self._progress
        self._steps_per_epoch = len(batches)
        bar = self._progress_bar(batches, steps, show_progress)
        batches = batches.after(steps)
        total = torch.full((), loss_sum, device=self.device)
        recent: list[torch.Tensor] = []  # losses that were not looked at
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for batch, share in zip(batches, batches.n_targets, strict=True):
            if self.max_steps and self.global_step >= self.max_steps:
                self.finished = True
            elif self.eval_steps and self.global_step % self.eval_steps == 0 and self.global_step > self._validated_at:
                self._progress = (steps, float(total))
                self._validate_midway(show_progress)
            if self.finished:
                break
            if processes.any_of(self._stopping):
                self._progress = (steps, float(total))
                self._count_training()
                self._stop()
            self.optimizer.zero_grad(set_to_none=True)
            loss = total.new_zeros(())
            if share:  # a small batch may have no row for this process
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = loss_func(batch)
                loss.backward()
            loss, n_targets = processes.average_gradients(parameters, loss, share)
            if self.clip_grad_norm:
                clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
            self.optimizer.step()
            self.scheduler.step()
            total += loss.detach()
            recent.append(loss.detach())
            self.global_step += 1
            self.examples_seen += n_targets
            steps += 1
            bar.update(share)
            if steps % self._look_steps == 0:
                self._check_losses(total, recent, steps, bar)
                recent = []
        self._check_losses(total, recent, steps, bar)
        bar.close()
        self._progress = (steps, float(total))
        if self.max_steps and self.global_step >= self.max_steps:
            self.finished = True
        return float(total) / max(steps, 1)

    def _request_stop(self) -> None:
        self._stopping = True  # seen by all processes before the next step, or the next batch of an evaluation

    def _stop(self) -> None:
        """Write where training stands and end it; resumed, it is as if it had never stopped."""
        if not self._saved:
            raise TrainingStopped("stopped by SIGTERM; nothing was saved, since the run was told to save nothing")
        self._save_checkpoint(self._epoch - 1, verbose=False, saved_model_file=self.last_model_file)
        raise TrainingStopped(
            f"stopped by SIGTERM after step {self.global_step}; continue with --resume={self.last_model_file}"
        )

    def _validate_midway(self, show_progress: bool) -> None:
        """Validation every `eval_steps` steps, within an epoch."""
        self._count_training()
        improved, result = self._validate(self._epoch, self._valid_data, True, show_progress)
        passed = self._epoch + self._progress[0] / self._steps_per_epoch
        record = {"epoch": self._epoch, "step": self.global_step, "epochs": passed, "valid": dict(result)}
        self._history.append(record)
        self.model.train()
        if self._saved:
            if improved:
                self._save_checkpoint(self._epoch - 1)
            self._save_checkpoint(self._epoch - 1, verbose=False, saved_model_file=self.last_model_file)
        if self._callback:
            self._callback(self._epoch, result[self.valid_metric])
        self._clock = perf_counter()

    def _validate(self, *arguments) -> tuple[bool, dict]:
        found = super()._validate(*arguments)
        self._validated_at = self.global_step
        return found

    def _place_of_validation(self, epoch: int) -> int:
        """The epoch, or the step where an epoch has several validations."""
        return self.global_step if self.eval_steps else epoch

    def _validation_is_due(self, epoch: int) -> bool:
        if not self.eval_steps:
            return super()._validation_is_due(epoch)
        return self.finished and self._validated_at < self.global_step

    def _make_examples(self, dataset) -> TrainingExamples | TrainingWindows:
        if self.config["encoder_mask"] == "bidirectional":
            return TrainingExamples.from_dataset(dataset, self.config, self.device)
        return TrainingWindows.from_sequences(dataset.sequences, self.config, self.device)

    def _progress_bar(self, batches: Batches, done: int, show_progress: bool) -> tqdm:
        """Examples of this epoch, or of the steps that `max_steps` leaves of it, at so many per second."""
        n_targets = batches.n_targets
        if self.max_steps:
            n_targets = n_targets[: done + max(self.max_steps - self.global_step, 0)]
        return tqdm(
            total=sum(n_targets),
            initial=sum(n_targets[:done]),
            unit=" examples",
            unit_scale=True,
            ncols=100,
            desc=set_color(f"Train {self._epoch:>5}", "pink"),
            disable=None if show_progress else True,
        )

    def _check_losses(self, total: torch.Tensor, recent: list[torch.Tensor], steps: int, bar: tqdm) -> None:
        """Show the mean loss; stop if a loss since the last look is not finite, and say which."""
        if not math.isfinite(float(total)):
            finite = [math.isfinite(float(loss)) for loss in recent]
            back = len(recent) - finite.index(False) if False in finite else 1
            step = self.global_step - back
            raise ValueError(
                f"the training loss is not finite at step {step + 1} (epoch {self._epoch}, batch {steps - back + 1}, learning "
                f"rate {self.config['learning_rate'] * self._learning_rate_factor(step):.2e}): lower learning_rate or set "
                "clip_grad_norm: {max_norm: 1.0}"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        bar.set_postfix_str(f"loss {float(total) / max(steps, 1):.4f}, lr {rate:.1e}", refresh=False)

    def _stop_if_asked(self) -> None:
        if processes.any_of(self._stopping):
            self._stop()

    def _topk(self, interaction, k: int, seen: torch.Tensor | None, history_index=None) -> BeamResult:
        return self.model.recommend(
            interaction[self.config["USER_ID_FIELD"]],
            interaction[self.model.ITEM_SEQ],
            interaction[self.model.ITEM_SEQ_LEN],
            k,
            excluded=seen,
        )


class TIGERTreeTrainer(TIGERTrainer):
    """TIGER's trainer with plainly random batches, since the model packs histories and has no padding to save."""

    def _build_optimizer(self, **kwargs):
        """With `update_rows=touched`, AdamW on the rows that a step reads; it does the clipping too."""
        optimizer = super()._build_optimizer(**kwargs)
        if self.config["update_rows"] == "all":
            return optimizer
        clip, self.clip_grad_norm = self.clip_grad_norm, None
        groups = [{key: group[key] for key in ("params", "weight_decay")} for group in optimizer.param_groups]
        return RowAdamW(
            groups, lr=self.config["learning_rate"], fused=True, max_norm=clip["max_norm"] if clip else None
        )

    def _make_examples(self, dataset) -> TrainingWindows:
        return replace(super()._make_examples(dataset), bucket_batches=1)
