"""From a trained checkpoint to recommendations for any history: users never seen, many at once, items added later.

Comes in: ``best.pth`` of a run of a model with Semantic IDs, which is all that is needed. Goes out: items with titles,
scores and codewords.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from recbole.utils import get_model
from tabulate import tabulate
from tqdm import tqdm

from recbole_tiger.content.new_items import embed_new_items, read_new_items, sentences_of_new_items
from recbole_tiger.content.sentences import item_titles
from recbole_tiger.decoding import BeamResult
from recbole_tiger.decoding.cold_start import UnseenItems, limit_unseen, with_unseen_items
from recbole_tiger.errors import CheckpointError, ConfigError, UnknownItemError
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.io import atomic_file
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.tokenization import TokenizedCatalogue
from recbole_tiger.training.checkpoint import load_checkpoint

USAGE = """Usage: python run_recbole_tiger.py recommend --checkpoint=FILE --history="title or item id, ..." [--k=10]
       python run_recbole_tiger.py recommend --checkpoint=FILE --histories=FILE --output=FILE [--k=10]

Prints what a trained model recommends after a history, or writes it for many users. Needs the checkpoint alone.

  --checkpoint=FILE          best.pth of a run
  --history=A,B,...          titles or item ids, in time order; an id that reads like another number is put in quotes
                             twice: --history="'1_0', '007'"
  --user=ID                  the user, for models with user tokens
  --histories=FILE           .csv, .tsv, .inter or .parquet: one line per interaction with the columns of the user and the
                             item, in time order, or in any order with a column of the time
  --output=FILE              .csv or .parquet, which must not exist
  --k=10                     items for each history
  --exclude_seen=True        leave out the items of the history
  --temperature=T            divides the logits; one number, or one per level
  --sample=True, --seed=N    draw items at this temperature instead of taking the best
  --beam_size=N              by default that of the run, or k if that is more
  --new_items=FILE           items that came after training, as an .item file: found through their Semantic IDs
  --epsilon=1.0              the largest share of new items in a list
  --unknown=skip             leave out items of a history that the model does not know, instead of stopping
"""

TITLE_WIDTH = 60


@dataclass(frozen=True)
class Recommendation:
    """One recommended item.

    Attributes:
        item: external id.
        title: its title, or its id where it has none.
        score: log-likelihood of the Semantic ID it was found by.
        codes: its codewords.
        new: whether it was added after training.
    """

    item: str
    title: str
    score: float
    codes: tuple[int, ...]
    new: bool


class BareDataset:
    """What a sequential model asks of a dataset when it is built, without a dataset.

    Args:
        config: the run's settings.
        n_items: items, without padding.
        semantic_ids: for models that have them.
    """

    def __init__(self, config, n_items: int, semantic_ids: TokenizedCatalogue | None = None) -> None:
        self.uid_field, self.iid_field = config["USER_ID_FIELD"], config["ITEM_ID_FIELD"]
        self.semantic_ids = semantic_ids
        self.n_items = n_items
        self.field2id_token = {self.uid_field: np.array(["[PAD]"])}

    def num(self, field: str) -> int:
        """Items with padding; users are not known."""
        return self.n_items + 1 if field == self.iid_field else 1


class Recommender:
    """A trained model with Semantic IDs, ready for histories of item ids or titles.

    Attributes:
        config: the run's settings.
        model: in evaluation mode.
        items: external ids by internal number, new items at the end; `items[0]` is padding.
        titles: the same with titles.
    """

    def __init__(self, config, model, prepared: TokenizedCatalogue) -> None:
        self.config = config
        self.model = model.eval()
        self.prepared = prepared
        self.items = [str(item) for item in prepared.table.items]
        self.titles = ["", *(prepared.titles or self.items[1:])]
        self._table = prepared.table
        self._new: UnseenItems | None = None
        self._index()

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Recommender:
        """Open ``best.pth`` or ``last.pth`` of a run.

        Raises:
            CheckpointError: for a file that is missing, damaged, of another version, or of a model without Semantic IDs.
        """
        state = load_checkpoint(path)
        name = state["config"].get("model")
        if not model_spec(name).uses_semantic_ids:
            raise CheckpointError(
                f"'{path}' is a checkpoint of {name}, whose items have no Semantic IDs; recommend needs one of "
                f"{', '.join(models_with('uses_semantic_ids'))}"
            )
        config = config_from_plain(state["config"])
        try:
            prepared = TokenizedCatalogue.from_state_dict(state["other_parameter"]["semantic_ids"])
            model = get_model(name)(config, BareDataset(config, prepared.table.n_items, prepared)).to(config["device"])
            model.load_state_dict(state["state_dict"])
            model.load_other_parameter(state["other_parameter"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint '{path}' does not fit this version of {name} ({str(error).strip().splitlines()[0]}); read it "
                "with the version that wrote it"
            ) from error
        return cls(config, model, prepared)

    # ----------------------------------------------------------------------------------------------------- the items

    @property
    def n_items(self) -> int:
        """Items, new ones among them."""
        return len(self.items) - 1

    def _index(self) -> None:
        self._number = {item: number for number, item in enumerate(self.items) if number}
        self._titled: dict[str, list[int]] = {}
        for number, title in enumerate(self.titles):
            if number:
                self._titled.setdefault(title.strip().casefold(), []).append(number)

    def find(self, name) -> int:
        """The internal number of an item by its id, or by its title in any case.

        Raises:
            UnknownItemError: if no item, or more than one, is called so.
        """
        name = str(name).strip()
        if name in self._number:
            return self._number[name]
        found = self._titled.get(name.casefold(), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownItemError(
                f"'{name}' is the title of {len(found)} items ({', '.join(self.items[n] for n in found[:5])}); give an id"
            )
        close = difflib.get_close_matches(name.casefold(), self._titled, n=2, cutoff=0.6)
        near = " or ".join(f"'{self.titles[self._titled[title][0]]}'" for title in close)
        hint = f"did you mean {near}?" if near else "give an item id or a title of the training data"
        raise UnknownItemError(f"'{name}' is not an item that the model knows; {hint}")

    def split(self, text: str) -> list[str]:
        """Names separated by commas, where a title may hold commas itself: the longest run that is an item counts."""
        parts, names = text.split(","), []
        while parts:
            ends = (end for end in range(len(parts), 0, -1) if self._is_item(",".join(parts[:end])))
            end = next(ends, 1)
            names.append(",".join(parts[:end]).strip())
            parts = parts[end:]
        return [name for name in names if name]

    def _is_item(self, name: str) -> bool:
        return name.strip() in self._number or name.strip().casefold() in self._titled

    def add_items(self, path: str | Path) -> int:
        """Take in the items of an ``.item`` file: they get Semantic IDs, and are found through their first codewords.

        Nothing is trained. A new item joins a list where an ID with its learned codewords is predicted (paper, 4.4.1).

        Returns:
            how many items were added.

        Raises:
            ValueError: for items without text or already known, and for IDs that no quantizer made.
        """
        table, items = read_new_items(path, self.config)
        known = [item for item in items if item in self._number]
        if known:
            raise ValueError(
                f"new_items='{path}': {len(known)} items are known already, such as {', '.join(known[:3])}"
            )
        if self.prepared.quantizer is None or self.config["semantic_id"] == "random":
            raise ValueError(
                f"semantic_id={self.config['semantic_id']} does not make IDs of item text, so that new items cannot get any"
            )
        given = self.config["content_encoder"] == "precomputed"
        sentences = [""] * len(items) if given else sentences_of_new_items(table, items, self.config)
        embeddings = embed_new_items(self.config, sentences, items, self.prepared.sentences)
        codes = self.prepared.quantizer.transform(self.prepared.scaler.transform(embeddings))
        texts = (
            sentences
            if given
            else item_titles(table, items, self.config["ITEM_ID_FIELD"], seq_separator=self.config["seq_separator"])
        )
        n_before, trained = self.n_items, self.prepared.table
        new_codes = np.concatenate([self._table.codes[trained.n_items + 1 :, : trained.id_length], codes])
        self.items += items
        self.titles += [title or item for title, item in zip(texts, items, strict=True)]
        self._table = with_unseen_items(trained, new_codes, self.items[trained.n_items + 1 :])
        self.model._use_semantic_ids(dataclasses.replace(self.prepared, table=self._table))
        self.model.to(self.config["device"])
        self._new = UnseenItems(self._table, trained.n_items, device=self.config["device"])
        self._index()
        return self.n_items - n_before

    # ------------------------------------------------------------------------------------------------ recommendations

    def recommend(
        self,
        histories: Sequence[Sequence],
        k: int = 10,
        temperature: float | Sequence[float] | None = None,
        exclude_seen: bool = False,
        *,
        users: Sequence[str] | None = None,
        beam_size: int | None = None,
        sample: bool = False,
        seed: int | None = None,
        epsilon: float = 1.0,
        unknown: Literal["error", "skip"] = "error",
        progress: bool = False,
    ) -> list[list[Recommendation]]:
        """The k most likely next items after each history, best first.

        Args:
            histories: item ids or titles, in time order; the model reads the last `MAX_ITEM_LIST_LENGTH`.
            k: items per history. A list is shorter where the beam holds fewer, never filled up.
            temperature: divides the logits, one number or one per level; by default the run's.
            exclude_seen: leave out the items of the history.
            users: external user ids, for models with user tokens; None for users never seen.
            beam_size: by default the run's, or k if that is more.
            sample: draw items instead of taking the best.
            seed: of the draws.
            epsilon: the largest share of new items in a list (see :meth:`add_items`).
            unknown: what to do about names that are no items: raise, or leave them out with a warning.
            progress: show a bar (only ever at a terminal).

        Raises:
            UnknownItemError: naming items that are not known.
            ValueError: for an empty history, or a k, epsilon, temperature or beam size that cannot work.
        """
        if isinstance(histories, str) or any(isinstance(history, str) for history in histories):
            raise ValueError(
                "histories must be a list of lists of item ids or titles; see Recommender.split for one text"
            )
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= self.n_items:
            raise ValueError(f"k={k!r} must be a whole number from 1 to the {self.n_items} items of the catalogue")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon!r} must lie between 0 and 1")
        if unknown not in ("error", "skip"):
            raise ValueError(f"unknown={unknown!r} must be 'error' or 'skip'")
        beams = max(self.model.beam_size, k) if beam_size is None else beam_size
        if beams < k:
            raise ValueError(f"beam_size={beams} is smaller than k={k}: a list of that length cannot be filled")
        if users is not None and len(users) != len(histories):
            raise ValueError(f"there are {len(users)} users, but {len(histories)} histories")
        numbers = self._numbers(histories, users, unknown)
        device = self.config["device"]
        options: dict = {"beam_size": beams, "temperature": temperature, "sample": sample}
        if sample and seed is not None:
            options["generator"] = torch.Generator(device).manual_seed(seed)
        chunk = self.config["eval_batch_size"]
        starts = range(0, len(numbers), chunk)
        hidden = not (progress and sys.stderr.isatty())
        lists: list[list[Recommendation]] = []
        for start in tqdm(starts, desc="recommend", ncols=100, disable=hidden):
            part = numbers[start : start + chunk]
            recent = [history[-self.config["MAX_ITEM_LIST_LENGTH"] :] for history in part]
            found = self.model.recommend(
                self._users(None if users is None else users[start : start + chunk]),
                _padded(recent, device),
                torch.tensor([len(history) for history in recent], device=device),
                k if self._new is None else beams,
                excluded=_padded(part, device) if exclude_seen else None,
                **options,
            )
            if self._new is not None:
                found = self._new.candidates(found, k)
                if exclude_seen:  # a new item that came in through its prefix
                    seen = (found.items[:, :, None] == _padded(part, device)[:, None, :]).any(2)
                    found = BeamResult(found.items.masked_fill(seen, 0), found.scores.masked_fill(seen, -torch.inf))
                found = limit_unseen(found, self.prepared.table.n_items, k, epsilon)
            lists += self._written(found.items.tolist(), found.scores.tolist())
        return lists

    def _numbers(self, histories, users, unknown: str) -> list[list[int]]:
        """Internal numbers of all histories."""
        numbers = []
        for row, history in enumerate(histories):
            of_whom = f"the history of user '{users[row]}'" if users is not None else f"history {row + 1}"
            known, missing = [], []
            for name in history:
                try:
                    known.append(self.find(name))
                except UnknownItemError as error:
                    if unknown == "error":
                        raise UnknownItemError(
                            f"{of_whom}: {error} (or leave unknown items out: unknown=skip)"
                        ) from error
                    missing.append(str(name))
            if missing:
                getLogger().warning(f"{of_whom}: left out {len(missing)} unknown items: {', '.join(missing[:5])}")
            if not known:
                raise ValueError(
                    f"{of_whom} is empty{' without its unknown items' if missing else ''}: give at least one item"
                )
            numbers.append(known)
        return numbers

    def _users(self, users: Sequence[str] | None) -> torch.Tensor | None:
        """User numbers for `model.recommend`: a hashed token depends on the user's id alone, trained on or not."""
        if users is None or not self.config["user_buckets"]:
            return None
        self.model.user_tokens = self.model.vocabulary.user_tokens(users).to(self.config["device"])
        return torch.arange(len(users), device=self.config["device"])

    def _written(self, items: list[list[int]], scores: list[list[float]]) -> list[list[Recommendation]]:
        n_seen, length = self.prepared.table.n_items, self.prepared.table.id_length
        return [
            [
                Recommendation(
                    item=self.items[item],
                    title=self.titles[item],
                    score=score,
                    # A new item has no collision token.
                    codes=tuple(self._table.codes[item][: length if item > n_seen else None].tolist()),
                    new=item > n_seen,
                )
                for item, score in zip(row, row_scores, strict=True)
                if item
            ]
            for row, row_scores in zip(items, scores, strict=True)
        ]


def _padded(rows: Sequence[Sequence[int]], device) -> torch.Tensor:
    """Lists of item numbers as one tensor [n, longest], padded with 0 at the end."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)


# ------------------------------------------------------------------------------------------------------ the command


def run(settings: dict) -> str:
    """Recommend for one history, or for a file of them; returns what to print.

    Raises:
        ValueError: for settings, files and histories that cannot work.
    """
    checkpoint = settings.pop("checkpoint", None)
    history, file = settings.pop("history", None), settings.pop("histories", None)
    user, output = settings.pop("user", None), settings.pop("output", None)
    new_items = settings.pop("new_items", None)
    options = {
        key: settings.pop(key)
        for key in ("k", "temperature", "exclude_seen", "beam_size", "sample", "seed", "epsilon", "unknown")
        if settings.get(key) is not None
    }
    if settings:
        raise ConfigError(f"unknown key '{next(iter(settings))}' for recommend; see recommend --help")
    if checkpoint is None:
        raise ConfigError("recommend needs --checkpoint=FILE, the best.pth of a run")
    if (history is None) == (file is None):
        raise ConfigError("recommend needs either --history=A,B,... or --histories=FILE")
    if file is not None:
        if output is None:
            raise ConfigError("--histories needs --output=FILE.csv or FILE.parquet for the recommendations")
        _check_output(Path(str(output)))
    recommender = Recommender.from_checkpoint(str(checkpoint))
    if new_items is not None:
        recommender.add_items(str(new_items))
    if file is not None:
        histories = read_histories(str(file), recommender.config)
        found = recommender.recommend(list(histories.values()), users=list(histories), progress=True, **options)
        n_rows = write_recommendations(Path(str(output)), list(histories), found)
        return f"{n_rows:,} recommendations for {len(histories):,} users: {output}"
    names = [str(name) for name in history] if isinstance(history, (list, tuple)) else recommender.split(str(history))
    [found] = recommender.recommend([names], users=None if user is None else [str(user)], **options)
    rows = [
        [rank, _cut(r.title), r.item, f"{r.score:.3f}", " ".join(map(str, r.codes)) + (" (new)" if r.new else "")]
        for rank, r in enumerate(found, 1)
    ]
    return tabulate(rows, headers=["", "title", "item", "score", "codewords"], disable_numparse=True)


def _cut(title: str) -> str:
    return title if len(title) <= TITLE_WIDTH else title[: TITLE_WIDTH - 1] + "…"


def read_histories(path: str | Path, config) -> dict[str, list[str]]:
    """Histories by user from a file with one interaction per line, in time order.

    Raises:
        ValueError: for a file that cannot be read, or without the columns of user and item.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"histories='{path}' is not a file; give a .csv, .tsv, .inter or .parquet")
    text = {"dtype": str, "keep_default_na": False}
    readers = {
        ".csv": lambda: pd.read_csv(path, **text),
        ".tsv": lambda: pd.read_csv(path, sep="\t", **text),
        ".inter": lambda: pd.read_csv(path, sep=config["field_separator"], quoting=3, **text),
        ".parquet": lambda: pd.read_parquet(path),
    }
    if path.suffix not in readers:
        raise ValueError(f"histories='{path}' must end in one of {', '.join(readers)}")
    table = readers[path.suffix]()
    table.columns = [str(column).partition(":")[0] for column in table.columns]
    user, item, time = (config[f"{kind}_FIELD"] for kind in ("USER_ID", "ITEM_ID", "TIME"))
    for field in (user, item):
        if field not in table.columns:
            raise ValueError(f"histories='{path}' has no column '{field}'; its columns: {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"histories='{path}' holds no interactions")
    if time in table.columns:
        table = table.iloc[np.argsort(pd.to_numeric(table[time]).to_numpy(), kind="stable")]
    # One row per user, users in the order in which they first come.
    return {str(name): rows.astype(str).tolist() for name, rows in table.groupby(user, sort=False)[item]}


def _check_output(path: Path) -> None:
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"output='{path}' must end in .csv or .parquet")
    if path.exists():
        raise ConfigError(f"output='{path}' exists already; name a file that does not")


def write_recommendations(path: Path, users: Sequence[str], found: Sequence[Sequence[Recommendation]]) -> int:
    """Lists as rows of user, rank, item, title, score, codewords and whether the item is new; returns how many."""
    rows: list[Mapping] = [
        {
            "user_id": user,
            "rank": rank,
            "item_id": r.item,
            "title": r.title,
            "score": r.score,
            "codewords": " ".join(map(str, r.codes)),
            "new": r.new,
        }
        for user, row in zip(users, found, strict=True)
        for rank, r in enumerate(row, 1)
    ]
    table = pd.DataFrame(rows)
    with atomic_file(path) as file:
        if path.suffix == ".csv":
            file.write(table.to_csv(index=False).encode("utf-8"))
        else:
            table.to_parquet(file, index=False)
    return len(table)
