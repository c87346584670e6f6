"""Trainers of the generative models: batches of index tensors, schedules by steps, beam search in evaluation.

Input: RecBole's loaders and a model. Output: as of :class:`SequentialTrainer`; a stopped run resumes at the exact step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from recbole_tiger.data.batches import Batches, TrainingExamples, TrainingWindows
from recbole_tiger.decoding import BeamResult
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError, NotFiniteError
from recbole_tiger.nn import WeightAverage
from recbole_tiger.settings.validate import check_arithmetic, precision_of
from recbole_tiger.training.optimizers import build_optimizer, learning_rate_factor, take_step
from recbole_tiger.training.progress import RunSize
from recbole_tiger.training.sequential import SequentialTrainer

#: Steps between two looks at the losses: each look waits for the device (not on a CPU, where every step is looked at).
NAN_CHECK_STEPS = 50


class TIGERTrainer(SequentialTrainer):
    """Trainer of TIGER and P5; averaged weights (`ema_decay`) are the ones evaluated and kept."""

    def __init__(self, config, model):
        self.global_step = 0
        super().__init__(config, model)
        self.max_steps = config["max_steps"] or 0
        self.eval_steps = config["eval_steps"] or 0
        self._validated_at = 0  # step of the last validation
        self._stopping = False
        self._examples: TrainingExamples | TrainingWindows | None = None
        self._epoch = 0
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._learning_rate_factor)
        self._look_steps = 1 if self.device.type == "cpu" else NAN_CHECK_STEPS
        self.precision = precision_of(config)
        self.average: WeightAverage | None = None
        if config["ema_decay"]:
            self.average = WeightAverage(model.parameters(), config["ema_decay"])
        self._loss_func = model.calculate_loss
        if config["compile"]:
            self._loss_func = torch.compile(model.calculate_loss, dynamic=True)

    def _build_optimizer(self, **kwargs):
        return build_optimizer(self.config, self.model.parameters())

    def _learning_rate_factor(self, step: int) -> float:
        warmup = int(self.config["warmup_steps"] or 0)
        return learning_rate_factor(self.config["lr_scheduler"], step, warmup, self._last_step() or warmup + 1)

    def _last_step(self) -> int:
        """The step at which training ends at the latest; 0 as long as that is not known."""
        return self.max_steps or (self.epochs * self._steps_of_a_pass() if self._examples is not None else 0)

    # ------------------------------------------------------------------------------------------------- checkpoints

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
        self.finished = self.finished or (not self._progress[0] and self._is_over())
        self.scheduler.load_state_dict(checkpoint["scheduler"])
        return checkpoint

    # ------------------------------------------------------------------------------------------------------ training

    def fit(self, *args, **kwargs):
        """As in the base class; how to compute is checked here once more for RecBole's own ``run_recbole``."""
        check_arithmetic(self.config)
        self._prepare_examples(args[0] if args else kwargs["train_data"])
        found = super().fit(*args, **kwargs)
        if collectives.any_of(self._stopping):  # after the last step: the checkpoint is complete, the test is left
            raise self._stopped(f" after step {self.global_step}")
        return found

    def _prepare_examples(self, train_data) -> None:
        if self._examples is None:
            self._examples = self._make_examples(train_data._dataset)
            warmup, in_epochs = self.config["warmup_steps"] or 0, self.epochs * self._steps_of_a_pass()
            if self.config["lr_scheduler"] != "cosine":
                return
            if self._last_step() <= warmup:
                raise ConfigError(
                    f"lr_scheduler=cosine ends with epochs={self.epochs}, at step {self._last_step()}, which must be "
                    f"after warmup_steps={warmup}; raise epochs, lower warmup_steps, or use lr_scheduler=constant or "
                    "inverse_sqrt"
                )
            if in_epochs < self.max_steps:
                self.logger.warning(
                    f"lr_scheduler=cosine ends at max_steps={self.max_steps}, but epochs={self.epochs} end at step "
                    f"{in_epochs}, with {self._learning_rate_factor(in_epochs):.0%} of the learning rate; with "
                    "max_steps=0 it ends with the epochs"
                )

    def _is_last(self, epoch: int) -> bool:
        return self._is_over() or super()._is_last(epoch)

    def _is_over(self) -> bool:
        """Whether `max_steps` are done."""
        return 0 < self.max_steps <= self.global_step

    def _train_epoch(self, train_data, epoch_idx, loss_func=None, show_progress=False):
        """One pass over all training prefixes, or the rest of one; the mean loss of a step, None without any."""
        self._prepare_examples(train_data)
        self._epoch = epoch_idx
        self.model.train()
        loss_func = loss_func or self._loss_func
        batches = self._examples.batches(self.config["train_batch_size"], seed=(self.config["seed"], epoch_idx))
        steps, loss_sum = self._progress
        bar, of_a_pass = self._progress_bar(batches, steps, show_progress), sum(batches.n_targets)
        batches = batches.after(steps)
        self.run_progress.restart()
        total = torch.full((), loss_sum, device=self.device)
        recent: list[Tensor] = []  # losses that were not looked at
        for batch, n_targets in zip(batches, batches.n_targets, strict=True):
            self._before_step(steps, total)
            if self.finished:
                break
            loss = self._step(loss_func, batch, n_targets)
            total += loss
            recent.append(loss)
            steps += 1
            self.run_progress.advance(bar, n_targets, of_a_pass)
            if steps % self._look_steps == 0:
                self._check_losses(total, recent, steps, bar)
                recent = []
        self._check_losses(total, recent, steps, bar)
        bar.close()
        self._progress = (steps, float(total))
        return float(total) / steps if steps else None

    def _before_step(self, steps: int, total: Tensor) -> None:
        """End at `max_steps`, validate every `eval_steps`, stop where that was asked for."""
        if self._is_over():
            self.finished = True
        elif self.eval_steps and self.global_step % self.eval_steps == 0 and self.global_step > self._validated_at:
            self._progress = (steps, float(total))
            self._validate_midway()
        if not self.finished and collectives.any_of(self._stopping):
            self._progress = (steps, float(total))
            self._count_training()
            self._stop()

    def _step(self, loss_func, batch: dict, n_targets: int) -> Tensor:
        """One optimizer step on a batch, of which this process has `n_targets`; the loss of the whole batch."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        if n_targets:  # a small batch may have no row for this process
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                loss = loss_func(batch)
        loss, all_targets = take_step(self.model, self.optimizer, loss, n_targets, self.clip_grad_norm)
        if self.average is not None:
            self.average.update()
        self.scheduler.step()
        self.global_step += 1
        self.examples_seen += all_targets
        return loss

    def _make_examples(self, dataset) -> TrainingExamples | TrainingWindows:
        if self.config["encoder_mask"] == "bidirectional":
            return TrainingExamples.from_dataset(dataset, self.config, self.device)
        return TrainingWindows.from_sequences(dataset.sequences, self.config, self.device)

    def _progress_bar(self, batches: Batches, done: int, show_progress: bool) -> tqdm:
        """Examples of this epoch, or of the steps that `max_steps` leaves of it, at so many per second."""
        n_targets = batches.n_targets
        if self.max_steps:
            n_targets = n_targets[: done + max(self.max_steps - self.global_step, 0)]
        return self.run_progress.bar(sum(n_targets), sum(n_targets[:done]), " examples", show_progress)

    def _steps_of_a_pass(self) -> int:
        assert self._examples is not None
        return -(-len(self._examples) // self.config["train_batch_size"])

    def _run_size(self) -> RunSize:
        size, steps = super()._run_size(), self._steps_of_a_pass()
        passes = min(size.passes, self.max_steps / steps) if self.max_steps else size.passes
        at: Sequence[float] = size.validation_at
        if self.eval_steps:
            at = [step / steps for step in range(self.eval_steps, int(passes * steps), self.eval_steps)]
        ends = (*(each for each in at if each < passes), passes) if at or self.eval_steps else ()
        return RunSize(passes, ends, size.max_seconds)

    def _passes_done(self) -> float:
        return self.start_epoch + self._progress[0] / self._steps_of_a_pass()

    def _check_losses(self, total: Tensor, recent: list[Tensor], steps: int, bar: tqdm) -> None:
        """Show the mean loss; raise if a loss since the last look is not finite, and name its step."""
        if not math.isfinite(float(total)):
            finite = [math.isfinite(float(loss)) for loss in recent]
            back = len(recent) - finite.index(False) if False in finite else 1
            step = self.global_step - back
            rate = self.config["learning_rate"] * self._learning_rate_factor(step)
            raise NotFiniteError(
                f"the training loss is not finite at step {step + 1} (epoch {self._epoch}, batch {steps - back + 1}, "
                f"learning rate {rate:.2e}): lower learning_rate or set clip_grad_norm: {{max_norm: 1.0}}"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        bar.set_postfix_str(f"loss {float(total) / max(steps, 1):.4f}, lr {rate:.1e}", refresh=False)

    # ------------------------------------------------------------------------------------------------------ stopping

    def _request_stop(self) -> None:
        self._stopping = True  # seen by all processes before the next step, or the next batch of an evaluation

    def _stop_if_asked(self) -> None:
        if collectives.any_of(self._stopping):
            self._stop()

    def _stop(self) -> None:
        """Write where training stands and end it; resumed, it is as if it had never stopped."""
        if self._fit.saved:
            self.save_last(self._epoch - 1)
        raise self._stopped(f" after step {self.global_step}")

    # ---------------------------------------------------------------------------------------------------- evaluation

    def _validate_midway(self) -> None:
        """Validation every `eval_steps` steps, within an epoch."""
        self._count_training()
        improved, result = self._validate(self._epoch)
        passed = self._epoch + self._progress[0] / self._steps_of_a_pass()
        self.history.append({"epoch": self._epoch, "step": self.global_step, "epochs": passed, "valid": dict(result)})
        self.model.train()
        if self._fit.saved:
            if improved:
                self._save_checkpoint(self._epoch - 1)
            self.save_last(self._epoch - 1)
        if self._fit.callback:
            self._fit.callback(self._epoch, result[self.valid_metric])
        self._start_clock()

    def _validate(self, epoch: int) -> tuple[bool, dict]:
        found = super()._validate(epoch)
        self._validated_at = self.global_step
        return found

    def _position_of_validation(self, epoch: int) -> int:
        """The epoch, or the step where an epoch has several validations."""
        return self.global_step if self.eval_steps else epoch

    def _validation_is_due(self, epoch: int) -> bool:
        if not self.eval_steps:
            return super()._validation_is_due(epoch)
        return self.finished and self._validated_at < self.global_step

    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        with self._averaged():
            return super().evaluate(eval_data, load_best_model, model_file, show_progress)

    def _topk(self, interaction, k: int, seen: Tensor | None, history_index=None) -> BeamResult:
        history, lengths = interaction[self.model.ITEM_SEQ], interaction[self.model.ITEM_SEQ_LEN]
        return self.model.recommend(interaction[self.config["USER_ID_FIELD"]], history, lengths, k, excluded=seen)


class TIGERTreeTrainer(TIGERTrainer):
    """TIGER's trainer with plainly random batches, since the model packs histories and has no padding to save."""

    def _build_optimizer(self, **kwargs):
        optimizer = super()._build_optimizer(**kwargs)
        if self.config["update_rows"] == "touched":
            self.clip_grad_norm = None  # that optimizer clips, since `clip_grad_norm_` takes no sparse gradients
        return optimizer

    def _make_examples(self, dataset) -> TrainingWindows:
        windows = TrainingWindows.from_sequences(dataset.sequences, self.config, self.device)
        return replace(windows, bucket_batches=1)
