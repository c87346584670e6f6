"""Sentences to content embeddings (paper, sections 3.1 and 4.1.3): one module for each encoder."""

from recbole_tiger.content.encoders.base import Encoder
from recbole_tiger.content.encoders.registry import ENCODERS, build_encoder

__all__ = ["ENCODERS", "Encoder", "build_encoder"]
