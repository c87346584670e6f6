"""The dataset hook: item text to Semantic IDs, each step cached under a key of all that it depends on.

Comes in: a ``Config`` and the item ids in internal order. Goes out: :class:`TokenizedCatalogue`, the Semantic ID table with the
quantizer and scaler that made it.
"""

from __future__ import annotations

import dataclasses
import inspect
import io
from dataclasses import dataclass, field
from logging import getLogger
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from recbole_tiger.cache import ArrayCache, content_key
from recbole_tiger.content.cooccurrence import cooccurrence_vectors
from recbole_tiger.content.encoders import encode_items, encoder_fingerprint
from recbole_tiger.content.sentences import build_sentences, item_titles, read_item_table
from recbole_tiger.distributed.collectives import from_main, is_main
from recbole_tiger.errors import ConfigError
from recbole_tiger.quantization import QUANTIZERS, build_quantizer, quantizer_from_state_dict
from recbole_tiger.quantization.base import Quantizer
from recbole_tiger.quantization.scaling import Scaler
from recbole_tiger.semantic_ids import SemanticIDTable

#: Items [n], from 0 on, of the training interactions in the order of user and time, and the user [n] of each.
Company = tuple[np.ndarray, np.ndarray]

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
        seconds: time of each stage ("item text", "embeddings", "semantic IDs").
        files: cache files, by stage.
        cached: stages that were read from the cache.
    """

    table: SemanticIDTable
    quantizer: Quantizer | None = None
    scaler: Scaler | None = None
    titles: list[str] | None = None
    sentences: list[str] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    cached: tuple[str, ...] = ()

    def state_dict(self) -> dict:
        """All that says what an item's ID is and what a new item's would be, as plain values and tensors."""
        return {
            "table": self.table.state_dict(),
            "quantizer": None if self.quantizer is None else self.quantizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "titles": self.titles,
            "sentences": self.sentences,
        }

    @classmethod
    def from_state_dict(cls, state: dict) -> TokenizedCatalogue:
        """The inverse of :meth:`state_dict`."""
        return cls(
            table=SemanticIDTable.from_state_dict(state["table"]),
            quantizer=None if state["quantizer"] is None else quantizer_from_state_dict(state["quantizer"]),
            scaler=None if state["scaler"] is None else Scaler.from_state_dict(state["scaler"]),
            titles=state.get("titles"),
            sentences=state.get("sentences"),
        )


@dataclass(frozen=True)
class Content:
    """Item content: one sentence and one embedding [n_items, dim] for each item, in internal order."""

    sentences: list[str]
    embeddings: np.ndarray
    key: str
    seconds: dict[str, float]
    files: dict[str, str]
    cached: tuple[str, ...]


def item_file(config) -> Path:
    """The ``.item`` file of a dataset."""
    return Path(config["data_path"]) / f"{config['dataset']}.item"


def item_table(config):
    """The ``.item`` file as text columns.

    Raises:
        ConfigError: if the dataset has no item file.
    """
    path = item_file(config)
    if not path.is_file():
        raise ConfigError(
            f"dataset='{config['dataset']}' has no item text: '{path}' is missing; add it (a column of item ids and text "
            "columns such as title), or use semantic_id=random or semantic_id=file, which need no text"
        )
    return read_item_table(path, field_separator=config["field_separator"], encoding=config["encoding"] or "utf-8")


def titles_of(config, items: list[str]) -> list[str] | None:
    """What to call each item; its id where the item file has no one line for it, None without an item file."""
    if not item_file(config).is_file():
        return None
    table, field = item_table(config), config["ITEM_ID_FIELD"]
    if field not in table.columns:
        return None
    table = table.drop_duplicates(field, keep=False)
    named = set(table[field])
    present = [item for item in items if item in named]
    titles = dict(zip(present, item_titles(table, present, field, seq_separator=config["seq_separator"]), strict=True))
    return [titles.get(item, item) for item in items]


def item_sentences(config, items: list[str]) -> list[str]:
    """One sentence per item from the columns of the ``.item`` file (paper 4.1.3)."""
    return build_sentences(
        item_table(config),
        items,
        config["ITEM_ID_FIELD"],
        config["content_fields"],
        config["content_template"],
        seq_separator=config["seq_separator"],
    )


def item_content(config, items: list[str]) -> Content:
    """Sentences and content embeddings of the items, the embeddings from the cache where they are there."""
    started = perf_counter()
    sentences = [""] * len(items) if config["content_encoder"] == "precomputed" else item_sentences(config, items)
    text_seconds = perf_counter() - started
    started = perf_counter()
    encoder, model, file = config["content_encoder"], config["content_model"], config["content_file"]
    seed = 0  # only the truncated SVD draws numbers; the text of a catalogue has one embedding, whatever the run's seed
    settings = dict(
        encoder=encoder,
        model=model,
        file=file,
        dim=config["content_dim"],
        batch_size=config["content_batch_size"],
        device=str(config["device"]),
        random_state=seed,
        # The rows of an .npy file are in the order of the .item file, which is not the internal order.
        item_file_ids=item_table(config)[config["ITEM_ID_FIELD"]].tolist() if str(file).endswith(".npy") else None,
    )
    fingerprint = encoder_fingerprint(**settings)
    key = content_key(CACHE_VERSION, "embeddings", sentences, items, fingerprint)

    def compute() -> dict:
        return {"embeddings": encode_items(sentences, items, progress=bool(config["show_progress"]), **settings)}

    value, path, hit = ArrayCache(config["cache_dir"]).get_or_compute(
        f"{config['dataset']}-embeddings", key, compute, describe="content embeddings"
    )
    return Content(
        sentences=sentences,
        embeddings=value["embeddings"],
        key=key,
        seconds={"item text": text_seconds, "embeddings": perf_counter() - started},
        files={"embeddings": str(path)},
        cached=("embeddings",) if hit else (),
    )


def scaler_of(config) -> Scaler:
    """What `content_standardize` asks for: True is the z-score of each dimension."""
    mode = {True: "zscore", False: "none", None: "none"}.get(
        config["content_standardize"], config["content_standardize"]
    )
    return Scaler(mode, config["content_components"])


def quantizer_of(config) -> Quantizer:
    """The quantizer that the settings describe: ``<semantic_id>_<argument>`` keys are its arguments."""
    name = config["semantic_id"]
    seed = config["seed"] if config["semantic_id_seed"] is None else config["semantic_id_seed"]
    arguments = {
        argument: config[f"{name}_{argument}"]
        for argument in inspect.signature(QUANTIZERS[name]).parameters
        if f"{name}_{argument}" in config
    }
    return build_quantizer(
        name,
        **{
            "id_length": config["id_length"],
            "codebook_size": config["codebook_size"],
            "random_state": seed,
            "device": str(config["device"]),
            **arguments,
        },
    )


def quantizer_input(config, scaler: Scaler, embeddings: np.ndarray, company: Company | None) -> np.ndarray:
    """What the quantizer is fitted on: embeddings as a scaler that is fitted on them here scales them, and, for
    `content_cooccurrence`, vectors of the items' company in the training sequences beside them.

    Raises:
        ConfigError: where no item has company.
    """
    scaled = scaler.fit(embeddings).transform(embeddings)
    weight = config["content_cooccurrence"]
    if not weight or company is None:
        return scaled
    try:
        return scaler.fit_beside(scaled, cooccurrence_vectors(*company, len(embeddings)), weight)
    except ValueError as error:
        raise ConfigError(
            f"content_cooccurrence={weight}, but no two items follow each other in a training sequence of "
            f"dataset='{config['dataset']}'; set it to 0"
        ) from error


def prepare_semantic_ids(config, items: list[str], company: Company | None = None) -> TokenizedCatalogue:
    """Semantic IDs for the items of a dataset, in internal order; of several processes the first makes them for all.

    Args:
        company: the items of all training interactions, for `content_cooccurrence`.

    Raises:
        ValueError: for anything in the settings, the item text or the cache that cannot work; the message says what.
    """
    made = _made_semantic_ids(config, items, company) if is_main() else None
    state = from_main(lambda: made.state_dict())
    return made or TokenizedCatalogue.from_state_dict(state)


def _made_semantic_ids(config, items: list[str], company: Company | None) -> TokenizedCatalogue:
    logger = getLogger()
    if config["semantic_id"] == "file":
        started = perf_counter()
        table = SemanticIDTable.from_file(config["semantic_id_file"], items, collision=config["collision"])
        logger.info(f"Semantic IDs read from {config['semantic_id_file']}")
        return TokenizedCatalogue(
            table=table,
            titles=titles_of(config, items),
            seconds={"semantic IDs": perf_counter() - started},
            files={"semantic IDs": str(config["semantic_id_file"])},
        )
    largest = max(np.atleast_1d(config["codebook_size"]))
    if largest > len(items) and QUANTIZERS[config["semantic_id"]].learns_codewords:
        raise ConfigError(
            f"codebook_size={config['codebook_size']} is larger than the catalogue ({len(items)} items): most codewords "
            "could never be used; lower codebook_size"
        )
    if config["semantic_id"] == "random":  # the one method that looks at no content, so none is asked for
        content = Content([], np.arange(len(items), dtype=np.float64)[:, None], "", {}, {}, ())
        scaler, company = Scaler("none", None), None
    else:
        content = item_content(config, items)
        scaler = scaler_of(config)
    started = perf_counter()
    quantizer = quantizer_of(config)
    arguments = {argument: value for argument, value in quantizer.get_params().items() if argument != "device"}
    key = content_key(
        CACHE_VERSION,
        content.key,
        items,
        scaler.mode,
        scaler.n_components,
        quantizer.name,
        arguments,
        config["collision"],
        *([config["content_cooccurrence"], *company] if company is not None else []),
    )

    # A quantizer that is trained for long continues a killed run's file, which goes once the result is kept.
    unfinished = Path(config["cache_dir"]) / f"{config['dataset']}-{quantizer.name}-{key}.unfinished.pth"

    def compute() -> dict:
        logger.info(f"Making Semantic IDs of {len(items)} items with {quantizer.name}")
        scaled = quantizer_input(config, scaler, content.embeddings, company)
        quantizer.fit(scaled, progress=bool(config["show_progress"]), checkpoint=unfinished)
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
    prepared = TokenizedCatalogue.from_state_dict(state)
    return dataclasses.replace(
        prepared,
        titles=titles_of(config, items),
        sentences=content.sentences if config["content_encoder"] == "tfidf_svd" and content.sentences else None,
        seconds={**content.seconds, "semantic IDs": perf_counter() - started},
        files={**content.files, "semantic IDs": str(path)},
        cached=content.cached + (("semantic IDs",) if hit else ()),
    )
