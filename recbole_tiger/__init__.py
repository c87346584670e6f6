"""TIGER, generative retrieval with Semantic IDs, as a plugin of RecBole.

Importing this package registers its models, datasets and trainers under RecBole's name look-ups, as soon as RecBole is
imported: RecBole's own ``run_recbole(model="TIGER", ...)``, ``load_data_and_model`` and ``full_sort_topk`` find them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from recbole_tiger.plugin.register import install_hook, register

if TYPE_CHECKING:
    from recbole_tiger.quick_start import load_data_and_model, objective_function, run_recbole_tiger
    from recbole_tiger.recommend import Recommender

__version__ = "0.1.0"
__all__ = ["Recommender", "__version__", "load_data_and_model", "objective_function", "register", "run_recbole_tiger"]

#: What is imported when it is first asked for, and from where: these import RecBole.
_LAZY = {
    "Recommender": "recommend",
    **dict.fromkeys(("load_data_and_model", "objective_function", "run_recbole_tiger"), "quick_start"),
}

install_hook()


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'recbole_tiger' has no attribute '{name}'")
    return getattr(importlib.import_module(f"recbole_tiger.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
