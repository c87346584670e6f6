"""Trainers of the generative models: batches of index tensors, steps instead of epochs, beam search in evaluation.

Input: RecBole's loaders and a model. Output: as of :class:`SequentialTrainer`.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from recbole.utils import set_color
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from recbole_tiger.data.batches import Batches, TrainingExamples, TrainingWindows
from recbole_tiger.decoding import BeamResult
from recbole_tiger.distributed import collectives
from recbole_tiger.errors import ConfigError, TrainingStopped
from recbole_tiger.nn import RowAdamW, WeightAverage
from recbole_tiger.settings.validate import check_arithmetic, precision_of
from recbole_tiger.training.sequential import SequentialTrainer

#: Steps between two looks at the losses: each look waits for the device (not on a CPU, where every step is looked at).
NAN_CHECK_STEPS = 50
#: Adafactor: the size that weights which start at zero count as, at the least.
ZERO_START_SIZE = 0.1


class TIGERTrainer(SequentialTrainer):
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
            if collectives.any_of(self._stopping):
                self._progress = (steps, float(total))
                self._count_training()
                self._stop()
            self.optimizer.zero_grad(set_to_none=True)
            loss = total.new_zeros(())
            if share:  # a small batch may have no row for this process
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                    loss = loss_func(batch)
                loss.backward()
            loss, n_targets = collectives.average_gradients(parameters, loss, share)
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
        self._start_clock()

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
        if collectives.any_of(self._stopping):
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
