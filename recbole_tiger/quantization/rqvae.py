"""RQ-VAE, the paper's tokenizer (sections 3.1.1 and 4.1.3): embeddings come in, residual-quantized codes go out.

An encoder maps a content embedding x to a latent z; m codebooks quantize z level by level, each what the level
before left over; a decoder maps the sum of the codewords back to x. All are trained together on

    L(x) = |x - x'|^2 + sum_d ( |sg[r_d] - e_d|^2 + beta |r_d - sg[e_d]|^2 ),    r_{d+1} = r_d - e_d,

with the paper's norms taken literally: squares are summed over dimensions, and averaged over the items of a batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from .base import Quantizer, plain
from .kmeans import MIN_ROWS, group_sums, kmeans, nearest, pad_rows, single_threaded, squared_distances, squared_norms

# The paper's words (section 4.1.3 unless said otherwise). What it leaves open stands below as we chose it.
RQVAE_PAPER: dict[str, Any] = {
    "id_length": 3,  # "three levels of residual quantization"
    "codebook_size": 256,  # "a codebook of cardinality 256"
    "hidden_sizes": [512, 256, 128],  # "three intermediate layers of size 512, 256 and 128"
    "latent_dim": 32,  # "a final latent representation dimension of 32"
    "beta": 0.25,
    "learner": "adagrad",
    "learning_rate": 0.4,
    "weight_decay": 0.0,  # not mentioned
    "batch_size": 1024,
    "epochs": 20000,
    "codebook_init": "first_batch",  # 3.1.1: "the k-means algorithm on the first training batch"
    "codebook_update": "gradient",  # 3.1.1: the loss "jointly trains the encoder, decoder, and the codebook"
    "dead_code_restart": 0,  # not mentioned
    "early_stop_patience": 0,  # not mentioned
}
# What we train by default: reaches the paper's codebook usage in minutes instead of 20,000 epochs. Chosen on Amazon
# Beauty with z-scored all-MiniLM-L6-v2 embeddings, by reconstruction error and collisions after 60 epochs.
RQVAE_TUNED: dict[str, Any] = {
    **RQVAE_PAPER,
    "learner": "adamw",  # Adagrad at 0.4 moves every weight by 0.4 in the first step
    "learning_rate": 2e-3,
    "weight_decay": 1e-4,
    "epochs": 200,
    "codebook_init": "all",  # more rows than one batch of 1024 for 256 centroids
    "codebook_update": "ema",  # codewords keep up with a latent that grows fast in the first epochs
    "dead_code_restart": 5,
    "early_stop_patience": 5,
}

LEARNERS = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
CODEBOOK_INITS = ("all", "first_batch")
CODEBOOK_UPDATES = ("gradient", "ema")
# van den Oord et al. (2017, appendix A.1) take 0.99, for runs of very many steps; an epoch of 12,000 items has 12.
EMA_DECAY = 0.95
# Early stopping looks at this many epochs together, and calls a smaller gain than this share no gain.
EARLY_STOP_INTERVAL = 10
EARLY_STOP_GAIN = 1e-3


class RQVAENetwork(nn.Module):
    """Encoder, codebooks and decoder.

    Args:
        dim: width of the embeddings.
        hidden_sizes: encoder's layers; the decoder's are the same, mirrored.
        latent_dim: width of the latent.
        codebook_shapes: `(codes, width)` of every level.
        generator: draws the weights, as `torch.nn.Linear` would: U(-b, b), b = 1 / sqrt(inputs).
    """

    def __init__(
        self,
        dim: int,
        hidden_sizes: list[int],
        latent_dim: int,
        codebook_shapes: list[tuple[int, int]],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        sizes = [dim, *hidden_sizes, latent_dim]
        self.encoder = _mlp(sizes, generator)
        self.decoder = _mlp(sizes[::-1], generator)
        self.codebooks = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in codebook_shapes)


def _mlp(sizes: list[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        # skip_init leaves the global random state alone
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
        bound = 1 / math.sqrt(inputs)
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
            linear.bias.uniform_(-bound, bound, generator=generator)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class RQVAE(Quantizer):
    """Residual-quantized variational autoencoder; the defaults are `RQVAE_TUNED`.

    Args:
        id_length, codebook_size, random_state: see `Quantizer`.
        hidden_sizes: encoder layers between embedding and latent, mirrored in the decoder.
        latent_dim: width of the latent that is quantized.
        beta: weight of the commitment term.
        learner: `adagrad`, `adam` or `adamw`.
        learning_rate, weight_decay: of the learner.
        batch_size: items per step at most; an epoch is cut into steps of equal size.
        epochs: passes over the items.
        codebook_init: k-means on the latents of `all` items, or of the `first_batch` (paper), level by level
            through the residuals.
        codebook_update: `gradient` (paper), or `ema`, moving averages of the residuals that chose a code.
        dead_code_restart: every so many epochs, codes that no item chose in the last epoch are put on the
            residuals of random items; 0 never.
        early_stop_patience: stop when every level uses at least `usage_target` of its codes and the
            reconstruction has not gained 0.1% for so many times ten epochs; 0 never.
        usage_target: see there; the paper's "high codebook usage" is 0.8.
        checkpoint_interval: epochs between two checkpoints, if `fit` is given a file.
        device: where to train and encode.

    Attributes:
        history_: per epoch `reconstruction` and `quantization` (the two terms of the loss, means over items)
            and `usage_1` ... `usage_m` (share of the codes chosen in the epoch).
    """

    name = "rqvae"
    # True: a level quantizes what the level before left over. False: each level has its own part of the latent.
    residual = True

    def __init__(
        self,
        *,
        id_length: int = RQVAE_TUNED["id_length"],
        codebook_size: int | list[int] = RQVAE_TUNED["codebook_size"],
        random_state: int = 0,
        hidden_sizes: list[int] | tuple[int, ...] = tuple(RQVAE_TUNED["hidden_sizes"]),
        latent_dim: int = RQVAE_TUNED["latent_dim"],
        beta: float = RQVAE_TUNED["beta"],
        learner: str = RQVAE_TUNED["learner"],
        learning_rate: float = RQVAE_TUNED["learning_rate"],
        weight_decay: float = RQVAE_TUNED["weight_decay"],
        batch_size: int = RQVAE_TUNED["batch_size"],
        epochs: int = RQVAE_TUNED["epochs"],
        codebook_init: str = RQVAE_TUNED["codebook_init"],
        codebook_update: str = RQVAE_TUNED["codebook_update"],
        dead_code_restart: int = RQVAE_TUNED["dead_code_restart"],
        early_stop_patience: int = RQVAE_TUNED["early_stop_patience"],
        usage_target: float = 0.8,
        checkpoint_interval: int = 50,
        device: str = "cpu",
    ) -> None:
        super().__init__(id_length=id_length, codebook_size=codebook_size, random_state=random_state)
        self.hidden_sizes = hidden_sizes
        self.latent_dim = latent_dim
        self.beta = beta
        self.learner = learner
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.codebook_init = codebook_init
        self.codebook_update = codebook_update
        self.dead_code_restart = dead_code_restart
        self.early_stop_patience = early_stop_patience
        self.usage_target = usage_target
        self.checkpoint_interval = checkpoint_interval
        self.device = device

    # ------------------------------------------------------------------ training

    def _fit(self, x: np.ndarray, *, progress: bool, checkpoint: str | Path | None) -> None:
        sizes = [len(x), self.latent_dim, *self.hidden_sizes, x.shape[1]]
        with single_threaded(min(sizes) < MIN_ROWS):
            training = _Training(self, self._matrix(x))
            path = None if checkpoint is None else Path(checkpoint)
            fingerprint = "" if path is None else self._fingerprint(x)
            if path is not None and path.exists():
                training.load(path, fingerprint)
            else:
                training.initialise_codebooks()
            bar = tqdm(
                total=self.epochs,
                initial=training.epoch,
                desc=f"{self.name} training",
                unit="epoch",
                disable=None if progress else True,
            )
            with bar:
                while training.epoch < self.epochs and not training.stopped:
                    training.run_epoch()
                    bar.update()
                    if not bar.disable:  # reading the loss waits for the device: only for eyes
                        bar.set_postfix(reconstruction=f"{training.curves[-1][0].item():.4g}")
                    if path is not None and training.epoch % self.checkpoint_interval == 0:
                        training.save(path, fingerprint)
                if path is not None:
                    training.save(path, fingerprint)
        self.network_ = {key: value.detach().cpu() for key, value in training.network.state_dict().items()}
        names = ["reconstruction", "quantization", *(f"usage_{level + 1}" for level in range(self.id_length))]
        curves = torch.stack(training.curves).cpu().double().T.tolist() if training.curves else [[] for _ in names]
        self.history_ = dict(zip(names, curves, strict=True))

    def _check_arguments(self, dim: int) -> None:
        choices = {"learner": LEARNERS, "codebook_init": CODEBOOK_INITS, "codebook_update": CODEBOOK_UPDATES}
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r} is unknown: choose one of {', '.join(allowed)}.")
        for key in ("latent_dim", "batch_size", "epochs", "checkpoint_interval"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 1.")
        for key in ("beta", "weight_decay", "dead_code_restart", "early_stop_patience"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key}={getattr(self, key)} must not be negative.")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive.")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes={list(self.hidden_sizes)} must all be at least 1.")

    def _slices(self) -> list[slice]:
        """The part of the latent that each level quantizes."""
        return [slice(0, self.latent_dim)] * self.id_length

    def _network(self, generator: torch.Generator) -> RQVAENetwork:
        widths = [part.stop - part.start for part in self._slices()]
        shapes = list(zip(self.codebook_sizes_, widths, strict=True))
        return RQVAENetwork(self.dim_, list(self.hidden_sizes), self.latent_dim, shapes, generator)

    def _fingerprint(self, x: np.ndarray) -> str:
        """Names arguments and data, so that a checkpoint is continued only by the run that wrote it."""
        params = {key: value for key, value in plain(self.get_params()).items() if key != "checkpoint_interval"}
        digest = hashlib.blake2b(json.dumps([self.name, params, x.shape], sort_keys=True).encode())
        digest.update(np.ascontiguousarray(x, dtype=np.float32))
        return digest.hexdigest()

    # ------------------------------------------------------------------ encoding

    def _fitted_network(self) -> tuple[RQVAENetwork, list[torch.Tensor]]:
        """The learned network on the device, and its codebooks' norms."""
        if getattr(self, "_cache", None) is None or self._cache[0] is not self.network_:
            network = self._network(torch.Generator())
            network.load_state_dict(self.network_)
            network.to(self._device).requires_grad_(False)
            self._cache = (self.network_, network, [squared_norms(codebook) for codebook in network.codebooks])
        return self._cache[1], self._cache[2]

    @torch.no_grad()
    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        network, norms = self._fitted_network()
        latent = network.encoder(pad_rows(x))
        return quantize(latent, list(network.codebooks), norms, self._slices())[0][: len(x)]

    @torch.no_grad()
    def _decode(self, codes: torch.Tensor, levels: int) -> torch.Tensor:
        network, _ = self._fitted_network()
        latent = torch.zeros(len(codes), self.latent_dim, device=self._device)
        for level, (part, codebook) in enumerate(zip(self._slices(), network.codebooks, strict=True)):
            if level < levels:
                latent[:, part] += codebook[codes[:, level].to(self._device)]
            elif not self.residual:
                latent[:, part] = codebook.mean(0)
        return network.decoder(pad_rows(latent))[: len(codes)]

    @torch.no_grad()
    def _last_level_costs(self, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        network, _ = self._fitted_network()
        residual = network.encoder(pad_rows(x))[: len(x)]
        parts = self._slices()
        for level in range(self.id_length - 1):
            residual[:, parts[level]] -= network.codebooks[level][codes[:, level]]
        return squared_distances(residual[:, parts[-1]], network.codebooks[-1])


def quantize(
    latent: torch.Tensor, codebooks: list[torch.Tensor], norms: list[torch.Tensor], slices: list[slice]
) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Quantizes latents level by level (section 3.1.1).

    Args:
        latent: `[b, latent_dim]`.
        codebooks: `[K_d, width_d]` per level.
        norms: squared norms `[K_d]` of the codewords, per level.
        slices: the part of the latent that each level quantizes, all of it for residual quantization.

    Returns:
        Codes `[b, m]`; what each level left over, r_d - e_d, `[b, width_d]` per level; and what is left in the
        end, z minus all codewords, `[b, latent_dim]`.
    """
    residual = latent.clone()
    codes, remainders = [], []
    for codebook, norm, part in zip(codebooks, norms, slices, strict=True):
        inputs = residual[:, part]
        code, _ = nearest(inputs, codebook, norm)
        remainder = inputs - codebook[code]
        residual[:, part] = remainder
        codes.append(code)
        remainders.append(remainder)
    return torch.stack(codes, 1), remainders, residual


class _Training:
    """One training run: network, optimizer, generator and curves, at some epoch."""

    def __init__(self, model: RQVAE, x: torch.Tensor) -> None:
        self.model = model
        self.x = x
        # one generator on the host draws weights, order and restarts, whatever the device
        self.generator = torch.Generator().manual_seed(int(model.random_state))
        self.network = model._network(self.generator).to(x.device)
        self.slices = model._slices()
        self.learns_by_ema = model.codebook_update == "ema"
        self.network.codebooks.requires_grad_(not self.learns_by_ema)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        # one kernel for all parameters, where torch has it
        fused = x.device.type == "cpu" or (x.device.type == "cuda" and model.learner != "adagrad")
        self.optimizer = LEARNERS[model.learner](
            parameters, lr=model.learning_rate, weight_decay=model.weight_decay, fused=fused or None
        )
        self.ema: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.epoch = 0
        self.stopped = False
        self.best = math.inf
        self.rounds_without_gain = 0
        self.curves: list[torch.Tensor] = []

    def _batches(self) -> Iterator[torch.Tensor]:
        """Row numbers of the steps of one epoch, in random order and of equal size (one step to spare)."""
        order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device, non_blocking=True)
        return iter(order.tensor_split(math.ceil(len(order) / self.model.batch_size)))

    @torch.no_grad()
    def initialise_codebooks(self) -> None:
        """k-means on the latents of all items or of one batch, each level on what the level before left over."""
        x = self.x
        if self.model.codebook_init == "first_batch":
            x = x[next(self._batches())]
            if len(x) < max(self.model.codebook_sizes_):
                raise ValueError(
                    f"batch_size={self.model.batch_size} makes a first batch of {len(x)} items, too few for k-means "
                    f"with codebook_size={self.model.codebook_size}: raise batch_size or use codebook_init=all."
                )
        residual = torch.cat([self.network.encoder(pad_rows(rows))[: len(rows)] for rows in x.split(8192)])
        rng = np.random.default_rng(self.model.random_state)
        for codebook, part in zip(self.network.codebooks, self.slices, strict=True):
            inputs = residual[:, part].contiguous()
            found = kmeans(inputs, len(codebook), rng)
            codebook.copy_(found.centroids)
            residual[:, part] = inputs - found.centroids[found.codes]
            if self.learns_by_ema:
                sums, counts = group_sums(inputs, found.codes, len(codebook))
                # in units of one step, as the moving averages are
                share = min(self.model.batch_size, len(x)) / len(x)
                self.ema.append((counts * share, sums * share))

    def run_epoch(self) -> None:
        """One pass over the items. Nothing here waits for the device, except to decide on an early stop."""
        model, codebooks = self.model, self.network.codebooks
        totals = torch.zeros(2, device=self.x.device)
        chosen = [torch.zeros(len(c), dtype=torch.long, device=self.x.device) for c in codebooks]
        for rows in self._batches():
            losses, counts = self.step(self.x[rows])
            totals += losses * len(rows)
            for total, count in zip(chosen, counts, strict=True):
                total += count
        usage = [(count > 0).float().mean() for count in chosen]
        self.curves.append(torch.stack([*(totals / len(self.x)), *usage]))
        self.epoch += 1
        if model.early_stop_patience and self.epoch % EARLY_STOP_INTERVAL == 0:
            self._decide_on_stop()
        due = model.dead_code_restart and self.epoch % model.dead_code_restart == 0
        if due and self.epoch < model.epochs and not self.stopped:
            self._restart([count == 0 for count in chosen])

    def step(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """One optimizer step on a batch.

        Returns:
            The two terms of the loss `[2]`, on the device, and how often each code was chosen, per level.
        """
        losses, counts, sums = self.backward(x)
        self.optimizer.step()
        if self.learns_by_ema:
            self._move_averages(counts, sums)
        return losses, counts

    def backward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Leaves the gradient of the batch's mean loss in every parameter.

        The gradients of the quantization terms have a closed form. With q_d = r_d - e_d (what level d left over),
        both terms of a level have the value |q_d|^2; the codebook term's gradient with respect to e_d is -2 q_d,
        the commitment term's is 2 beta q_d with respect to z, and, because r_d = z - e_0 - ... - e_{d-1} and the
        paper puts no stop-gradient there, -2 beta q_d with respect to every earlier codeword.

        Returns:
            The two terms of the loss `[2]`; how often each code was chosen, per level; the sums of the inputs that
            chose it (needed by moving averages only, else empty).
        """
        model, network = self.model, self.network
        self.optimizer.zero_grad(set_to_none=True)
        latent = network.encoder(x)
        with torch.no_grad():
            codebooks = list(network.codebooks)
            norms = [codebook.square().sum(1) for codebook in codebooks]
            codes, remainders, residual = quantize(latent, codebooks, norms, self.slices)
            # without residuals the levels' remainders are the parts of the last residual
            left = torch.stack(remainders).sum(0) if model.residual else residual
            quantization = (1 + model.beta) * sum(r.square().sum(1).mean() for r in remainders)
            commitment = left * (2 * model.beta / len(x))
        # straight-through: the decoder sees the codewords, the gradient goes to the latent as it is
        reconstructed = network.decoder(latent - residual)
        reconstruction = (x - reconstructed).square().sum(1).mean()
        torch.autograd.backward([reconstruction, latent], [None, commitment])

        counts, sums = [], []
        later = torch.zeros_like(remainders[-1])  # beta times the remainders of all later levels
        for level in range(model.id_length - 1, -1, -1):
            remainder, codebook, code = remainders[level], codebooks[level], codes[:, level]
            if self.learns_by_ema:
                summed, count = group_sums(remainder + codebook[code], code, len(codebook))
                sums.insert(0, summed)
            else:
                pull = remainder + later if model.residual else remainder
                summed, count = group_sums(pull, code, len(codebook))
                codebook.grad = summed * (-2 / len(x))
                if model.residual:
                    later = later + model.beta * remainder
            counts.insert(0, count)
        return torch.stack([reconstruction.detach(), quantization]), counts, sums

    @torch.no_grad()
    def _move_averages(self, counts: list[torch.Tensor], sums: list[torch.Tensor]) -> None:
        """Codewords follow the moving average of the inputs that chose them (van den Oord et al. 2017, A.1)."""
        for (count, total), new_count, new_total, codebook in zip(
            self.ema, counts, sums, self.network.codebooks, strict=True
        ):
            count.lerp_(new_count.to(count), 1 - EMA_DECAY)
            total.lerp_(new_total, 1 - EMA_DECAY)
            # a code that nobody chooses fades in both averages alike and stays where it is
            alive = count > 1e-6
            codebook.copy_(torch.where(alive[:, None], total / count.clamp(min=1e-6)[:, None], codebook))

    @torch.no_grad()
    def _restart(self, dead: list[torch.Tensor]) -> None:
        """Puts dead codes on the residuals of random items and forgets their optimizer state."""
        codebooks = list(self.network.codebooks)
        # as many distinct items as the largest codebook has codes; no mask is read back from the device
        rows = torch.randperm(len(self.x), generator=self.generator)[: max(len(c) for c in codebooks)]
        latent = self.network.encoder(pad_rows(self.x[rows.to(self.x.device)]))
        norms = [codebook.square().sum(1) for codebook in codebooks]
        codes, remainders, _ = quantize(latent, codebooks, norms, self.slices)
        for level, (codebook, mask) in enumerate(zip(codebooks, dead, strict=True)):
            inputs = remainders[level] + codebook[codes[:, level]]
            column = mask[:, None]
            codebook.copy_(torch.where(column, inputs[: len(codebook)], codebook))
            for state in self.optimizer.state.get(codebook, {}).values():
                if state.shape == codebook.shape:
                    state.masked_fill_(column, 0.0)
            if self.learns_by_ema:
                count, total = self.ema[level]
                count.masked_fill_(mask, 1.0)
                total.copy_(torch.where(column, codebook, total))

    def _decide_on_stop(self) -> None:
        recent = torch.stack(self.curves[-EARLY_STOP_INTERVAL:]).mean(0).tolist()
        reconstruction, usage = recent[0], min(recent[2:])
        if reconstruction < self.best * (1 - EARLY_STOP_GAIN):
            self.best, self.rounds_without_gain = reconstruction, 0
        else:
            self.rounds_without_gain += 1
        patient = self.rounds_without_gain < self.model.early_stop_patience
        self.stopped = not patient and usage >= self.model.usage_target

    # ------------------------------------------------------------------ checkpoints

    def save(self, path: Path, fingerprint: str) -> None:
        """Writes everything that the rest of the run depends on, to a temporary name first."""
        state = {
            "fingerprint": fingerprint,
            "epoch": self.epoch,
            "stopped": self.stopped,
            "best": self.best,
            "rounds_without_gain": self.rounds_without_gain,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": [list(pair) for pair in self.ema],
            "generator": self.generator.get_state(),
            "curves": torch.stack(self.curves) if self.curves else torch.zeros(0),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            torch.save(state, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, path: Path, fingerprint: str) -> None:
        """Continues where the checkpoint was written."""
        try:
            state = torch.load(path, map_location=self.x.device, weights_only=True)
            found = state["fingerprint"]
        except Exception as error:  # torch raises many types for a damaged file
            raise ValueError(f"the checkpoint {path} is damaged ({error}): delete it to start afresh.") from error
        if found != fingerprint:
            raise ValueError(
                f"the checkpoint {path} belongs to other embeddings or other settings: delete it to start afresh."
            )
        self.epoch, self.stopped = state["epoch"], state["stopped"]
        self.best, self.rounds_without_gain = state["best"], state["rounds_without_gain"]
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = [tuple(pair) for pair in state["ema"]]
        self.generator.set_state(state["generator"].cpu())
        self.curves = list(state["curves"])
