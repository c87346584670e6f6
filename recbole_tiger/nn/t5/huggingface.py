"""Weights to and from Hugging Face's `T5ForConditionalGeneration`, one to one.

Input: our parameters by name, or that class's state dict. Output: the same weights under the other's names.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recbole_tiger.nn.t5.config import T5Config

_HF_PARTS = {
    "embedding": "shared",
    "layers": "block",
    "relative_bias": "block.0.layer.0.SelfAttention.relative_attention_bias",
    "self_norm": "layer.0.layer_norm",
    "self_attention": "layer.0.SelfAttention",
    "cross_norm": "layer.1.layer_norm",
    "cross_attention": "layer.1.EncDecAttention",
    "ff_norm": "layer.{last}.layer_norm",
    "feed_forward": "layer.{last}.DenseReluDense",
    "final_norm": "final_layer_norm",
}
_INPUTS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # both are shared.weight


def export_weights(parameters: Mapping[str, Tensor], config: T5Config) -> dict[str, Tensor]:
    """Copies of our parameters under Hugging Face's names; errors as for `Seq2Seq.to_hf_state_dict`."""
    if config.cross_position_bias:
        raise ValueError("T5 has no position bias in its cross-attention: set cross_position_bias to False")
    state: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        for hf_name, rows in _hf_names(name, config.num_heads * config.d_kv):
            state[hf_name] = parameter.detach()[rows].clone()
    shared = state["shared.weight"]
    state.update(dict.fromkeys(_INPUTS, shared))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = shared
    return state


@torch.no_grad()
def import_weights(parameters: Mapping[str, Tensor], config: T5Config, state: Mapping[str, Tensor]) -> None:
    """Copy a Hugging Face state dict into our parameters; errors as for `Seq2Seq.load_hf_state_dict`."""
    aliases = {*_INPUTS}
    if config.tie_word_embeddings:
        aliases.add("lm_head.weight")
        head = state.get("lm_head.weight")
        if head is not None and not torch.equal(head, state["shared.weight"]):
            raise ValueError("lm_head.weight differs from shared.weight: set tie_word_embeddings to False")
    inner = config.num_heads * config.d_kv
    wanted = {hf: (p, rows) for name, p in parameters.items() for hf, rows in _hf_names(name, inner)}
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys() - aliases)
    if missing or unknown:
        raise ValueError(f"the weights do not fit this model: missing {missing[:5]}, unknown {unknown[:5]}")
    for hf_name, (parameter, rows) in wanted.items():
        target = parameter[rows]
        if target.shape != state[hf_name].shape:
            raise ValueError(
                f"{hf_name} has shape {tuple(state[hf_name].shape)}, but this model needs {tuple(target.shape)}"
            )
        target.copy_(state[hf_name])


def _hf_names(name: str, inner: int) -> list[tuple[str, slice]]:
    """Names in Hugging Face's T5 for our parameter `name`, each with the rows of ours that it holds."""
    last = 2 if name.startswith("decoder") else 1
    *path, matrix, weight = (_HF_PARTS.get(part, part).format(last=last) for part in name.split("."))
    if matrix not in ("qkv", "kv"):
        return [(".".join([*path, matrix, weight]), slice(None))]
    rows = (slice(start, start + inner) for start in range(0, len(matrix) * inner, inner))
    return [(".".join([*path, letter, weight]), part) for letter, part in zip(matrix, rows, strict=True)]
