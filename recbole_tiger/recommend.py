"""Recommendations from a trained checkpoint for any history: new users, many at once, items added later.

Input: ``best.pth`` of a run of a model with Semantic IDs. Output: items with titles, scores and codewords.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from recbole.utils import get_model
from tqdm import tqdm

from recbole_tiger import extension
from recbole_tiger.content.sentences import item_titles
from recbole_tiger.decoding import BeamResult
from recbole_tiger.decoding.cold_start import UnseenItems, limit_unseen, with_unseen_items
from recbole_tiger.errors import CheckpointError, UnknownItemError
from recbole_tiger.experiment.configuration import config_from_plain
from recbole_tiger.io import has_screen, make_folder
from recbole_tiger.models import model_spec, models_with
from recbole_tiger.recommend_tables import NewItem, Recommendation, Recommendations, histories_of
from recbole_tiger.settings.plain import plain_settings
from recbole_tiger.settings.validate import recbole_models
from recbole_tiger.tokenization import TokenizedCatalogue, embed_new_items, read_new_items, sentences_of_new_items
from recbole_tiger.training.checkpoint import load_checkpoint, save_checkpoint
from recbole_tiger.training.finite import check_weights


class DatasetStub:
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


def load_semantic_id_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint of a model with Semantic IDs.

    Raises:
        CheckpointError: for a file that is missing, damaged, of another version, or of a model without Semantic IDs.
        ConfigError: for a model, tokenizer or decoder that is not registered in this process.
    """
    state = load_checkpoint(path)
    name = state["config"].get("model")
    extension.load()
    extension.check_registered(state["config"], recbole_models())
    if not model_spec(name).uses_semantic_ids:
        raise CheckpointError(
            f"'{path}' is a checkpoint of {name}, whose items have no Semantic IDs; give one of "
            f"{', '.join(models_with('uses_semantic_ids'))}"
        )
    return state


class Recommender:
    """A trained model with Semantic IDs, ready for histories of item ids or titles.

    Attributes:
        config: the run's settings.
        model: in evaluation mode.
        items: external ids by internal number, new items at the end; `items[0]` is padding.
        titles: titles by internal number.
    """

    def __init__(self, config, model, prepared: TokenizedCatalogue) -> None:
        self.config = config
        self.model = model.eval()
        self.prepared = prepared
        self.items = [str(item) for item in prepared.table.items]
        self.titles = ["", *(prepared.titles or self.items[1:])]
        self._table = prepared.table
        self._embeddings: list[np.ndarray] = []  # of new items
        self._new: UnseenItems | None = None
        self._index()

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Recommender:
        """Open ``best.pth`` or ``last.pth`` of a run.

        Raises:
            CheckpointError, NotFiniteError: as :func:`load_semantic_id_checkpoint`; weights are NaN or infinite.
        """
        state = load_semantic_id_checkpoint(path)
        name, config = state["config"]["model"], config_from_plain(state["config"])
        try:
            prepared = TokenizedCatalogue.from_state_dict(state["other_parameter"]["semantic_ids"])
            model = get_model(name)(config, DatasetStub(config, prepared.table.n_items, prepared)).to(config["device"])
            model.load_state_dict(state["state_dict"])
            model.load_other_parameter(state["other_parameter"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint '{path}' does not fit this version of {name} ({str(error).strip().splitlines()[0]}); "
                "read it with the version that wrote it"
            ) from error
        check_weights(model, f"checkpoint '{path}'")
        recommender = cls(config, model, prepared)
        if added := state.get("added_items"):
            codes, embeddings = (added[key].cpu().numpy() for key in ("codes", "embeddings"))
            recommender._add(added["items"], added["titles"], codes, embeddings)
        return recommender

    def save(self, path: str | Path) -> None:
        """Write a checkpoint from which :meth:`from_checkpoint` makes this recommender, added items included.

        It holds only weights and Semantic IDs: training cannot be resumed from it.

        Raises:
            CheckpointError: if there is a file of this name.
        """
        if Path(path).exists():
            raise CheckpointError(f"'{path}' exists already; name a file that does not")
        self.model._use_semantic_ids(self.prepared)  # the model that the checkpoint describes has no added items
        state = {
            "config": plain_settings(self.config),
            "state_dict": self.model.state_dict(),
            "other_parameter": self.model.other_parameter(),
        }
        if self._new is not None:
            self._use_new_items()
            first = self.prepared.table.n_items + 1
            state["added_items"] = {
                "items": self.items[first:],
                "titles": self.titles[first:],
                "codes": self._new_codes(),
                "embeddings": np.concatenate(self._embeddings),
            }
        make_folder(Path(path).parent)
        save_checkpoint(path, state)

    @property
    def new_items(self) -> list[NewItem]:
        """The items that were added after training, in their order, with the prefixes under which they are found."""
        trained = self.prepared.table
        known = Counter(map(tuple, trained.codes[1:, : trained.id_length].tolist()))
        first = trained.n_items + 1
        added = zip(self.items[first:], self.titles[first:], map(tuple, self._new_codes().tolist()), strict=True)
        return [NewItem(item, title, codes, known[codes]) for item, title, codes in added]

    def _new_codes(self) -> np.ndarray:
        """Learned codewords of the items that were added, `[n_new, id_length]`."""
        trained = self.prepared.table
        return self._table.codes[trained.n_items + 1 :, : trained.id_length]

    @property
    def n_items(self) -> int:
        """Items, new ones among them."""
        return len(self.items) - 1

    def _index(self) -> None:
        self._number = {item: number for number, item in enumerate(self.items[1:], 1)}
        self._titled: dict[str, list[int]] = {}
        for number, title in enumerate(self.titles[1:], 1):
            self._titled.setdefault(title.strip().casefold(), []).append(number)

    def find(self, name) -> int:
        """The internal number of an item by its id, or by its title in any case.

        Raises:
            UnknownItemError: if no item, or more than one, has this id or title.
        """
        name = str(name).strip()
        found = self._named(name)
        if len(found) == 1:
            return found[0]
        if found:
            some = ", ".join(self.items[number] for number in found[:5])
            raise UnknownItemError(f"'{name}' is the title of {len(found)} items ({some}); give an id")
        close = difflib.get_close_matches(name.casefold(), self._titled, n=2, cutoff=0.6)
        near = " or ".join(f"'{self.titles[self._titled[title][0]]}'" for title in close)
        hint = f"did you mean {near}?" if near else "give an item id or a title of the training data"
        raise UnknownItemError(f"'{name}' is not an item that the model knows; {hint}")

    def split(self, text: str) -> list[str]:
        """Split comma-separated names; titles may contain commas: the longest match with an item is taken."""
        parts, names = text.split(","), []
        while parts:
            ends = (end for end in range(len(parts), 0, -1) if self._named(",".join(parts[:end])))
            end = next(ends, 1)
            names.append(",".join(parts[:end]).strip())
            parts = parts[end:]
        return [name for name in names if name]

    def _named(self, name: str) -> list[int]:
        """Numbers of the items of this id, or of this title in any case; quotes around a name do not count."""
        name = name.strip()
        found = [self._number[name]] if name in self._number else self._titled.get(name.casefold(), [])
        if not found and len(name) > 2 and name[0] == name[-1] and name[0] in "'\"":
            return self._named(name[1:-1])
        return found

    def add_items(self, path: str | Path) -> int:
        """Add the items of an ``.item`` file: they get Semantic IDs and are found through their first codewords.

        Nothing is trained. A new item enters a list where an ID with its learned codewords is predicted (paper, 4.4.1);
        a model with `use_content` and `rescore_weight` ranks it there by its own text.

        Returns:
            number of added items.

        Raises:
            ValueError: for items that have no text or are known already, and if the IDs come from no quantizer.
        """
        table, items = read_new_items(path, self.config)
        known = [item for item in items if item in self._number]
        if known:
            raise ValueError(
                f"new_items='{path}': {len(known)} items are known already, such as {', '.join(known[:3])}"
            )
        quantizer, scaler = self.prepared.quantizer, self.prepared.scaler
        if quantizer is None or scaler is None or self.config["semantic_id"] == "random":
            raise ValueError(
                f"semantic_id={self.config['semantic_id']} does not make IDs of item text: new items cannot get any"
            )
        sentences = titles = [""] * len(items)
        if self.config["content_encoder"] != "precomputed":
            sentences, field = sentences_of_new_items(table, items, self.config), self.config["ITEM_ID_FIELD"]
            titles = item_titles(table, items, field, seq_separator=self.config["seq_separator"])
        embeddings = embed_new_items(self.config, sentences, items, self.prepared.sentences)
        codes = quantizer.transform(scaler.transform(embeddings))
        self._add(items, [title or item for title, item in zip(titles, items, strict=True)], codes, embeddings)
        return len(items)

    def _add(self, items: Sequence[str], titles: Sequence[str], codes: np.ndarray, embeddings: np.ndarray) -> None:
        """Take in items with learned codewords `[n_new, id_length]` and embeddings `[n_new, dim]`."""
        trained, codes = self.prepared.table, np.concatenate([self._new_codes(), codes])
        self._embeddings.append(embeddings)
        self.items += items
        self.titles += titles
        self._table = with_unseen_items(trained, codes, self.items[trained.n_items + 1 :])
        self._new = UnseenItems(self._table, trained.n_items, device=self.config["device"])
        self._use_new_items()
        self._index()

    def _use_new_items(self) -> None:
        """Let the model search all items."""
        self.model._use_semantic_ids(self.prepared.with_table(self._table, np.concatenate(self._embeddings)))
        self.model.to(self.config["device"])

    def recommend(
        self,
        histories: Sequence[Sequence[str]] | pd.DataFrame,
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
    ) -> Recommendations:
        """The k most likely next items after each history, best first.

        Args:
            histories: lists of item ids or titles, each in time order; or a table with one interaction per row, with
                the run's column names of user, item and time (without a time column the rows must be in time order).
                The model reads the last `MAX_ITEM_LIST_LENGTH` items.
            k: items per history; a list is shorter if the beam holds fewer.
            temperature: divides the logits, one number or one per level; by default the run's.
            exclude_seen: leave out the items of the history.
            users: external user ids, for models with user tokens; None for users never seen.
            beam_size: by default the run's, or k if that is more.
            sample: sample items instead of taking the best.
            seed: seed of the samples.
            epsilon: the largest share of new items in a list (see :meth:`add_items`).
            unknown: `error` raises for unknown items, `skip` leaves them out with a warning.
            progress: show a bar (in a terminal or a notebook only).

        Returns:
            one list of recommendations per history, with a method `to_frame`.

        Raises:
            UnknownItemError: naming items that are not known.
            ValueError: for an empty history, or an impossible k, epsilon, temperature or beam size.
        """
        if isinstance(histories, pd.DataFrame):
            if users is not None:
                raise ValueError("users: a table names its users already; leave users out")
            by_user = histories_of(histories, self.config)
            histories, users = list(by_user.values()), list(by_user)
        beams = self._checked_beams(histories, k, users, beam_size, epsilon, unknown)
        numbers = self._numbers(histories, users, unknown)
        options: dict = {"beam_size": beams, "temperature": temperature, "sample": sample}
        if sample and seed is not None:
            options["generator"] = torch.Generator(self.config["device"]).manual_seed(seed)
        chunk, hidden = self.config["eval_batch_size"], not (progress and has_screen())
        lists: list[list[Recommendation]] = []
        for start in tqdm(range(0, len(numbers), chunk), desc="recommend", ncols=100, disable=hidden):
            rows = slice(start, start + chunk)
            user_rows = self._users(None if users is None else users[rows])
            found = self._search(user_rows, numbers[rows], k, exclude_seen, epsilon, options)
            lists += self._written(found)
        return Recommendations(lists, users)

    def _checked_beams(self, histories, k, users, beam_size, epsilon, unknown) -> int:
        """The number of beams; raises for arguments of :meth:`recommend` that cannot work."""
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
        return beams

    def _search(self, users, histories: list[list[int]], k: int, exclude_seen: bool, epsilon: float, options):
        """Items [n, k] for histories of internal numbers; `options` go to `model.recommend`."""
        device = self.config["device"]
        recent = [history[-self.config["MAX_ITEM_LIST_LENGTH"] :] for history in histories]
        lengths = torch.tensor([len(history) for history in recent], device=device)
        excluded = _padded(histories, device) if exclude_seen else None
        arguments = (users, _padded(recent, device), lengths)
        if self._new is None:
            return self.model.recommend(*arguments, k, excluded=excluded, **options)
        n_listed = k if excluded is None else k + excluded.shape[1]  # of one prefix, before any is left out
        beside = self._new.beside(n_listed, tells_apart=self.model.tells_unseen_apart)
        found = self.model.recommend(*arguments, options["beam_size"], excluded=excluded, beside=beside, **options)
        if excluded is not None:  # a new item that was found through its prefix
            seen = (found.items[:, :, None] == excluded[:, None, :]).any(2)
            found = BeamResult(found.items.masked_fill(seen, 0), found.scores.masked_fill(seen, -torch.inf))
        return limit_unseen(found, self.prepared.table.n_items, k, epsilon)

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

    def _written(self, found: BeamResult) -> list[list[Recommendation]]:
        rows = zip(found.items.tolist(), found.scores.tolist(), strict=True)
        return [[self._recommendation(*pair) for pair in zip(*row, strict=True) if pair[0]] for row in rows]

    def _recommendation(self, item: int, score: float) -> Recommendation:
        is_new = item > self.prepared.table.n_items
        codes = self._table.codes[item][: self.prepared.table.id_length if is_new else None]  # no collision token
        return Recommendation(self.items[item], self.titles[item], score, tuple(codes.tolist()), is_new)


def _padded(rows: Sequence[Sequence[int]], device) -> torch.Tensor:
    """Lists of item numbers as one tensor [n, longest], padded with 0 at the end."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True).to(device)
