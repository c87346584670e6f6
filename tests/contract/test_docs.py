"""Documentation that stays true: links lead somewhere, commands are ones that exist, Python runs."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from working import working_in

from recbole_tiger.commands.options import COMMANDS, TRAIN, key_value_arguments
from recbole_tiger.settings.parse import parse_command_line
from recbole_tiger.settings.validate import check_keys

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if page.name not in ("settings.md", "command_line.md")]  # made at a build
PROGRAMS = ("recbole-tiger ", "python run_recbole_tiger.py", "recbole-tiger-tune", "python hpo/run_tune.py")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def commands(page: Path) -> list[str]:
    """Every command line of this program in a page, in blocks and between backticks."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    lines = [line.split("   #")[0].strip() for block in re.findall(r"^```(?:text)?\n(.*?)^```", text, re.M | re.S)
             for line in block.splitlines()]  # fmt: skip
    lines += re.findall(r"`((?:recbole-tiger|python run_recbole_tiger\.py) [^`]*)`", text)
    found = []
    for line in lines:
        found += [part.strip() for part in line.split("&&") if part.strip().startswith(PROGRAMS)]
    return found


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_of_the_checkout(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        generated = file.name in ("settings.md", "command_line.md")
        assert file.is_file() or generated, f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


def test_every_command_of_the_documentation_is_one_that_exists():
    seen = 0
    for page in PAGES:
        for line in commands(page):
            words = shlex.split(line.replace("…", ""))
            words = words[2:] if words[0] == "python" else words[1:]
            if line.startswith(("recbole-tiger-tune", "python hpo")):
                words = ["tune", *words]
            name = words.pop(0) if words and not words[0].startswith("-") else None
            if name in ("COMMAND", "--version", None) and (not words or words == ["--help"]):
                continue
            assert name is None or name in COMMANDS, line
            seen += 1
            if name in ("prepare", "tune") or "--help" in words:
                continue
            known = {key for key, _, _ in (COMMANDS[name] if name else TRAIN).options}
            settings = parse_command_line(key_value_arguments(words))
            model = str(settings.get("model", "TIGER")).split(",")[0].split("[")[0]
            rest = {key: value for key, value in settings.items() if key not in known}
            check_keys(rest, model)
    assert seen > 25


def test_the_readme_fits_a_screen_or_two():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [n for n, line in enumerate(lines) if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_end_at_120_characters(page):
    long = [line for line in page.read_text(encoding="utf-8").splitlines() if len(line) > 120]
    assert [line for line in long if not line.lstrip().startswith("|")] == []  # a row of a table has no end of its own


@pytest.fixture(scope="module")
def folder_of_all_pages(tmp_path_factory):
    """One folder, so that pages with the same catalogue make its Semantic IDs once."""
    return tmp_path_factory.mktemp("pages")


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: str(page.relative_to(ROOT))
)
def test_the_python_of_a_page_runs(page, folder_of_all_pages, registries):
    namespace: dict = {"__name__": "documentation"}
    with working_in(folder_of_all_pages):
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), namespace)


def test_the_table_of_recipes_is_what_the_property_files_say():
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert generate.with_recipes(text) == text
    assert "| `tuned` |" in generate.recipe_table()
    assert re.search(r"\| `id_length` \| int", generate.settings_page())
