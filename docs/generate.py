"""Writes the reference pages that follow from the code: settings, commands and recipes.

    python docs/generate.py        # writes docs/reference/settings.md, command_line.md and the table of models.md

A test holds the table of recipes in models.md equal to what this gives; the two reference pages are made at every
build.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from recbole_tiger.settings.chain import described_keys, recipe_lines  # noqa: E402
from recbole_tiger.settings.schema import FIELDS  # noqa: E402

PROPERTIES = ROOT / "properties"


def settings_page() -> str:
    """Settings of this package with type, default and meaning, by property file."""
    pages = [
        "# Settings\n",
        "Settings are given as `--key=value`, in YAML files (`--config_files`) or in `config_dict`. The command line",
        "overrides the arguments `model` and `dataset`, these the dictionary, that the files (of which the last one",
        "wins), and these the defaults below. Separate several files by spaces; put a path with spaces in quotes. Any",
        "key of [RecBole](https://recbole.io/docs/user_guide/config_settings.html) works as well. An unknown key or an",
        "impossible value is an error before any work.\n",
    ]
    groups = [("The protocol, and settings of all runs", PROPERTIES / "overall.yaml")]
    groups += [("Item text for models with an embedding table of items", PROPERTIES / "item_text.yaml")]
    groups += [
        (f"Model {file.stem}", file) for file in sorted((PROPERTIES / "model").glob("*.yaml")) if "_" not in file.stem
    ]
    groups += [(f"Model {file.stem}", file) for file in [PROPERTIES / "model" / "Semantic_KNN.yaml"] if file.is_file()]
    groups += [(f"Tokenizer {file.stem}", file) for file in sorted((PROPERTIES / "semantic_id").glob("*.yaml"))]
    for title, file in groups:
        rows = described_keys(file)
        if rows:
            pages.append(f"\n## {title}\n\n| key | type | default | meaning |\n| --- | --- | --- | --- |")
        for row in rows:
            default = "" if isinstance(row.default, dict) else f"`{'~' if row.default is None else row.default}`"
            numbers = f" in {FIELDS[row.key].range}" if FIELDS[row.key].range else ""
            other, values = FIELDS[row.key].only_with or ("", ())
            asked = "` or `".join(map(str, values))
            reader = f" Used with `{other}={asked}` only." if other not in ("", "semantic_id") else ""
            cells = (f"`{row.key}`", row.type + numbers, default, row.meaning + reader)
            pages.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(pages) + "\n"


def command_page() -> str:
    """The help of every command; for those that parse their own arguments, how to show it."""
    from recbole_tiger.commands.options import COMMANDS, help_text

    pages = [
        "# Command line\n",
        "`recbole-tiger`, `python -m recbole_tiger` and `python run_recbole_tiger.py` are one program.\n",
    ]
    for name in (None, *COMMANDS):
        own = name is not None and COMMANDS[name].reads_words
        text = f"recbole-tiger {name} --help" if own else help_text("recbole-tiger", name).rstrip()
        summary = f"{COMMANDS[name].summary}\n\n" if own else ""
        pages.append(f"\n## `recbole-tiger{f' {name}' if name else ''}`\n\n{summary}```text\n{text}\n```")
    return "\n".join(pages) + "\n"


def recipe_table() -> str:
    """TIGER's recipes with what the first line of each property file says of it."""
    rows = ["| `--recipe=` | what it is, and what was measured |", "| --- | --- |"]
    rows += [f"| `{name}` | {line} |" for name, line in recipe_lines("TIGER").items()]
    return "\n".join(rows)


def with_recipes(text: str) -> str:
    """A page with the table of recipes between its two marks."""
    return re.sub(
        r"<!-- recipes -->.*?<!-- /recipes -->",
        lambda _: f"<!-- recipes -->\n{recipe_table()}\n<!-- /recipes -->",
        text,
        flags=re.DOTALL,
    )


def write_pages(folder: Path) -> None:
    """The reference pages, below the folder of the documentation."""
    (folder / "reference").mkdir(exist_ok=True)
    (folder / "reference" / "settings.md").write_text(settings_page(), encoding="utf-8")
    (folder / "reference" / "command_line.md").write_text(command_page(), encoding="utf-8")


if __name__ == "__main__":
    write_pages(ROOT / "docs")
    models = ROOT / "docs" / "models.md"
    models.write_text(with_recipes(models.read_text(encoding="utf-8")), encoding="utf-8")
