"""The dataset hook: item text to Semantic IDs, each step cached under a key of all that it depends on.

Input: a `Config` and the item ids in internal order. Output: a `TokenizedCatalogue`, the Semantic ID table with the
quantizer and scaler that made it.
"""

from __future__ import annotations

import inspect
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from recbole_tiger.cache import ArrayCache, content_key
from recbole_tiger.content.columns import DEFAULT_FIELDS, read_item_table
from recbole_tiger.content.cooccurrence import collaborative_vectors, cooccurrence_vectors
from recbole_tiger.content.encoders import Encoder, build_encoder
from recbole_tiger.content.sentences import build_sentences, item_titles
from recbole_tiger.content.vectors import ItemVectors
from recbole_tiger.distributed.collectives import from_main, is_main
from recbole_tiger.errors import ConfigError
from recbole_tiger.extension import registered_in, source_key
from recbole_tiger.quantization import QUANTIZERS, Quantizer, Scaler, build_quantizer, quantizer_from_state_dict
from recbole_tiger.semantic_ids import SemanticIDTable

#: Items [n], from 0 on, of the training interactions in the order of user and time, and the user [n] of each.
TrainingInteractions = tuple[np.ndarray, np.ndarray]

#: Raised when what a cache entry holds changes its meaning.
CACHE_VERSION = 1


@dataclass(frozen=True)
class TokenizedCatalogue:
    """Semantic IDs and where they came from.

    Attributes:
        table: codes of every item.
        quantizer: None for IDs read from a file.
        scaler: what was applied to embeddings before the quantizer; None for IDs read from a file.
        titles: what to call each item, in internal order; None without an item file.
        sentences: item text that new items are embedded beside, for content_encoder=tfidf_svd; None for the others.
        vectors: content that the model reads beside the IDs (`use_content`); None without.
        seconds: time of each stage ("item text", "embeddings", "semantic IDs").
        files: cache files, by stage.
        cached: stages that were read from the cache.
    """

    table: SemanticIDTable
    quantizer: Quantizer | None = None
    scaler: Scaler | None = None
    titles: list[str] | None = None
    sentences: list[str] | None = None
    vectors: ItemVectors | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    cached: tuple[str, ...] = ()

    @property
    def content_rows(self) -> torch.Tensor | None:
        """The vector of each item, float16 `[n_items + 1, dim]`; None where the model reads none."""
        return None if self.vectors is None else self.vectors.rows

    def with_table(self, table: SemanticIDTable, embeddings: np.ndarray | None) -> TokenizedCatalogue:
        """These with another table, which has new items at its end; `embeddings` `[n, dim]` are theirs."""
        vectors = self.vectors
        if vectors is not None:
            assert embeddings is not None, "new items of a model with content come with embeddings"
            vectors = vectors.with_new(embeddings)
        return replace(self, table=table, vectors=vectors)

    def state_dict(self) -> dict[str, Any]:
        """All that says what an item's ID is and what a new item's would be, as plain values and tensors."""
        parts = {"table": self.table, "quantizer": self.quantizer, "scaler": self.scaler}
        state = {name: None if part is None else part.state_dict() for name, part in parts.items()}
        own = {} if self.vectors is None else {"vectors": self.vectors.state_dict()}
        return {**state, "titles": self.titles, "sentences": self.sentences, **own}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> TokenizedCatalogue:
        """The inverse of `state_dict`."""
        return cls(
            table=SemanticIDTable.from_state_dict(state["table"]),
            quantizer=None if state["quantizer"] is None else quantizer_from_state_dict(state["quantizer"]),
            scaler=None if state["scaler"] is None else Scaler.from_state_dict(state["scaler"]),
            titles=state.get("titles"),
            sentences=state.get("sentences"),
            vectors=ItemVectors.from_state_dict(state["vectors"]) if "vectors" in state else None,
        )


@dataclass(frozen=True)
class Content:
    """Item content: one sentence and one embedding [n_items, dim] for each item, in internal order."""

    sentences: list[str]
    embeddings: np.ndarray
    key: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    cached: tuple[str, ...] = ()


def item_file(config) -> Path:
    """The `.item` file of a dataset."""
    return Path(config["data_path"]) / f"{config['dataset']}.item"


def item_table(config) -> pd.DataFrame:
    """The `.item` file as text columns.

    Raises:
        ConfigError: if the dataset has no item file.
    """
    path = item_file(config)
    if not path.is_file():
        raise ConfigError(
            f"dataset='{config['dataset']}' has no item text: '{path}' is missing; add it (a column of item ids and "
            "text columns such as title), or use semantic_id=random or semantic_id=file, which need no text"
        )
    return _read_table(path, config)


def _read_table(path: str | Path, config) -> pd.DataFrame:
    table = read_item_table(
        path,
        config["field_separator"],
        config["encoding"] or "utf-8",
        id_field=config["ITEM_ID_FIELD"],
        seq_separator=config["seq_separator"],
    )
    for note in table.attrs["notes"]:
        getLogger().warning(note)
    return table


def titles_of(config, items: list[str]) -> list[str] | None:
    """What to call each item; its id where the item file has no one line for it, None without an item file."""
    if not item_file(config).is_file():
        return None
    table, id_field = item_table(config), config["ITEM_ID_FIELD"]
    table = table.drop_duplicates(id_field, keep=False)
    named = set(table[id_field])
    present = [item for item in items if item in named]
    found = item_titles(table, present, id_field, seq_separator=config["seq_separator"])
    titles = dict(zip(present, found, strict=True))
    return [titles.get(item, item) for item in items]


def _sentences(config, table: pd.DataFrame, items: Sequence[str], fields: Sequence[str] | None) -> list[str]:
    """One sentence per item from the columns of an `.item` file (paper 4.1.3)."""
    id_field, template = config["ITEM_ID_FIELD"], config["content_template"]
    return build_sentences(table, items, id_field, fields, template, seq_separator=config["seq_separator"])


def encoder_of(config, item_file_ids: Sequence[str] | None = None) -> Encoder:
    """The encoder that the settings describe; `item_file_ids` as for `Precomputed`."""
    return build_encoder(
        config["content_encoder"],
        model=config["content_model"],
        file=config["content_file"],
        dim=config["content_dim"],
        batch_size=config["content_batch_size"],
        device=str(config["device"]),
        random_state=0,  # of the truncated SVD: the text of a catalogue has one embedding, whatever the run's seed
        item_file_ids=item_file_ids,
    )


def item_content(config, items: list[str]) -> Content:
    """Sentences and content embeddings of the items, the embeddings from the cache where they are there."""
    started, precomputed = perf_counter(), config["content_encoder"] == "precomputed"
    sentences = [""] * len(items)
    if not precomputed:
        sentences = _sentences(config, item_table(config), items, config["content_fields"])
    read = perf_counter()
    # The rows of an .npy file are in the order of the .item file, which is not the internal order.
    without_ids = precomputed and str(config["content_file"]).endswith(".npy")
    encoder = encoder_of(config, item_table(config)[config["ITEM_ID_FIELD"]].tolist() if without_ids else None)
    key = content_key(CACHE_VERSION, "embeddings", sentences, items, encoder.fingerprint())
    unfinished = Path(config["cache_dir"]) / f"{config['dataset']}-embeddings-{key}.unfinished"
    value, path, hit = ArrayCache(config["cache_dir"]).get_or_compute(
        f"{config['dataset']}-embeddings",
        key,
        lambda: {"embeddings": encoder.encode(sentences, items, bool(config["show_progress"]), unfinished)},
        describe="content embeddings",
    )
    shutil.rmtree(unfinished, ignore_errors=True)
    return Content(
        sentences=sentences,
        embeddings=value["embeddings"],
        key=key,
        seconds={"item text": read - started, "embeddings": perf_counter() - read},
        files={"embeddings": str(path)},
        cached=("embeddings",) if hit else (),
    )


def scaler_of(config) -> Scaler:
    """What `content_standardize` asks for: True is the z-score of each dimension."""
    mode = config["content_standardize"]
    return Scaler({True: "zscore", False: "none", None: "none"}.get(mode, mode), config["content_components"])


def quantizer_of(config) -> Quantizer:
    """The quantizer that the settings describe: `<semantic_id>_<argument>` keys are its arguments."""
    name = config["semantic_id"]
    arguments = {
        "id_length": config["id_length"],
        "codebook_size": config["codebook_size"],
        "random_state": config["seed"] if config["semantic_id_seed"] is None else config["semantic_id_seed"],
        "device": str(config["device"]),
    }
    for argument in inspect.signature(QUANTIZERS[name]).parameters:
        if f"{name}_{argument}" in config:
            arguments[argument] = config[f"{name}_{argument}"]
    return build_quantizer(name, **arguments)


def quantizer_input(
    config, scaler: Scaler, embeddings: np.ndarray, interactions: TrainingInteractions | None
) -> np.ndarray:
    """What the quantizer is fitted on, `[n, width]`: embeddings as `scaler`, fitted here, scales them, and for
    `content_cooccurrence` vectors of item co-occurrence in the training sequences beside them.

    Raises:
        ConfigError: where no items co-occur.
    """
    scaled = scaler.fit(embeddings).transform(embeddings)
    weight = config["content_cooccurrence"]
    if not weight or interactions is None:
        return scaled
    try:
        return scaler.fit_beside(scaled, cooccurrence_vectors(*interactions, len(embeddings)), weight)
    except ValueError as error:
        raise ConfigError(
            f"content_cooccurrence={weight}, but no two items follow each other in a training sequence of "
            f"dataset='{config['dataset']}'; set it to 0"
        ) from error


def prepare_semantic_ids(
    config, items: list[str], interactions: TrainingInteractions | None = None
) -> TokenizedCatalogue:
    """Semantic IDs for the items of a dataset, in internal order; of several processes the first makes them for all.

    Raises:
        ValueError: for anything in the settings, the item text or the cache that cannot work; the message says what.
    """
    made = None
    if is_main():
        made = _semantic_ids(config, items, interactions)
    state = from_main(lambda: cast(TokenizedCatalogue, made).state_dict())  # runs in the first process alone
    return made or TokenizedCatalogue.from_state_dict(state)


def _semantic_ids(config, items: list[str], interactions: TrainingInteractions | None) -> TokenizedCatalogue:
    method = config["semantic_id"]
    if method != "file":
        _check_codebooks(config, len(items))
    # `file` and `random` look at no content, so none is asked for unless the model reads it.
    content = item_content(config, items) if config["use_content"] or method not in ("file", "random") else None
    if method == "file":
        made = _ids_from_file(config, items)
    else:
        made = _ids_from_content(config, items, None if method == "random" else content, interactions)
    if content is None:
        return made
    return replace(
        made,
        sentences=content.sentences if config["content_encoder"] == "tfidf_svd" else None,
        vectors=ItemVectors.fit(content.embeddings) if config["use_content"] else None,
    )


def _check_codebooks(config, n_items: int) -> None:
    if max(np.atleast_1d(config["codebook_size"])) > n_items and QUANTIZERS[config["semantic_id"]].learns_codewords:
        fits = 1 << max(1, (n_items // 2).bit_length() - 1)  # a power of two, at least two items per codeword
        raise ConfigError(
            f"codebook_size={config['codebook_size']} is larger than the catalogue ({n_items} items): most "
            f"codewords could never be used; lower codebook_size, for example to {fits}"
        )


def _ids_from_file(config, items: list[str]) -> TokenizedCatalogue:
    started = perf_counter()
    table = SemanticIDTable.from_file(config["semantic_id_file"], items, collision=config["collision"])
    getLogger().info(f"Semantic IDs read from {config['semantic_id_file']}")
    return TokenizedCatalogue(
        table=table,
        titles=titles_of(config, items),
        seconds={"semantic IDs": perf_counter() - started},
        files={"semantic IDs": str(config["semantic_id_file"])},
    )


def _ids_from_content(
    config, items: list[str], content: Content | None, interactions: TrainingInteractions | None
) -> TokenizedCatalogue:
    """IDs that a quantizer makes of content; without any (`semantic_id=random`) of the items' numbers."""
    scaler = scaler_of(config)
    if content is None:
        content = Content([], np.arange(len(items), dtype=np.float64)[:, None])
        scaler, interactions = Scaler("none", None), None
    started = perf_counter()
    quantizer = quantizer_of(config)
    arguments = {argument: value for argument, value in quantizer.get_params().items() if argument != "device"}
    learned_from = [CACHE_VERSION, content.key, items, scaler.mode, scaler.n_components, quantizer.name, arguments]
    if not config["content_cooccurrence"] and (config["collaborative_file"] or not quantizer.aligns_items):
        interactions = None  # nothing reads them
    cooccurrence = [] if interactions is None else [config["content_cooccurrence"], *interactions]
    if config["collaborative_file"]:
        cooccurrence.append(Path(config["collaborative_file"]))
    own_code = [source_key(own) for own in registered_in({"semantic_id": config["semantic_id"]}).values()]
    key = content_key(*learned_from, config["collision"], *cooccurrence, *own_code)

    # A quantizer that is trained for long continues a killed run's file, which goes once the result is kept.
    unfinished = Path(config["cache_dir"]) / f"{config['dataset']}-{quantizer.name}-{key}.unfinished.pth"

    def compute() -> dict[str, np.ndarray]:
        getLogger().info(f"Making Semantic IDs of {len(items)} items with {quantizer.name}")
        scaled = quantizer_input(config, scaler, content.embeddings, interactions)
        beside: dict[str, np.ndarray] = {}
        if quantizer.aligns_items:
            beside["collaborative"] = collaborative_vectors(config["collaborative_file"], items, interactions)
        quantizer.fit(scaled, progress=bool(config["show_progress"]), checkpoint=unfinished, **beside)
        codes = quantizer.transform(scaled)
        table = SemanticIDTable.from_codes(
            codes,
            items,
            quantizer.codebook_sizes_,
            collision=config["collision"],
            level_costs=lambda rows: quantizer.last_level_costs(scaled[rows], codes[rows]),
        )
        buffer = io.BytesIO()
        torch.save(TokenizedCatalogue(table, quantizer, scaler).state_dict(), buffer)
        return {"state": np.frombuffer(buffer.getvalue(), dtype=np.uint8)}

    value, path, hit = ArrayCache(config["cache_dir"]).get_or_compute(
        f"{config['dataset']}-{quantizer.name}", key, compute, describe="Semantic IDs"
    )
    unfinished.unlink(missing_ok=True)
    state = torch.load(io.BytesIO(value["state"].tobytes()), weights_only=True)
    return replace(
        TokenizedCatalogue.from_state_dict(state),
        titles=titles_of(config, items),
        seconds={**content.seconds, "semantic IDs": perf_counter() - started},
        files={**content.files, "semantic IDs": str(path)},
        cached=content.cached + (("semantic IDs",) if hit else ()),
    )


def read_new_items(path: str | Path, config) -> tuple[pd.DataFrame, list[str]]:
    """The table and the item ids of an `.item` file with items that came after training.

    Raises:
        ValueError: for a file that is missing, not in RecBole's form, or without items.
    """
    table = _read_table(path, config)
    return table, table[config["ITEM_ID_FIELD"]].tolist()


def sentences_of_new_items(table: pd.DataFrame, items: Sequence[str], config) -> list[str]:
    """One sentence per new item, from the same columns as those of the catalogue.

    A column that is empty for all new items is left out: a catalogue has none such, a file of one item may.

    Raises:
        ValueError: naming items without any text.
    """
    id_field, fields = config["ITEM_ID_FIELD"], config["content_fields"]
    if config["content_template"] is None:
        wanted = [fields] if isinstance(fields, str) else list(fields or DEFAULT_FIELDS)
        fields = [f for f in wanted if f in table.columns and f != id_field and table[f].str.strip().any()]
        if not fields:
            raise ValueError(
                f"the new items (such as {', '.join(map(str, items[:3]))}) have no text in any of the columns "
                f"{', '.join(wanted)}: Semantic IDs need text; fill at least one of them"
            )
    return _sentences(config, table, items, fields)


def embed_new_items(
    config, sentences: Sequence[str], items: Sequence[str], known_sentences: Sequence[str] | None
) -> np.ndarray:
    """Embeddings of new items, from an encoder that has not seen their text: float32 `[n, dim]`.

    `known_sentences` are the catalogue's, for `tfidf_svd`. Raises as `Encoder.encode_new`.
    """
    return encoder_of(config).encode_new(sentences, items, known_sentences, bool(config["show_progress"]))
