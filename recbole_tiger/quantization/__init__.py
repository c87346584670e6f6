"""Tokenizers: content embeddings in, semantic-ID codes out. Plain torch and numpy, no RecBole."""

from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.registry import QUANTIZERS, build_quantizer, quantizer_from_state_dict
from recbole_tiger.quantization.rqvae import RQVAE_PAPER, RQVAE_TUNED
from recbole_tiger.quantization.scaling import Scaler

__all__ = [
    "QUANTIZERS",
    "RQVAE_PAPER",
    "RQVAE_TUNED",
    "Quantizer",
    "Scaler",
    "build_quantizer",
    "quantizer_from_state_dict",
]
