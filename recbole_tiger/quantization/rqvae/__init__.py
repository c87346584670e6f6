"""RQ-VAE, the paper's tokenizer (sections 3.1.1 and 4.1.3): embeddings in, residual-quantized codes out."""

from recbole_tiger.quantization.rqvae.parameters import RQVAE_PAPER, RQVAE_TUNED
from recbole_tiger.quantization.rqvae.quantizer import RQVAE, VQVAE

__all__ = ["RQVAE", "RQVAE_PAPER", "RQVAE_TUNED", "VQVAE"]
