"""P5: sequential recommendation as text, by a T5 that reads item numbers and writes the next one.

Reference:
    Shijie Geng et al. "Recommendation as Language Processing (RLP): A Unified Pretrain, Personalized Prompt & Predict
    Paradigm (P5)." RecSys 2022; as the baseline of TIGER's paper, section 4.2.1 and Appendix A ("P5-ours": the
    sequential task only, random item numbers).
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from recbole_tiger.data.p5_text import (
    P5Text,
    consecutive_numbers,
    own_pieces,
    random_numbers,
    tokenizer_pieces,
    words_of_templates,
)
from recbole_tiger.decoding import PrefixTrie
from recbole_tiger.errors import ConfigError
from recbole_tiger.model.generative import GenerativeRecommender
from recbole_tiger.nn import Seq2Seq, Seq2SeqStepDecoder, T5Config

#: Logits that a decoding step may hold at once (users x beams x vocabulary): 256 MB of float32.
MAX_LOGITS = 2**26


class TextStepDecoder(Seq2SeqStepDecoder):
    """A step decoder over the whole vocabulary at every level; after the end token padding has probability 1.

    Items of fewer pieces are padded in the trie, and what the network says after their end must not count.
    """

    def __init__(self, model: Seq2Seq, memory: torch.Tensor, mask: torch.Tensor, depth: int, pad: int, end: int):
        super().__init__(model, memory, mask, [slice(0, model.config.vocab_size)] * depth, start_token=pad)
        self.pad, self.end = pad, end

    def advance(self, level: int, parents: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        logits = super().advance(level, parents, codes)
        ended = ((codes == self.end) | (codes == self.pad))[:, :, None]
        logits = logits.masked_fill_(ended, -torch.inf)
        logits[:, :, self.pad] = torch.where(ended[:, :, 0], 0.0, logits[:, :, self.pad])
        return logits


class P5(GenerativeRecommender):
    """Predicts the number of the next item, word piece by word piece, from a prompt that lists the user's items.

    As in P5 an embedding of the word that a piece belongs to is added to the encoder's input, and the loss is the mean
    cross-entropy of an item's pieces and the end token, over the whole vocabulary. A training example's prompt is drawn
    from the templates with torch's generator (which the run's seed sets and a checkpoint keeps); evaluation has one.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)

        # load parameters info
        self.likelihood = config["likelihood"]

        # load dataset info
        item_ids = [str(item) for item in dataset.field2id_token[dataset.iid_field][1:]]
        user_ids = [str(user) for user in dataset.field2id_token[dataset.uid_field][1:]]
        item_numbers = _item_numbers(config, dataset, item_ids)
        user_numbers = random_numbers(user_ids, [config["seed"], 1]) if config["p5_user_number"] else None
        self.item_checksum = zlib.crc32("\x00".join(item_ids).encode("utf-8"))

        # define layers and loss
        folder = config["p5_checkpoint"]
        if folder:
            t5 = checkpoint_config(folder, config["dropout_rate"])
            pieces = tokenizer_pieces(folder, t5.vocab_size, t5.pad_token_id, _read_config(folder)["eos_token_id"])
        else:
            numbers = [*item_numbers, *([] if user_numbers is None else user_numbers)]
            pieces = own_pieces([*words_of_templates(), *map(str, numbers)])
            t5 = T5Config.of(config, vocab_size=pieces.size, pad_token_id=pieces.pad)
        self.text = P5Text(pieces, item_numbers, user_numbers, config["MAX_ITEM_LIST_LENGTH"])
        self.seq2seq = Seq2Seq(t5)
        if folder:
            _load_weights(self.seq2seq, folder)
        # A large vocabulary (T5's 32,128 pieces) leaves room for fewer users at once.
        n_users = MAX_LOGITS // (self.beam_size * t5.vocab_size)
        self.decode_batch_size = max(1, min(self.decode_batch_size, n_users))
        # Begins at nn.Embedding's standard normal, as T5's token embeddings (and P5's whole-word ones) do.
        self.whole_words = nn.Embedding(self.text.n_words, t5.d_model)
        self.trie = PrefixTrie.from_codes(self.text.targets[1:].numpy(), pieces.size)
        if isinstance(self.temperature, (list, tuple)) and len(self.temperature) != self.trie.depth:
            raise ConfigError(
                f"temperature={self.temperature} names {len(self.temperature)} levels, but the longest item number has "
                f"{self.trie.depth} word pieces, its end included; give one temperature"
            )

    def encode(
        self,
        users: torch.Tensor | None,
        history: torch.Tensor,
        lengths: torch.Tensor,
        templates: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Histories -> memory [B, T, d_model] and mask [B, T] of their prompts; arguments as in :class:`P5Text`."""
        prompts = self.text(users, history, lengths, templates)
        embeds = self.seq2seq.embed(prompts.tokens) + self.whole_words(prompts.words)
        return self.seq2seq.encode(None, prompts.mask, inputs_embeds=embeds), prompts.mask

    def forward(self, interaction, items: torch.Tensor, templates: torch.Tensor | None = None) -> torch.Tensor:
        """Teacher-forced logits [B, D, V] of the word pieces of ``items`` [B]; see :attr:`P5Text.targets`."""
        memory, mask = self.encode(
            interaction[self.USER_ID], interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], templates
        )
        targets = self.text.targets[items]
        hidden = self.seq2seq.decode(F.pad(targets[:, :-1], (1, 0), value=self.text.pad), memory, mask)
        return self.seq2seq.logits(hidden)

    def calculate_loss(self, interaction):
        """Mean over examples of the mean cross-entropy of the target item's pieces."""
        items = interaction[self.POS_ITEM_ID]
        templates = torch.randint(self.text.n_templates, items.shape, device=items.device)
        targets = self.text.targets[items]  # [B, D]
        logits = self.forward(interaction, items, templates)
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=self.text.pad, reduction="none")
        return (losses.sum(1) / (targets != self.text.pad).sum(1)).mean()

    def predict(self, interaction):
        """Log-likelihood of each row's item: [B]."""
        items = interaction[self.ITEM_ID]
        targets = self.text.targets[items]
        steps = F.log_softmax(self.forward(interaction, items), dim=-1).gather(2, targets[:, :, None])[:, :, 0]
        return steps.masked_fill(targets == self.text.pad, 0.0).sum(1)

    def step_decoder(self, users: torch.Tensor | None, history: torch.Tensor, lengths: torch.Tensor) -> TextStepDecoder:
        """A fresh decoder of a batch of prompts; arguments as in :meth:`recommend`."""
        memory, mask = self.encode(users, history, lengths)
        return TextStepDecoder(self.seq2seq, memory, mask, self.trie.depth, self.text.pad, self.text.end)

    def other_parameter(self):
        """What the weights mean: the word pieces of every item, and which items these are."""
        return {"item_pieces": self.text.targets, "item_checksum": self.item_checksum}

    def load_other_parameter(self, para):
        """Check that the weights were trained with the item numbers and word pieces that this model has.

        Raises:
            ConfigError: for another catalogue, another numbering, or another tokenizer.
        """
        if para and (
            para["item_checksum"] != self.item_checksum
            or not torch.equal(para["item_pieces"].to(self.text.targets.device), self.text.targets)
        ):
            raise ConfigError(
                "the checkpoint was trained with other items, item numbers or word pieces: use the data, the seed, "
                "p5_item_numbers and p5_checkpoint of that run"
            )


def _item_numbers(config, dataset, item_ids: list[str]):
    if config["p5_item_numbers"] == "random":
        return random_numbers(item_ids, [config["seed"], 0])
    return consecutive_numbers(dataset.sequences.items, len(item_ids))


# --------------------------------------------------------------------------------------------- a T5 checkpoint's folder

#: Of old T5 checkpoints: a bias that no T5 reads.
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
_SHARED = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def _read_config(folder: str) -> dict:
    path = Path(folder) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"p5_checkpoint='{folder}': cannot read '{path}' ({error}); name a folder with config.json, "
            "model.safetensors (or pytorch_model.bin) and tokenizer.json, as Hugging Face's save_pretrained writes it"
        ) from error
    content = content if isinstance(content, dict) else {}
    missing = [
        key for key in ("vocab_size", "d_model", "d_kv", "d_ff", "num_heads", "num_layers") if key not in content
    ]
    if missing or content.get("model_type") != "t5":
        raise ConfigError(f"p5_checkpoint='{folder}': its config.json is not that of a T5; use a T5 checkpoint")
    return {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0, "feed_forward_proj": "relu", **content}


def checkpoint_config(folder: str, dropout_rate: float) -> T5Config:
    """Sizes of the T5 in a folder in Hugging Face's layout.

    Raises:
        ConfigError: no such folder, no T5, or a T5 of another kind (1.1, Flan: gated feed-forward).
    """
    content = _read_config(folder)
    if content["feed_forward_proj"] != "relu":
        raise ConfigError(
            f"p5_checkpoint='{folder}': feed_forward_proj={content['feed_forward_proj']!r} (T5 1.1, Flan-T5), but only "
            "the first T5's 'relu' is built here; use a checkpoint of T5 1.0 such as t5-small or t5-base, as P5 does"
        )
    if content["decoder_start_token_id"] != content["pad_token_id"]:
        raise ConfigError(
            f"p5_checkpoint='{folder}': the decoder starts with token {content['decoder_start_token_id']}, not with "
            f"padding ({content['pad_token_id']}) as T5's does; use a T5 checkpoint"
        )
    optional = ("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon")
    return T5Config(
        vocab_size=content["vocab_size"],
        d_model=content["d_model"],
        d_kv=content["d_kv"],
        d_ff=content["d_ff"],
        num_heads=content["num_heads"],
        num_encoder_layers=content["num_layers"],
        num_decoder_layers=content.get("num_decoder_layers") or content["num_layers"],
        dropout_rate=dropout_rate,
        tie_word_embeddings=content.get("tie_word_embeddings", True),
        pad_token_id=content["pad_token_id"],
        **{key: content[key] for key in optional if key in content},
    )


def checkpoint_weights(folder: str) -> dict[str, torch.Tensor]:
    """The weights in a folder in Hugging Face's layout, whole or in parts; opening them runs no code.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    from safetensors.torch import load_file

    files = sorted(Path(folder).glob("model*.safetensors")) or sorted(Path(folder).glob("pytorch_model*.bin"))
    if not files:
        raise ConfigError(f"p5_checkpoint='{folder}': it holds neither model.safetensors nor pytorch_model.bin")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            part = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        except Exception as error:  # each reader has exceptions of its own
            raise ConfigError(
                f"p5_checkpoint: '{file}' cannot be read ({error}); download the checkpoint again"
            ) from error
        state.update(part)
    state.pop(_UNUSED, None)
    for name in _SHARED:  # one matrix under several names, of which a file holds some
        if name in state:
            state.setdefault("shared.weight", state[name])
    return state


def _load_weights(seq2seq: Seq2Seq, folder: str) -> None:
    try:
        seq2seq.load_hf_state_dict(checkpoint_weights(folder))
    except ConfigError:
        raise
    except (ValueError, KeyError) as error:
        raise ConfigError(f"p5_checkpoint='{folder}': its weights are not those of its config.json: {error}") from error
