"""The trainer of every sequential model: RecBole's loop, with selection on unrounded scores and exact resume.

Input: RecBole's data loaders and a model. Output: a run folder with ``best.pth`` and ``last.pth``, and metrics.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import dict2str, get_local_time, set_color
from torch.nn.utils import parametrize

from recbole_tiger.data.identity import data_identity
from recbole_tiger.decoding import BeamResult
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError, TrainingStopped
from recbole_tiger.evaluation import evaluator
from recbole_tiger.evaluation.evaluator import Ranks
from recbole_tiger.io import make_folder
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.signals import on_sigterm
from recbole_tiger.training.checkpoint import load_checkpoint, random_state, save_checkpoint, set_random_state
from recbole_tiger.training.finite import check_loss, check_weights
from recbole_tiger.training.optimizers import take_step
from recbole_tiger.training.progress import TimedTrainer
from recbole_tiger.training.ranking import rank_loader, scores_of_all_items
from recbole_tiger.training.resume import check_same_run, is_written


@dataclass(frozen=True)
class FitOptions:
    """Arguments of :meth:`SequentialTrainer.fit`, which are RecBole's."""

    valid_data: Any = None
    verbose: bool = True
    saved: bool = True
    show_progress: bool = False
    callback: Callable[[int, float], None] | None = None


class SequentialTrainer(TimedTrainer, Trainer):
    """RecBole's trainer for any sequential model, with what the benchmark promises.

    Attributes:
        run_dir (Path): everything that this run writes.
        seconds (dict): time spent in "training" and "validation".
        examples_seen (int): training examples so far, where the trainer counts them.
        history (list): a record of each epoch, and of each validation within one.
        ranks (Ranks): of the last evaluation.
        data (dict): what the checkpoint says of the data, from `data_identity`; None before it is known.
        id_level (dict): metrics of the last evaluation if IDs counted instead of items; None where they are the same.
    """

    best_valid_score: float

    def __init__(self, config, model):
        if not config["single_spec"]:
            raise ConfigError(
                "RecBole's own run() starts several processes in its own way, which sees some examples twice; use "
                "recbole_tiger.run_recbole_tiger, or python run_recbole_tiger.py --nproc=…"
            )
        make_folder(config["checkpoint_dir"])  # two processes at once break RecBole's way
        super().__init__(config, model)
        resumed = config["resume"] and Path(config["resume"]).resolve().parent
        self._use_run_dir(collectives.from_main(lambda: str(config["run_dir"] or resumed or self._new_run_dir())))
        if collectives.is_main():
            make_folder(self.run_dir)
        self.valid_metric = config["valid_metric"].lower()
        self.evaluator = evaluator.unrounded_evaluator(config)
        self.seconds = {"training": 0.0, "validation": 0.0}
        self.examples_seen = 0
        self.finished = False
        self.history: list[dict] = []
        self.ranks: Ranks | None = None
        self.id_level: dict | None = None
        self.data: dict | None = None
        self._fit = FitOptions()
        self._loader_state: torch.Tensor | None = None
        self._progress = (0, 0.0)  # steps of the unfinished epoch, and the sum of their losses
        self._start_clock()

    def _new_run_dir(self) -> Path:
        name = f"{self.config['model']}-{self.config['dataset']}-{get_local_time()}-{secrets.token_hex(3)}"
        return Path(self.checkpoint_dir) / name

    def _use_run_dir(self, folder: str | Path) -> None:
        self.run_dir = Path(folder)
        self.saved_model_file = str(self.run_dir / "best.pth")
        self.last_model_file = str(self.run_dir / "last.pth")

    # ------------------------------------------------------------------------------------------------- checkpoints

    def state(self, epoch: int) -> dict:
        """Everything that training after ``epoch`` depends on; all processes ask for it together."""
        own_state, *other_states = collectives.gather(random_state())
        other = self.model.other_parameter() or {}
        return {
            "config": plain_settings(self.config),
            "epoch": epoch,
            "cur_step": self.cur_step,
            "best_valid_score": float(self.best_valid_score),
            "best_valid_result": None if self.best_valid_result is None else dict(self.best_valid_result),
            "history": self.history,
            "seconds": self.seconds,
            "examples_seen": self.examples_seen,
            "progress": list(self._progress),
            "state_dict": self.model.state_dict(),
            # without modules, whose weights are in `state_dict` already (FDSA)
            "other_parameter": {key: value for key, value in other.items() if not isinstance(value, torch.nn.Module)},
            "optimizer": self.optimizer.state_dict(),
            "random_state": own_state,
            "other_random_states": other_states,
            "loader_state": self._loader_state,
            "data": self.data,
        }

    def _save_checkpoint(self, epoch, verbose=True, **kwargs):
        """Write a checkpoint whole or not at all, of finite weights only; RecBole's own pickles the ``Config``."""
        check_weights(self.model, "training")
        state = self.state(epoch)
        if not collectives.is_main():
            return
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        save_checkpoint(path, state, self.last_model_file)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def save_last(self, epoch: int) -> None:
        """Write the checkpoint that this run resumes from, after `epoch`."""
        self._save_checkpoint(epoch, verbose=False, saved_model_file=self.last_model_file)

    def resume_checkpoint(self, resume_file):
        """Resume a run from a checkpoint, in the folder that the checkpoint lies in.

        A run that has ended continues where `epochs`, `max_steps`, `max_seconds` or `stopping_step` are now larger;
        after `max_steps` within an epoch, with the next one.

        Raises:
            CheckpointError: for a damaged or foreign file.
            ConfigError: as of :func:`check_same_run`.
        """
        checkpoint = self._read_checkpoint(resume_file)
        check_same_run(self.config, resume_file, checkpoint, self.data)
        self._use_run_dir(Path(resume_file).resolve().parent)
        self.start_epoch = checkpoint["epoch"] + 1
        for key in ("cur_step", "best_valid_score", "best_valid_result", "seconds", "examples_seen", "history"):
            setattr(self, key, checkpoint[key])
        self._progress = tuple(checkpoint["progress"])
        at_end = not self._progress[0] and self._is_last(checkpoint["epoch"])  # what has begun is brought to its end
        self.finished = self.cur_step > self.stopping_step or at_end
        self._load_weights(checkpoint)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self._loader_state = checkpoint["loader_state"]
        random_states = [checkpoint["random_state"], *checkpoint.get("other_random_states", [])]
        if collectives.rank() < len(random_states):
            set_random_state(random_states[collectives.rank()])
        else:  # more processes than before: these begin sequences that none has drawn from
            collectives.seed_generators(self.config, checkpoint["epoch"] + 1, self._progress[0])
        self.logger.info(f"Resuming {resume_file} after epoch {checkpoint['epoch']}")
        return checkpoint

    @staticmethod
    def _read_checkpoint(path) -> dict:
        """A checkpoint's content on the CPU; the first process reads it for all, which may be on other machines."""
        return collectives.from_main(lambda: load_checkpoint(path))

    def _load_weights(self, checkpoint: dict) -> None:
        self.model.load_state_dict(checkpoint["state_dict"])
        self.model.load_other_parameter(checkpoint.get("other_parameter"))

    # ------------------------------------------------------------------------------------------------------ training

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Train until `epochs`, early stopping or `max_steps`; RecBole's signature and return value.

        The best epoch is the first with the highest unrounded validation score; a tie does not reset patience.
        """
        self._fit = FitOptions(valid_data, verbose, saved, show_progress, callback_fn)
        self.data = self.data or data_identity(train_data._dataset)  # RecBole's run_recbole does not say it before
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        if self._loader_state is not None:
            train_data.generator.set_state(self._loader_state.cpu())
        if saved and not is_written(self.last_model_file):
            self.save_last(self.start_epoch - 1)  # so that a run can be resumed from its first step on
        with on_sigterm(self._request_stop):
            for epoch in range(self.start_epoch, self.epochs):
                if self.finished:
                    break
                self._fit_epoch(epoch, train_data)
        if saved and not is_written(self.saved_model_file):
            self._save_checkpoint(self.epochs - 1, verbose=verbose)
        self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _request_stop(self) -> None:
        """What SIGTERM does: end now; the checkpoint of the last whole epoch stands, and resuming repeats the rest."""
        raise self._stopped()

    def _stopped(self, when: str = "") -> TrainingStopped:
        """The error that ends a run on SIGTERM: what it continues from."""
        saved = f"continue with --resume={self.last_model_file}"
        way_out = saved if self._fit.saved else "nothing was saved, since the run saves nothing (saved=False)"
        return TrainingStopped(f"stopped by SIGTERM{when}; {way_out}")

    def _fit_epoch(self, epoch: int, train_data) -> None:
        taken_before = self.seconds["training"]
        self._start_clock()
        started = self._clock
        loss = self._train_epoch(train_data, epoch, show_progress=self._fit.show_progress)
        if loss is None:  # a validation before its first step ended the run
            return
        self._count_training()
        trained = started + self.seconds["training"] - taken_before
        self.finished = self.finished or self._is_last(epoch)
        self.train_loss_dict[epoch] = sum(loss) if isinstance(loss, tuple) else loss
        record: dict = {"epoch": epoch, "train_loss": float(self.train_loss_dict[epoch]), "seconds": trained - started}
        if self._fit.verbose:
            left = self.run_progress.clock.left_text() if epoch + 1 < self.epochs else ""
            text = self._generate_train_loss_output(epoch, started, trained, loss)
            self.logger.info(f"{text} {left}".rstrip())
        self._add_train_loss_to_tensorboard(epoch, loss)
        rate = self.optimizer.param_groups[0]["lr"]
        self.tensorboard.add_scalar("Learning_rate", rate, epoch)
        logged = {"epoch": epoch, "train_loss": loss, "learning_rate": rate, "train_step": epoch}
        self.wandblogger.log_metrics(logged, head="train")

        improved = False
        if self._fit.valid_data and self._validation_is_due(epoch):
            improved, result = self._validate(epoch)
            record["valid"] = dict(result)
        self.tensorboard.flush()
        self.history.append(record)
        self._progress = (0, 0.0)
        self._loader_state = train_data.generator.get_state()
        if self._fit.saved:
            if improved or not self._fit.valid_data:
                self._save_checkpoint(epoch, verbose=self._fit.verbose)
            self.save_last(epoch)
        if self._fit.callback and "valid" in record:  # after the checkpoints, since it may end this process (hpo)
            self._fit.callback(epoch, record["valid"][self.valid_metric])

    def _start_clock(self) -> None:
        """Count time as training from here on."""
        self._clock = perf_counter()

    def _count_training(self) -> None:
        """Add the time since the last count, or since the clock was started, to that of training."""
        now = perf_counter()
        self.seconds["training"] += now - self._clock
        self._clock = now

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """RecBole's epoch; the sum of the batches' losses, or a tuple of those of its parts.

        Several processes go through the same batches in the same order, each with its share of the rows, and the step
        is that of the whole batch.
        """
        self.model.train()
        loss_func = loss_func or self._loss
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.enable_scaler)
        totals: list[float] = []
        alone = collectives.count() == 1  # and need not count the targets of its batches
        shares = collectives.loader_shares(train_data)
        for _, interaction in self.run_progress.batches(shares, len(train_data), show_progress):
            self.optimizer.zero_grad()
            losses, n_targets = torch.zeros((), device=self.device), 0  # a small batch may have no row for this process
            if interaction is not None:
                interaction = interaction.to(self.device)
                n_targets = 1 if alone else self._targets_before(interaction)
            if n_targets:
                with torch.autocast(device_type=self.device.type, enabled=self.enable_amp):
                    losses = loss_func(interaction)
                n_targets = n_targets if alone else getattr(self.model, "n_targets", n_targets)
            loss = sum(losses) if isinstance(losses, tuple) else losses
            loss, _ = take_step(self.model, self.optimizer, loss, n_targets, self.clip_grad_norm, scaler)
            check_loss(loss)
            parts = [part.item() for part in (losses if isinstance(losses, tuple) else (loss,))]
            totals = [sum(pair) for pair in zip_longest(totals, parts, fillvalue=0.0)]
        return totals[0] if len(totals) == 1 else tuple(totals)

    @parametrize.cached()  # the map of item text, which histories and scores both read, is computed once
    def _loss(self, interaction):
        return self.model.calculate_loss(interaction)

    def _targets_before(self, interaction) -> int:
        """How many targets the loss of a batch is the mean over: its rows, or what RecBole's BERT4Rec masks in them.

        A model that chooses its targets itself has their number in `n_targets`.
        """
        masked = self.config["MASK_INDEX"]
        return int((interaction[masked] > 0).sum()) if masked in interaction else len(interaction)

    def _validation_is_due(self, epoch: int) -> bool:
        """Whether to validate at the end of an epoch: every `eval_step` epochs, and after the last."""
        return self.eval_step > 0 and ((epoch + 1) % self.eval_step == 0 or self.finished)

    def _is_last(self, epoch: int) -> bool:
        """Whether no epoch follows: `epochs` are over, or `max_seconds` of training by the first process's clock."""
        limit = self.config["max_seconds"]
        taken = collectives.from_main(lambda: self.seconds["training"]) if limit else 0.0
        return epoch + 1 >= self.epochs or bool(limit and taken >= limit)

    def _validate(self, epoch: int) -> tuple[bool, dict]:
        """Evaluate on the validation set; whether it is the best so far, and the metrics."""
        started = perf_counter()
        result = self.evaluate(self._fit.valid_data, load_best_model=False, show_progress=self._fit.show_progress)
        score = result[self.valid_metric]
        seconds = perf_counter() - started
        self.seconds["validation"] += seconds
        self.run_progress.validated(seconds)
        improved = score > self.best_valid_score if self.valid_metric_bigger else score < self.best_valid_score
        if improved:
            self.best_valid_score, self.best_valid_result, self.cur_step = score, result, 0
        else:
            self.cur_step += 1
            if self.cur_step > self.stopping_step:
                self.finished = True
        if self._fit.verbose:
            self.logger.info(
                set_color(f"epoch {epoch} evaluating", "green")
                + f" [time: {seconds:.2f}s, valid_score: {score:.6f}{', best so far' if improved else ''}]"
            )
            self.logger.info(set_color("valid result", "blue") + ": \n" + dict2str(self.rounded(result)))
        position = self._position_of_validation(epoch)
        self.tensorboard.add_scalar("Vaild_score", score, position)  # RecBole's own spelling: dashboards know it
        for name, value in result.items():
            self.tensorboard.add_scalar(f"Valid/{name.replace('@', '_')}", value, position)
        self.wandblogger.log_metrics({**result, "valid_step": position}, head="valid")
        return bool(improved), result

    def _position_of_validation(self, epoch: int) -> int:
        """Where a validation stands on the axis of TensorBoard and wandb: its epoch."""
        return epoch

    def rounded(self, result: dict) -> dict:
        """Metrics as they are printed, with `metric_decimal_place` digits."""
        return {name: round(float(value), self.config["metric_decimal_place"]) for name, value in result.items()}

    # ---------------------------------------------------------------------------------------------------- evaluation

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        """Full-sort metrics of a validation or test loader, unrounded; RecBole's signature.

        Where items share Semantic IDs (`collision=none`), the order of those of one ID is arbitrary: metrics are
        expected ones over all orders, and :attr:`id_level` holds what counting IDs instead of items would give.

        Side effect: :attr:`ranks` holds every user's rank.

        Raises:
            NotFiniteError: for weights or scores that are not finite.
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
        collectives.check_weights(list(self.model.parameters()))
        ranks, collected = rank_loader(
            self.model, eval_data, self.config, self.eval_collector, self._topk,
            before_batch=self._stop_if_asked, show_progress=show_progress,
        )  # fmt: skip
        self.ranks = ranks
        result, self.id_level = collectives.from_main(lambda: self._metrics(ranks, collected))
        self.wandblogger.log_eval_metrics(result, head="eval")
        return result

    def _metrics(self, ranks: Ranks, collected) -> tuple[dict, dict | None]:
        """Metrics of items and of IDs, from all users' ranks and lists."""
        result = self.evaluator.evaluate(collected)
        if ranks.ties is None or ranks.id_ranks is None:
            return result, None
        result.update(evaluator.expected_metrics(self.config, ranks.ranks, ranks.ties))
        return result, evaluator.metrics_of_ranks(self.config, ranks.id_ranks)

    def _stop_if_asked(self) -> None:
        """End an evaluation that was asked to stop, in all processes before the same batch."""

    def _topk(self, interaction, k: int, seen: torch.Tensor | None, history_index=None) -> BeamResult:
        """The k best items of each row; here from a model that scores all items."""
        scores = scores_of_all_items(self.model, interaction, self.item_tensor)
        if history_index is not None:
            scores[history_index] = -torch.inf
        return BeamResult(evaluator.topk_of_scores(scores, k, seen), scores)
