"""RQ-VAE and VQ-VAE as quantizers: embeddings in, a trained network and its codes out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_tiger.io import to_plain
from recbole_tiger.quantization.kmeans import MIN_ROWS, pad_rows, single_threaded
from recbole_tiger.quantization.rqvae.parameters import RQVAENetwork, RQVAEParameters
from recbole_tiger.quantization.rqvae.training import Training


class RQVAE(RQVAEParameters):
    """Residual-quantized variational autoencoder (sections 3.1.1 and 4.1.3); arguments as in `RQVAEParameters`.

    Attributes:
        network_: the learned weights by name.
        history_: per epoch `reconstruction` and `quantization` (the two terms of the loss, means over items)
            and `usage_1` ... `usage_m` (share of the codes chosen in the epoch).
    """

    name = "rqvae"

    def _fit(self, x: NDArray[Any], *, progress: bool, checkpoint: str | Path | None) -> None:
        sizes = [len(x), self.latent_dim, *self.hidden_sizes, x.shape[1]]
        with single_threaded(min(sizes) < MIN_ROWS):
            training = self._training(self._matrix(x))
            path = None if checkpoint is None else Path(checkpoint)
            fingerprint = "" if path is None else self._fingerprint(x)
            if path is not None and path.exists():
                training.load(path, fingerprint)
            else:
                training.initialise_codebooks()
            with self._bar(
                progress, desc=f"{self.name} training", unit="epoch", total=self.epochs, initial=training.epoch
            ) as bar:
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

    def _training(self, x: torch.Tensor) -> Training:
        """A training run before its first epoch."""
        return Training(self, x)

    def _fingerprint(self, x: NDArray[Any]) -> str:
        """Names arguments and data, so that a checkpoint is continued only by the run that wrote it."""
        params = to_plain(self.get_params(), other=str)
        del params["checkpoint_interval"]
        digest = hashlib.blake2b(json.dumps([self.name, params, x.shape], sort_keys=True).encode())
        digest.update(np.ascontiguousarray(x, dtype=np.float32).data)
        return digest.hexdigest()

    def _fitted_network(self) -> RQVAENetwork:
        """The learned network on the device."""

        def load() -> RQVAENetwork:
            network = RQVAENetwork(self, torch.Generator())
            network.load_state_dict(self.network_)
            return network.to(self._device).requires_grad_(False)

        return self._kept("network", self.network_, load)

    def _codebooks(self) -> list[torch.Tensor]:
        network = self._fitted_network()
        return self._kept("codebooks", network, lambda: list(network.codebooks))

    def _to_latent(self, x: torch.Tensor) -> torch.Tensor:
        latent: torch.Tensor = self._fitted_network().encoder(pad_rows(x))
        return latent[: len(x)]

    def _from_latent(self, latent: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = self._fitted_network().decoder(pad_rows(latent))
        return embeddings[: len(latent)]


class VQVAE(RQVAE):
    """Vector-quantized autoencoder (section 3.1.2); arguments as in `RQVAE`.

    The latent is cut into `id_length` parts, which differ by at most one in width, and every part has a codebook of its
    own: the codes have no order from coarse to fine, "the hierarchical nature" that the paper misses here.
    """

    name = "vqvae"
    residual = False

    def _check_arguments(self, dim: int) -> None:
        super()._check_arguments(dim)
        if self.latent_dim < self.id_length:
            raise ValueError(f"latent_dim={self.latent_dim} cannot be cut into id_length={self.id_length} parts.")

    def _missing(self, codebook: torch.Tensor) -> torch.Tensor:
        return codebook.mean(0)
