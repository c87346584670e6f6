"""S3Rec's trainer: its two stages.

Input: RecBole's loaders and the model of a stage. Output: as of :class:`SequentialTrainer`, and ``pretrained.pth``.
"""

from __future__ import annotations

from time import perf_counter

from recbole_tiger.errors import ConfigError
from recbole_tiger.signals import on_sigterm
from recbole_tiger.training.progress import RunSize
from recbole_tiger.training.resume import is_written
from recbole_tiger.training.sequential import FitOptions, SequentialTrainer


class S3RecTrainer(SequentialTrainer):
    """S3Rec's two stages; the first has no validation and ends after `pretrain_epochs`."""

    def _run_size(self) -> RunSize:
        first = self.config["train_stage"] == "pretrain"
        return RunSize(self.config["pretrain_epochs"]) if first else super()._run_size()

    def follow(self, first: S3RecTrainer, saved: bool) -> None:
        """Begin the second stage with the time and the batches that the first one has left."""
        self.seconds, self._loader_state = first.seconds, first._loader_state
        if saved:
            self.save_last(-1)  # what is resumed from now on

    def pretrain(self, train_data, saved=True, verbose=True, show_progress=False) -> str:
        """The self-supervised stage, or what is left of it; returns the file that the second stage starts from."""
        self._fit = FitOptions(None, verbose, saved, show_progress)
        path, n_epochs = str(self.run_dir / "pretrained.pth"), self.config["pretrain_epochs"]
        limit = self.config["max_seconds"]
        if self._loader_state is not None:
            train_data.generator.set_state(self._loader_state.cpu())
        if saved and not is_written(self.last_model_file):
            self.save_last(self.start_epoch - 1)
        with on_sigterm(self._request_stop):
            for epoch in range(self.start_epoch, n_epochs):
                self._pretrain_epoch(train_data, epoch)
                if limit and self.seconds["training"] >= limit:
                    self._save_checkpoint(epoch, verbose=False, saved_model_file=path)
                    raise ConfigError(
                        f"max_seconds={limit} ended in epoch {epoch + 1} of pretrain_epochs={n_epochs}, before S3Rec's "
                        f"second stage; raise max_seconds, or set --pre_model_path={path} to begin with that stage"
                    )
        self._save_checkpoint(n_epochs - 1, verbose=False, saved_model_file=path)
        return path

    def _pretrain_epoch(self, train_data, epoch: int) -> None:
        started = perf_counter()
        loss = self._train_epoch(train_data, epoch, show_progress=self._fit.show_progress)
        self.seconds["training"] += perf_counter() - started
        if self._fit.verbose:
            self.logger.info("pre" + self._generate_train_loss_output(epoch, started, perf_counter(), loss))
        self._add_train_loss_to_tensorboard(epoch, loss, tag="Loss/Pretrain")
        self._loader_state = train_data.generator.get_state()
        if self._fit.saved:
            self.save_last(epoch)
