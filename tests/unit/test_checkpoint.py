"""Checkpoints: plain on disk, exact on return, named when broken."""

import random
import threading

import numpy as np
import pytest
import torch

from recbole_tiger.errors import CheckpointError
from recbole_tiger.plugin.stock_checkpoints import load_stock
from recbole_tiger.training.checkpoint import (
    is_safe_checkpoint,
    load_checkpoint,
    random_state,
    save_checkpoint,
    set_random_state,
)


def test_returns_what_was_saved_and_loads_with_weights_only(tmp_path):
    state = {"a": np.float64(0.1), "b": [np.int64(3), {"c": torch.arange(3)}], "d": (1, None), "e": np.eye(2)}
    save_checkpoint(tmp_path / "x.pth", state)
    raw = torch.load(tmp_path / "x.pth", weights_only=True)
    assert type(raw["a"]) is float and raw["a"] == 0.1
    loaded = load_checkpoint(tmp_path / "x.pth")
    assert loaded["b"][0] == 3 and loaded["d"] == (1, None)
    assert torch.equal(loaded["b"][1]["c"], torch.arange(3)) and torch.equal(loaded["e"], torch.eye(2).double())


def test_refuses_to_save_what_would_need_code_to_load(tmp_path):
    with pytest.raises(TypeError, match="lock"):
        save_checkpoint(tmp_path / "x.pth", {"a": threading.Lock()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "x.pth"
    save_checkpoint(path, {"weights": torch.arange(10_000)})
    content = bytearray(path.read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[0] ^= 0xFF
    else:
        content = b""
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="x.pth"):
        load_checkpoint(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "none.pth")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="is not a checkpoint of recbole_tiger"):
        load_checkpoint(tmp_path / "foreign.pth")
    assert not is_safe_checkpoint(tmp_path / "foreign.pth")


def test_weights_of_a_gpu_are_read_without_one(tmp_path):
    assert load_stock(tmp_path / "x.pth", _load=lambda path, **options: options["map_location"]) == "cpu"


def test_another_format_version_is_refused(tmp_path):
    torch.save({"format": "recbole_tiger checkpoint", "format_version": 99}, tmp_path / "new.pth")
    with pytest.raises(CheckpointError, match="version 99"):
        load_checkpoint(tmp_path / "new.pth")


def test_generators_return_to_where_they_were(tmp_path):
    torch.randn(3), np.random.randn(3), random.random()
    save_checkpoint(tmp_path / "x.pth", {"random_state": random_state()})
    expected = (torch.rand(4), np.random.rand(4), [random.random() for _ in range(4)])
    set_random_state(load_checkpoint(tmp_path / "x.pth")["random_state"])
    assert torch.equal(torch.rand(4), expected[0])
    assert np.array_equal(np.random.rand(4), expected[1])
    assert [random.random() for _ in range(4)] == expected[2]
