"""What the library knows about each model by name: where ours lives, and the traits on which other modules decide.

Input: a model's name. Output: its `ModelSpec`; a model of RecBole without a line in the table has none of the traits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: The row of a leaderboard that recommends the most popular training items; no model of this table.
POP = "Pop"

#: What installed packages may add, by the entry-point groups ``recbole_tiger.<name>``.
ENTRY_POINTS = ("tokenizers", "decoders", "models")


@dataclass(frozen=True)
class ModelSpec:
    """One sequential model, of this library or of RecBole.

    Attributes:
        name: as in RecBole, the name of its class.
        module: its module in `recbole_tiger.model`; None for a model of RecBole.
        trainer: the class that trains it here, for models of RecBole too.
        dataset: its dataset class; None for RecBole's own.
        recipes: recipes that are shipped, the first of them the default; () for none.
        generative: finds items by beam search, so that only the items of the beam have a score.
        has_t5: has a T5, which can be trained in bfloat16.
        uses_semantic_ids: its items are Semantic IDs.
        feature_key: of a model that reads item features: its own key, which `item_feature` of the dataset's property
            file fills in.
        untrained: learns nothing: the seed and the number of epochs change nothing.
        sampled_loss: its one loss, if that needs sampled items; the others have cross-entropy, here the default, or BPR
            (`loss_type`).
        shares_batches: its loss over a batch is the mean of the losses of its parts, as a test shows of each. Of the
            others FEARec, TransRec and SHAN compare the examples of a batch or take a norm over it, and DIN and DIEN
            normalise over it.
        norm_over_batch: its `reg_weight` is of a norm over the batch.
        item_tables: its embedding tables with a row for each item, through which alone it reads histories and scores
            items, so that `item_text` can add text to them, as a test shows of each; () where that cannot be.
        skips_padding: encodes each history by itself from its items alone, as a test shows of each, so that a CPU need
            not compute the padding of short ones.
        base: of a registered class: the shipped model that it derives from, whose settings and traits it has.
        cls: a registered class, see :func:`recbole_tiger.register_model`.
        settings: of a registered class: its own keys with their defaults.
    """

    name: str
    module: str | None = None
    trainer: str = "SequentialTrainer"
    dataset: str | None = None
    recipes: tuple[str, ...] = ()
    generative: bool = False
    has_t5: bool = False
    uses_semantic_ids: bool = False
    feature_key: str | None = None
    untrained: bool = False
    sampled_loss: str | None = None
    shares_batches: bool = False
    norm_over_batch: bool = False
    item_tables: tuple[str, ...] = ()
    skips_padding: bool = False
    base: str | None = None
    cls: type | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        """Whether this library adds the model to RecBole: it is ours, or a registered class."""
        return self.module is not None or self.cls is not None

    @property
    def family(self) -> str:
        """The shipped model that it is or derives from."""
        return self.base or self.name


_TABLE = ("item_embedding",)
_SPECS = (
    ModelSpec(
        "TIGER", "tiger", "TIGERTrainer", "TIGERDataset", ("tuned", "paper", "quick", "tiny", "extended"),
        generative=True, has_t5=True, uses_semantic_ids=True, shares_batches=True,
    ),
    ModelSpec(
        "P5", "p5", "TIGERTrainer", "PrefixDataset", ("scratch", "checkpoint", "scratch_leaking", "checkpoint_leaking"),
        generative=True, has_t5=True, shares_batches=True,
    ),
    ModelSpec("Semantic_KNN", "semantic_knn", untrained=True, shares_batches=True),
    ModelSpec("BERT4RecFixed", "bert4rec_fixed", shares_batches=True, item_tables=_TABLE),
    ModelSpec("BSARec", "bsarec", shares_batches=True, item_tables=_TABLE),
    ModelSpec(
        "TIGERTree", "tiger_tree", "TIGERTreeTrainer", "TIGERDataset",
        generative=True, uses_semantic_ids=True, shares_batches=True,
    ),
    ModelSpec(
        "RPG", "rpg", "TIGERTreeTrainer", "TIGERDataset",
        generative=True, uses_semantic_ids=True, shares_batches=True,
    ),
    ModelSpec("S3Rec", trainer="S3RecTrainer", feature_key="item_attribute", shares_batches=True),
    *(
        ModelSpec(
            name, feature_key="selected_features", shares_batches=True, item_tables=_TABLE, skips_padding=True
        )
        for name in ("FDSA", "GRU4RecF", "SASRecF")
    ),
    ModelSpec("FOSSIL", shares_batches=True, norm_over_batch=True, item_tables=_TABLE),
    ModelSpec(
        "HGN", shares_batches=True, norm_over_batch=True,
        item_tables=("item_embedding", "item_embedding_for_prediction"),
    ),
    ModelSpec("FPMC", sampled_loss="BPR", shares_batches=True),
    ModelSpec("TransRec", sampled_loss="BPR"),
    *(ModelSpec(name, sampled_loss="BCE") for name in ("DIN", "DIEN")),
    ModelSpec("FEARec", item_tables=_TABLE),
    ModelSpec("NPE", shares_batches=True),
    *(
        ModelSpec(name, shares_batches=True, item_tables=_TABLE)
        for name in "BERT4Rec CORE Caser HRM LightSANs NextItNet SINE STAMP".split()
    ),
    *(
        ModelSpec(name, shares_batches=True, item_tables=_TABLE, skips_padding=True)
        for name in "GCSAN GRU4Rec NARM SASRec SRGNN".split()
    ),
)  # fmt: skip
#: Models of which anything is known, by name: ours first.
MODELS: dict[str, ModelSpec] = {spec.name: spec for spec in _SPECS}


def model_spec(name: str | None) -> ModelSpec:
    """The traits of a model; of one without a line in the table, that there are none."""
    return MODELS.get(name or "") or ModelSpec(name or "")


def models_with(trait: str) -> tuple[str, ...]:
    """Names of the models that have a trait, which is an attribute of `ModelSpec`."""
    return tuple(name for name, spec in MODELS.items() if getattr(spec, trait))


def row_name(model: str, item_text: str | None = None) -> str:
    """What a row of a table calls a model: `SASRec+text` where it reads text beside its own item embeddings."""
    return model + {"add": "+text", "only": " (text only)"}.get(item_text or "none", "")
