"""Training of RQ-VAE: arguments and embeddings in, a trained network, its curves and checkpoints out.

An encoder maps a content embedding x to a latent z; m codebooks quantize z level by level, each what the level
before left over; a decoder maps the sum of the codewords back to x. All are trained together on

    L(x) = |x - x'|^2 + sum_d ( |sg[r_d] - e_d|^2 + beta |r_d - sg[e_d]|^2 ),    r_{d+1} = r_d - e_d,

with the paper's norms taken literally: squares are summed over dimensions, and averaged over the items of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recbole_tiger.io import atomic_torch_save, checked_torch_load, make_folder
from recbole_tiger.quantization.codebooks import quantize
from recbole_tiger.quantization.kmeans import KMeansResult, group_sums, kmeans, pad_rows
from recbole_tiger.quantization.rqvae.parameters import LEARNERS, RQVAENetwork, RQVAEParameters

# van den Oord et al. (2017, appendix A.1) take 0.99, for runs of very many steps; an epoch of 12,000 items has 12.
EMA_DECAY = 0.95
# Early stopping looks at this many epochs together, and calls a smaller gain than this share no gain.
EARLY_STOP_INTERVAL = 10
EARLY_STOP_GAIN = 1e-3
_COUNTERS = ("epoch", "stopped", "best", "rounds_without_gain")


@dataclass(frozen=True)
class StepResult:
    """What a step on a batch leaves beside gradients.

    Attributes:
        losses: `[2]`, reconstruction and quantization term, on the device.
        counts: how often each code was chosen, `[K_d]` per level.
        sums: the sums of the inputs that chose it, `[K_d, width_d]` per level; empty where codebooks learn by gradient.
    """

    losses: torch.Tensor
    counts: list[torch.Tensor]
    sums: list[torch.Tensor]


class Training:
    """One training run: network, optimizer, generator and curves, at some epoch."""

    def __init__(self, model: RQVAEParameters, x: torch.Tensor) -> None:
        self.model = model
        self.x = x
        # one generator on the host draws weights, order and restarts, whatever the device
        self.generator = torch.Generator().manual_seed(int(model.random_state))
        self.network = RQVAENetwork(model, self.generator).to(x.device)
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
            found = self._initial(inputs, len(codebook), rng)
            codebook.copy_(found.centroids)
            residual[:, part] = inputs - found.centroids[found.codes]
            if self.learns_by_ema:
                sums, counts = group_sums(inputs, found.codes, len(codebook))
                # in units of one step, as the moving averages are
                share = min(self.model.batch_size, len(x)) / len(x)
                self.ema.append((counts * share, sums * share))

    def _initial(self, inputs: torch.Tensor, size: int, rng: np.random.Generator) -> KMeansResult:
        """Clusters of `inputs` whose centroids are a level's first codewords."""
        return kmeans(inputs, size, rng)

    def run_epoch(self) -> None:
        """One pass over the items. Nothing here waits for the device, except to decide on an early stop."""
        model, codebooks = self.model, self.network.codebooks
        totals = torch.zeros(2, device=self.x.device)
        chosen = [torch.zeros(len(c), dtype=torch.long, device=self.x.device) for c in codebooks]
        for rows in self._batches():
            found = self.step(self.x[rows], rows)
            totals += found.losses * len(rows)
            for total, count in zip(chosen, found.counts, strict=True):
                total += count
        usage = [(count > 0).float().mean() for count in chosen]
        self.curves.append(torch.stack([*(totals / len(self.x)), *usage]))
        self.epoch += 1
        if model.early_stop_patience and self.epoch % EARLY_STOP_INTERVAL == 0:
            self._decide_on_stop()
        due = model.dead_code_restart and self.epoch % model.dead_code_restart == 0
        if due and self.epoch < model.epochs and not self.stopped:
            self._restart([count == 0 for count in chosen])

    def step(self, x: torch.Tensor, rows: torch.Tensor | None = None) -> StepResult:
        """One optimizer step on a batch `[b, dim]`; `rows` `[b]` are its items."""
        found = self.backward(x, rows)
        self.optimizer.step()
        if self.learns_by_ema:
            self._move_averages(found)
        return found

    def backward(self, x: torch.Tensor, rows: torch.Tensor | None = None) -> StepResult:
        """Leaves the gradient of the batch's mean loss in every parameter; arguments as for `step`.

        The gradients of the quantization terms have a closed form. With q_d = r_d - e_d (what level d left over),
        both terms of a level have the value |q_d|^2; the codebook term's gradient with respect to e_d is -2 q_d,
        the commitment term's is 2 beta q_d with respect to z, and, because r_d = z - e_0 - ... - e_{d-1} and the
        paper puts no stop-gradient there, -2 beta q_d with respect to every earlier codeword.
        """
        self.optimizer.zero_grad(set_to_none=True)
        beta, residual, network = self.model.beta, self.model.residual, self.network
        latent = network.encoder(x)
        with torch.no_grad():
            codes, remainders, rest = self._quantize(latent)
            # without residuals the levels' remainders are the parts of the rest
            left = torch.stack(remainders).sum(0) if residual else rest
            distances = sum((r.square().sum(1).mean() for r in remainders), start=torch.zeros((), device=x.device))
            gradient = left * (2 * beta / len(x))  # of the commitment terms
            added = self._pull(latent - rest, rows)
            gradient = gradient if added is None else gradient + added
        # straight-through: the decoder sees the codewords, the gradient goes to the latent as it is
        reconstruction = (x - network.decoder(latent - rest)).square().sum(1).mean()
        torch.autograd.backward([reconstruction, latent], [None, gradient])

        counts: list[torch.Tensor] = []
        sums: list[torch.Tensor] = []
        later = torch.zeros_like(remainders[-1])  # beta times the remainders of all later levels
        for remainder, codebook, code in reversed(list(zip(remainders, network.codebooks, codes.T, strict=True))):
            if self.learns_by_ema:  # no gradient, but the sums that moving averages need
                pull = remainder + codebook[code]
            else:
                pull = remainder + later if residual else remainder
            summed, count = group_sums(pull, code, len(codebook))
            counts.insert(0, count)
            if self.learns_by_ema:
                sums.insert(0, summed)
                continue
            codebook.grad = summed * (-2 / len(x))
            if residual:
                later = later + beta * remainder
        return StepResult(torch.stack([reconstruction.detach(), (1 + beta) * distances]), counts, sums)

    def _quantize(self, latent: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """`quantize` with the codebooks as they are; without their duplicates' check, which waits for the device."""
        codebooks = list(self.network.codebooks)
        return quantize(latent, codebooks, [codebook.square().sum(1) for codebook in codebooks], self.slices)

    def _pull(self, quantized: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor | None:
        """Gradient of a further loss of a batch's quantized latents `[b, width]`; None where there is none."""
        return None

    @torch.no_grad()
    def _move_averages(self, found: StepResult) -> None:
        """Codewords follow the moving average of the inputs that chose them (van den Oord et al. 2017, A.1)."""
        for (count, total), new_count, new_total, codebook in zip(
            self.ema, found.counts, found.sums, self.network.codebooks, strict=True
        ):
            count.lerp_(new_count.to(count), 1 - EMA_DECAY)
            total.lerp_(new_total, 1 - EMA_DECAY)
            # a code that no item chooses fades in both averages alike and stays where it is
            alive = count > 1e-6
            codebook.copy_(torch.where(alive[:, None], total / count.clamp(min=1e-6)[:, None], codebook))

    @torch.no_grad()
    def _restart(self, dead: list[torch.Tensor]) -> None:
        """Puts dead codes on the residuals of random items and forgets their optimizer state."""
        codebooks = list(self.network.codebooks)
        # as many distinct items as the largest codebook has codes; no mask is read back from the device
        rows = torch.randperm(len(self.x), generator=self.generator)[: max(len(c) for c in codebooks)]
        latent = self.network.encoder(pad_rows(self.x[rows.to(self.x.device)]))
        codes, remainders, _ = self._quantize(latent)
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
        """Writes everything that the rest of the run depends on, whole or not at all."""
        state = {
            "fingerprint": fingerprint,
            **{name: getattr(self, name) for name in _COUNTERS},
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": [list(pair) for pair in self.ema],
            "generator": self.generator.get_state(),
            "curves": torch.stack(self.curves) if self.curves else torch.zeros(0),
        }
        make_folder(path.parent)
        atomic_torch_save(path, state)

    def load(self, path: Path, fingerprint: str) -> None:
        """Continues where the checkpoint was written."""
        try:
            state = checked_torch_load(path, self.x.device)
            found = state["fingerprint"]
        except Exception as error:  # torch raises many types for a damaged file
            raise ValueError(f"the checkpoint {path} is damaged ({error}): delete it to start again.") from error
        if found != fingerprint:
            raise ValueError(
                f"the checkpoint {path} belongs to other embeddings or other settings: delete it to start again."
            )
        for name in _COUNTERS:
            setattr(self, name, state[name])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema = [tuple(pair) for pair in state["ema"]]
        self.generator.set_state(state["generator"].cpu())
        self.curves = list(state["curves"])
