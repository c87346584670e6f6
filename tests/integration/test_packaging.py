"""The wheel carries everything: built, installed elsewhere, and used from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from catalogue import TINY, write_catalogue

ROOT = Path(__file__).resolve().parents[2]


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_the_wheel_trains_a_step_from_another_folder(tmp_path):
    pip = (sys.executable, "-m", "pip")
    source = tmp_path / "source"  # a copy, so that the build leaves nothing in the checkout
    run("git", "-c", f"safe.directory={ROOT}", "clone", "-q", str(ROOT), str(source))
    run(*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "dist"), str(source))
    [wheel] = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"recbole_tiger"}
    assert "recbole_tiger/properties/model/TIGER_paper.yaml" in names and "recbole_tiger/py.typed" in names
    for name in ("page.html.j2", "page.css", "leaderboard.js"):
        assert f"recbole_tiger/report/templates/{name}" in names
    assert "recbole_tiger/hpo/spaces/tiger.yaml" in names and "recbole_tiger/hpo/sweep.py" in names
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(wheel))

    (tmp_path / "here").mkdir()
    write_catalogue(tmp_path / "data")
    flags = [
        f"--{key}={value}"
        for key, value in {
            **TINY,
            "max_steps": 1,
            "lr_scheduler": "constant",
            "data_path": str(tmp_path / "data"),
        }.items()
    ]
    program = (
        "import recbole_tiger, recbole_tiger.cli as c, sys; "
        "print(recbole_tiger.__file__); sys.exit(c.main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = run(sys.executable, "-c", program, "--dataset=toy", *flags, cwd=tmp_path / "here", env=environment)
    assert str(tmp_path / "site") in done.stdout and "TIGER (tiny)" in done.stdout
