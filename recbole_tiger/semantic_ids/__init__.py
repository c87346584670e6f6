"""Semantic IDs of a catalogue: codes in, a table with one ID per item out. Plain torch and numpy, no RecBole."""

from recbole_tiger.semantic_ids.table import COLLISIONS, SemanticIDTable

__all__ = ["COLLISIONS", "SemanticIDTable"]
