"""How long a run takes at most: known before it starts, measured while it runs, shown in bar and log.

Input: how many passes and validations a run has at most, and how long those so far took. Output: the time left, in
words for the bar of a pass, for the log, and as a hint at quicker recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

import torch
from recbole.utils import set_color
from tqdm import tqdm

from recbole_tiger.distributed import collectives
from recbole_tiger.io import has_screen
from recbole_tiger.settings.chain import quicker_recipes
from recbole_tiger.training.checkpoint import random_state, set_random_state
from recbole_tiger.training.ranking import probe_seconds

T = TypeVar("T")

#: Seconds of training before the whole run is estimated: first steps are slower than the rest.
FIRST_ESTIMATE_AFTER = 10.0
#: Seconds of a run on a CPU from which on quicker recipes are named.
LONG_RUN = 1800.0


def duration_text(seconds: float) -> str:
    """Seconds in the two largest units that matter: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


@dataclass(frozen=True)
class RunSize:
    """What a run does at most.

    Attributes:
        passes: over the training data; a fraction where `max_steps` ends within one.
        validation_at: the passes after which it validates, ascending.
        max_seconds: of training, 0 for no limit.
    """

    passes: float
    validation_at: Sequence[float] = ()
    max_seconds: float = 0.0

    def n_passes(self) -> int:
        """Whole passes at most, a begun one counted."""
        return max(-int(-self.passes // 1), 1)


class RunClock:
    """Durations of a run so far, and what is left of it at that speed.

    Attributes:
        size: what the run does at most.
        passes: done so far, those before a resumption among them.
        training_seconds: taken by training so far, likewise.
        validation_seconds: of one validation, as last measured; None as long as none was.
    """

    def __init__(self, size: RunSize, passes: float = 0.0, training_seconds: float = 0.0):
        self.size = size
        self.passes = passes
        self.training_seconds = training_seconds
        self.validation_seconds: float | None = None
        self._before = (passes, training_seconds)

    def trained(self, passes: float, seconds: float) -> None:
        """Count a piece of training."""
        self.passes += passes
        self.training_seconds += seconds

    def seconds_of_a_pass(self) -> float | None:
        """At the speed of this process; None before anything was measured."""
        passes = self.passes - self._before[0]
        return (self.training_seconds - self._before[1]) / passes if passes > 0 else None

    def passes_left(self) -> float:
        """Passes left at most; the time limit may end the run before `size.passes`."""
        left, one = max(self.size.passes - self.passes, 0.0), self.seconds_of_a_pass()
        if self.size.max_seconds and one:
            left = min(left, max(self.size.max_seconds - self.training_seconds, 0.0) / one)
        return left

    def validations_left(self) -> int:
        """Validations left at most; a run that its time limit ends validates once more."""
        end = self.passes + self.passes_left()
        due = sum(self.passes < at <= end + 1e-9 for at in self.size.validation_at)
        return due + (bool(self.size.validation_at) and end < self.size.passes - 1e-9)

    def left(self) -> float | None:
        """Seconds left at most: training, validations, and a test that takes as long as one of them.

        Training alone as long as no validation was measured; None before anything was.
        """
        one = self.seconds_of_a_pass()
        if one is None:
            return None
        return self.passes_left() * one + (self.validations_left() + 1) * (self.validation_seconds or 0.0)

    def left_text(self) -> str:
        """``3 h 20 min left at most``; empty before anything was measured."""
        left = self.left()
        if left is None:
            return ""
        without = "" if self.validation_seconds is not None else ", without validation and test"
        return f"{duration_text(left)} left at most{without}"

    def bar_text(self, taken: float) -> str:
        """``3 of at most 60 epochs · 12 min, 3 h 20 min left at most``; `taken` is in seconds."""
        n_passes = self.size.n_passes()
        parts = (duration_text(taken), self.left_text())
        number = min(int(self.passes) + 1, n_passes)
        return f"{number} of at most {n_passes} epochs · {', '.join(filter(None, parts))}"

    def estimate_text(self) -> str:
        """The parts of what is left, for the log; empty before anything was measured."""
        one = self.seconds_of_a_pass()
        if one is None:
            return ""
        training = duration_text(self.passes_left() * one)
        text = f"{self.left_text()}: {training} of training ({duration_text(one)} per epoch)"
        if self.validation_seconds is None:
            return text
        validations = self.validations_left()
        seconds = duration_text((validations + 1) * self.validation_seconds)
        return f"{text}, {seconds} for {validations} validations and the test"


class RunProgress:
    """The clock of a run, fed by its loops, in the bar of each pass and once in the log.

    Args:
        probe: seconds of one validation, measured on a part of it; None where that cannot be known yet.
        say: called once with the estimate of the whole run as text, and the seconds left.
    """

    def __init__(self, clock: RunClock, probe: Callable[[], float | None], say: Callable[[str, float], None]):
        self.clock = clock
        self._probe, self._say = probe, say
        self._taken_before = clock.training_seconds
        self._measured = self._shown = 0.0
        self._said = False
        self._started = self._last = perf_counter()

    def restart(self) -> None:
        """Count time as training from here on."""
        self._last = perf_counter()

    def validated(self, seconds: float) -> None:
        """A validation took so long."""
        self.clock.validation_seconds = seconds
        self.restart()

    def bar(self, total: int, done: int, unit: str, show: bool) -> tqdm:
        """The bar of a pass; without `show`, or without a terminal, there is none.

        Args:
            total, done: what the pass does, and how much of it was done before.
        """
        return tqdm(
            total=total,
            initial=done,
            unit=unit,
            unit_scale=True,
            dynamic_ncols=True,
            desc=set_color(self.clock.bar_text(self._taken()), "pink"),
            disable=not (show and has_screen()),
        )

    def advance(self, bar: tqdm, amount: int, of_a_pass: int) -> None:
        """So much more of a pass was done, of `of_a_pass` in all."""
        now = perf_counter()
        seconds, self._last = now - self._last, now
        self.clock.trained(amount / of_a_pass, seconds)
        self._measured += seconds
        bar.update(amount)
        if self._measured >= FIRST_ESTIMATE_AFTER and not self._said:
            self._said = True
            self.clock.validation_seconds = self.clock.validation_seconds or self._probe()
            self._say(self.clock.estimate_text(), self.clock.left() or 0.0)
            self.restart()
        if not bar.disable and now - self._shown > 1.0:
            self._shown = now
            bar.set_description_str(set_color(self.clock.bar_text(self._taken()), "pink"), refresh=False)

    def batches(self, loader: Iterable[T], n_batches: int, show: bool) -> Iterator[T]:
        """The batches of one pass, counted as they are asked for."""
        with self.bar(n_batches, 0, " batches", show) as bar:
            self.restart()
            for batch in loader:
                yield batch
                self.advance(bar, 1, n_batches)

    def _taken(self) -> float:
        return self._taken_before + perf_counter() - self._started


class TimedTrainer:
    """What a trainer needs to know and say how long its run takes: mixed into RecBole's."""

    config: Any
    model: Any
    logger: Any
    device: torch.device
    _fit: Any
    _topk: Any
    _count_training: Callable[[], None]
    _start_clock: Callable[[], None]
    epochs: int
    eval_step: int
    start_epoch: int
    seconds: dict[str, float]
    history: list[dict]
    _progress: tuple[int, float]
    _run_progress: RunProgress | None = None

    @property
    def run_progress(self) -> RunProgress:
        """How far the run is, and how long it will take at most."""
        if self._run_progress is None:
            clock = RunClock(self._run_size(), self._passes_done(), self.seconds["training"])
            self._run_progress = RunProgress(clock, self._seconds_of_a_validation, self._say_estimate)
        return self._run_progress

    def last_epoch(self) -> dict:
        """`epoch`, `train_loss` and `seconds` of the last epoch; within one, after a validation there, of it so far."""
        done = [record for record in self.history if "train_loss" in record]
        steps, loss = self._progress
        if not steps:
            return done[-1]
        seconds = self.seconds["training"] - sum(record["seconds"] for record in done)
        return {"epoch": self.history[-1]["epoch"], "train_loss": loss / steps, "seconds": seconds}

    def _run_size(self) -> RunSize:
        validates = self.eval_step > 0
        ends = (*range(self.eval_step, self.epochs, self.eval_step), self.epochs) if validates else ()
        return RunSize(self.epochs, ends, self.config["max_seconds"] or 0.0)

    def _passes_done(self) -> float:
        return self.start_epoch

    def _seconds_of_a_validation(self) -> float | None:
        """Measured on a few users, with nothing changed that training depends on; None for several processes."""
        if not self._fit.valid_data or collectives.count() > 1:
            return None
        self._count_training()
        state, training = random_state(), self.model.training
        self.item_tensor = self._fit.valid_data._dataset.get_item_feature()
        self.model.eval()
        with torch.no_grad(), self._averaged():
            seconds = probe_seconds(self._fit.valid_data, self.config, self._topk, self.device)
        self.model.train(training)
        set_random_state(state)
        self._start_clock()
        return seconds

    def _averaged(self) -> AbstractContextManager:
        """A `with` block in which the model has the weights that are evaluated."""
        return nullcontext()

    def _say_estimate(self, text: str, seconds: float) -> None:
        if self._fit.verbose:
            self.logger.info(f"{self.config['model']}: {text}")
            hint = quicker_recipes(self.config) if seconds > LONG_RUN and self.device.type == "cpu" else ""
            if hint:
                self.logger.info(hint)
