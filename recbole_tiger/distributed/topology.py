"""How many processes a run has, on which machines, and whether they can share it; in RecBole's terms.

Input: a ``Config``. Output: a `Topology`, or one clear error before any work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from recbole_tiger.errors import ConfigError
from recbole_tiger.models import model_spec, models_with

if TYPE_CHECKING:
    from recbole.config import Config


@dataclass(frozen=True)
class Topology:
    """The processes of a run, on one machine or several.

    Attributes:
        here: processes on this machine (`nproc`).
        everywhere: processes on all machines (`world_size`).
        ip, port: where they meet: an address of the machine with the first process. Port 0 is any free one.
        offset: number of this machine's first process (`group_offset`).
    """

    here: int
    everywhere: int
    ip: str
    port: int
    offset: int

    @classmethod
    def of(cls, config: Config) -> Topology:
        """What a checked configuration asks for. Raises `ConfigError` for numbers that do not fit together, or several
        machines without an address."""
        here, offset, port = config["nproc"] or 1, config["group_offset"] or 0, int(config["port"] or 0)
        everywhere = config["world_size"] or -1
        if everywhere <= 0:  # RecBole's way of saying that there is no other machine
            everywhere = here
        if here + offset > everywhere:
            raise ConfigError(
                f"world_size={everywhere} counts the processes of all machines, but nproc={here} with "
                f"group_offset={offset} number them up to {here + offset}; raise world_size, or leave both out for one "
                "machine"
            )
        if everywhere > here and not (config["ip"] and port):
            raise ConfigError(
                f"world_size={everywhere} is more than nproc={here}: several machines need --ip=…, an address of the "
                "machine with group_offset=0, and --port=…, a free port there; give both on all machines"
            )
        return cls(here, everywhere, config["ip"] or "localhost", port, offset)


def check_processes(config: Config, distributable: bool) -> None:
    """Raise for several processes where they cannot be started or cannot share the work.

    Args:
        distributable: whether what is done with the configuration knows how to start them.

    Raises:
        ConfigError: names what stands in the way.
    """
    topology = Topology.of(config)
    if topology.everywhere == 1:
        return
    asked = f"nproc={topology.here}, world_size={topology.everywhere}"
    if not distributable:
        raise ConfigError(
            f"{asked}: this command runs in one process, and so do RecBole's own functions; leave both out, or first "
            "train with python run_recbole_tiger.py --nproc=… and continue from its checkpoint"
        )
    for key in ("train_batch_size", "eval_batch_size"):
        if config[key] < topology.everywhere:
            raise ConfigError(
                f"{key}={config[key]} is less than one row for each of {topology.everywhere} processes; raise it"
            )
    if config["device"].type == "cuda" and torch.cuda.device_count() < topology.here:
        raise ConfigError(
            f"{asked}: this machine needs {topology.here} GPUs, but gpu_id={config['gpu_id']!r} gives "
            f"{torch.cuda.device_count()}; name more (--gpu_id=0,1), or train on the CPU with --gpu_id="
        )
    model = config["model"]
    if not model_spec(model).shares_batches:
        raise ConfigError(
            f"{asked}: a batch of {model} cannot be shared by processes, since its loss is not the mean of the losses "
            "of its parts, or was not shown to be; leave both out, or choose one of "
            f"{', '.join(models_with('shares_batches'))}"
        )
    if model_spec(model).norm_over_batch and np.any(config["reg_weight"]):
        raise ConfigError(
            f"{asked}: reg_weight={config['reg_weight']} of {model} takes a norm over the whole batch, which processes "
            "cannot share; set it to 0, or leave both out"
        )
    if model_spec(model).family == "S3Rec" and not (config["pre_model_path"] or config["resume"]):
        raise ConfigError(
            f"{asked}: the first stage of S3Rec mixes the histories of a batch, which processes cannot share; train it "
            "without them, then the second stage with --pre_model_path=…/pretrained.pth"
        )
    if config["update_rows"] == "touched":
        raise ConfigError(
            f"{asked}: update_rows=touched has gradients of single rows, which are not shared; use update_rows=all"
        )
