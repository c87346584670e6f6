"""A disk that takes no more: one sentence with the path from every writer, and what was there before stays whole."""

import logging
import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from catalogue import settings_of
from stored_runs import store

from recbole_tiger import cli, run_recbole_tiger
from recbole_tiger.datasets.atomic_writer import dataset_folder
from recbole_tiger.errors import WriteError
from recbole_tiger.experiment.loading import _end_log
from recbole_tiger.io import atomic_file, atomic_torch_save, atomic_write_text
from recbole_tiger.leaderboard.outputs import write_outputs
from recbole_tiger.leaderboard.table import make_leaderboards, read_runs
from recbole_tiger.plugin.patches import _Events
from recbole_tiger.quantization import build_quantizer
from recbole_tiger.semantic_ids import SemanticIDTable
from recbole_tiger.training.checkpoint import load_checkpoint
from recbole_tiger.training.sequential import SequentialTrainer


@contextmanager
def no_file_beyond(n_bytes):
    """A limit of the operating system on the size of a file, which acts as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_ids(path):
    codes = np.stack([np.arange(3000) // 64, np.arange(3000) % 64], 1)
    SemanticIDTable.from_codes(codes, [f"item {i}" for i in range(3000)], [64, 64]).to_file(path, overwrite=True)


def write_dataset(path):
    with dataset_folder(path.parent, "shop"), open(path.with_name("raw"), "w") as stream:
        stream.write("x" * 100_000)


WRITERS = {
    "text": lambda path: atomic_write_text(path, "x" * 100_000),
    "checkpoint": lambda path: atomic_torch_save(path, {"weights": torch.zeros(50_000)}),
    "checkpoint of many tensors": lambda path: atomic_torch_save(path, [torch.zeros(500) for _ in range(100)]),
    "ids": write_ids,
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_writer_names_its_file_and_keeps_the_old_one(tmp_path, kind):
    path = tmp_path / "kept"
    path.write_text("whole")
    with no_file_beyond(20_000), pytest.raises(WriteError, match="cannot write '.*kept' .File too large.: free space"):
        WRITERS[kind](path)
    assert path.read_text() == "whole" and [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_a_dataset_is_not_left_half(tmp_path):
    with no_file_beyond(20_000), pytest.raises(WriteError, match="cannot write '.*shop' .File too large"):
        write_dataset(tmp_path / "x")
    assert not (tmp_path / "shop").exists()


def test_an_error_in_reading_is_not_told_as_one_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="raw.csv"), dataset_folder(tmp_path, "shop"):
        open(tmp_path / "raw.csv")
    with pytest.raises(RuntimeError, match="odd"), atomic_file(tmp_path / "x"):
        raise RuntimeError("odd")


def test_the_state_of_a_tokenizer(tmp_path):
    rqvae = build_quantizer("rqvae", id_length=2, codebook_size=4, epochs=3, checkpoint_interval=1, random_state=0)
    embeddings = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    with no_file_beyond(20_000), pytest.raises(WriteError, match="cannot write '.*state.pth' .File too large"):
        rqvae.fit_transform(embeddings, checkpoint=tmp_path / "state.pth")
    assert list(tmp_path.iterdir()) == []


def test_leaderboards(tmp_path):
    store(tmp_path / "runs", "SASRec", 1, np.arange(1, 12))
    boards = make_leaderboards(read_runs(tmp_path / "runs"))
    with no_file_beyond(50), pytest.raises(WriteError, match="cannot write '.*leaderboard.csv'"):
        write_outputs(boards, tmp_path / "out")


def test_a_run_keeps_its_last_checkpoint_and_offers_only_what_is_there(toy, workplace, monkeypatch, capsys):
    settings = settings_of("SASRec", toy, epochs=3, run_dir="mine")
    words = ["--model=SASRec", "--dataset=toy", *(f"--{key}={value}" for key, value in settings.items())]
    with no_file_beyond(20_000):
        assert cli.main(words) == 2
    says = capsys.readouterr().err
    assert "cannot write the checkpoint 'mine/last.pth' (File too large): free space" in says
    assert "there is no previous checkpoint to resume" in says and "--resume" not in says and "Traceback" not in says
    assert not list((workplace / "mine").glob("*.pth"))

    original = SequentialTrainer._fit_epoch

    def full_from_the_second_epoch(self, epoch, *args):
        if epoch == 0:
            return original(self, epoch, *args)
        with no_file_beyond(20_000):
            return original(self, epoch, *args)

    with monkeypatch.context() as patch, pytest.raises(WriteError, match=r"previous one.*--resume=mine/last"):
        patch.setattr(SequentialTrainer, "_fit_epoch", full_from_the_second_epoch)
        run_recbole_tiger("SASRec", "toy", config_dict=settings)
    assert load_checkpoint(workplace / "mine" / "last.pth")["epoch"] == 0
    resumed = run_recbole_tiger("SASRec", "toy", config_dict={**settings, "resume": "mine/last.pth"})
    assert len(resumed["history"]) == 3


def test_a_log_that_cannot_be_written_is_said_once(tmp_path, caplog, capsys, monkeypatch):
    handler = logging.FileHandler(tmp_path / "run.log")
    handler.handleError = lambda record: _end_log(handler, record)
    logger = logging.getLogger()
    logger.addHandler(handler)

    def full(text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handler.stream, "write", full, raising=False)
    for _ in range(3):
        logger.warning("a line")
    said = [record.message for record in caplog.records if "cannot write" in record.message]
    assert len(said) == 1 and "run.log' ([Errno 28] No space left on device): nothing more is logged there" in said[0]
    assert "Traceback" not in capsys.readouterr().err and handler not in logger.handlers
    handler.close()


def test_events_that_cannot_be_written_are_said_once(tmp_path, caplog, capsys, workplace):
    from torch.utils.tensorboard import SummaryWriter

    events = _Events(SummaryWriter(tmp_path / "events"))
    events.add_scalar("Loss", 1.0, 1)
    events.flush()
    with no_file_beyond(200):
        for step in range(200):
            events.add_scalar("Loss" * 50, 1.0, step)
            events.flush()
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and f"cannot write '{tmp_path / 'events'}'" in said[0] and "File too large" in said[0]
    assert "Traceback" not in capsys.readouterr().err
