"""Tokenizers: content embeddings in, semantic-ID codes out. Plain torch and numpy, no RecBole."""

from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.hierarchical_kmeans import HierarchicalKMeans
from recbole_tiger.quantization.letter import LETTER
from recbole_tiger.quantization.lsh import LSH
from recbole_tiger.quantization.pq import ProductQuantizer
from recbole_tiger.quantization.random_ids import RandomIDs
from recbole_tiger.quantization.registry import QUANTIZERS, build_quantizer, quantizer_from_state_dict
from recbole_tiger.quantization.rkmeans import ResidualKMeans
from recbole_tiger.quantization.rqvae import RQVAE, RQVAE_PAPER, RQVAE_TUNED, VQVAE
from recbole_tiger.quantization.scaling import Scaler

__all__ = [
    "LETTER",
    "LSH",
    "QUANTIZERS",
    "RQVAE",
    "RQVAE_PAPER",
    "RQVAE_TUNED",
    "VQVAE",
    "HierarchicalKMeans",
    "ProductQuantizer",
    "Quantizer",
    "RandomIDs",
    "ResidualKMeans",
    "Scaler",
    "build_quantizer",
    "quantizer_from_state_dict",
]
