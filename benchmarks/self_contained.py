"""One leaderboard run on a bare machine: nothing is downloaded, it stops in time, and it resumes elsewhere.

    python benchmarks/self_contained.py --output=FOLDER [--state=FOLDER] [--wheels=FOLDER] [--minutes=9]
                                        -- --model=TIGER,SASRec --dataset=amazon-beauty --seeds=2024,2025,2026 …

For a machine with Python, torch and CUDA but no package registry, whose commands have a time limit. The options after
`--` are those of a leaderboard of `run_recbole_tiger.py`; name data and precomputed embeddings in them (`--data_path`,
`--content_encoder=precomputed --content_file`). Missing packages are installed from the wheels in `--wheels`
(`pip download --no-deps recbole==1.2.1 colorlog thop texttable plotly` elsewhere). All output is below `--output`:
`board` (one folder per run with its metrics, curves, ranks and last.pth, and the tables),
`cache` (Semantic IDs), `log.txt` and `machine.json`. After `--minutes` the run is asked to stop, writes its checkpoint
and ends with status 3; the same command with `--state` naming the output of the last one resumes at the exact step.
Status 0: all runs are done.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
#: Modules that training and evaluation import, with the distribution that brings each.
NEEDED = {
    "colorama": "colorama",
    "colorlog": "colorlog",
    "numpy": "numpy",
    "pandas": "pandas",
    "plotly": "plotly",
    "psutil": "psutil",
    "recbole": "recbole",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tabulate": "tabulate",
    "texttable": "texttable",
    "thop": "thop",
    "torch": "torch",
    "tqdm": "tqdm",
    "yaml": "pyyaml",
}
STOPPED = 3
GRACE = 45  # seconds that a run has to write its checkpoint before it is killed


def missing_packages() -> list[str]:
    return [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]


def install_wheels(wheels: Path, target: Path) -> None:
    """Put all wheels of a folder where the run finds them; no registry is asked and nothing is resolved."""
    files = sorted(str(wheel) for wheel in wheels.glob("*.whl"))
    if not files:
        raise SystemExit(f"--wheels={wheels} holds no .whl file")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade"]
    subprocess.run([*command, f"--target={target}", *files], check=True)


def make_writable(folder: Path) -> None:
    """What comes back from another machine may be read-only."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)


def describe_machine() -> dict:
    """What the figures depend on beside the code."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def run_for(command: Sequence[str], seconds: float, log: Path, environment: dict) -> tuple[int, bool]:
    """Run a command, its output to the terminal and a file; after so many seconds SIGTERM.

    Returns its status, and whether it was cut.
    """
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )
    cut = threading.Event()

    def stop() -> None:
        cut.set()
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    with open(log, "a", encoding="utf-8") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            file.flush()
    status = process.wait()
    timer.cancel()
    return status, cut.is_set()


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    own, _, board = arguments, None, []
    if "--" in arguments:
        own, board = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", required=True, type=Path, help="folder of all that is made; must not hold a run yet"
    )
    parser.add_argument("--state", type=Path, help="the output of an earlier command, to go on from; it is not changed")
    parser.add_argument("--wheels", type=Path, help="folder of wheels that this machine lacks")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which the run is stopped")
    options = parser.parse_args(own)
    if not board:
        parser.error("after -- comes a leaderboard: --model=… --dataset=…")
    taken = [key for key in ("--leaderboard_dir", "--cache_dir") if any(a.startswith(key + "=") for a in board)]
    if taken:
        parser.error(f"{', '.join(taken)}: leave it out, it lies below --output")
    output = options.output.resolve()
    if (output / "board").exists():
        parser.error(f"--output={options.output} holds a run; name a new folder, and that one as --state to go on")
    output.mkdir(parents=True, exist_ok=True)
    if options.state is not None:
        if not (options.state / "board").is_dir():
            parser.error(f"--state={options.state} holds no run (no folder 'board')")
        for name in ("board", "cache"):
            if (options.state / name).is_dir():
                shutil.copytree(options.state / name, output / name)
                make_writable(output / name)
    packages = output.parent / f"{output.name}-packages"
    if options.wheels is not None:
        install_wheels(options.wheels, packages)
        sys.path.insert(0, str(packages))
    if missing := missing_packages():
        parser.error(f"missing packages: {', '.join(missing)}; bring their wheels and name the folder as --wheels")
    (output / "machine.json").write_text(json.dumps(describe_machine(), indent=1) + "\n")
    paths = [str(REPOSITORY), *([str(packages)] if options.wheels else []), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, str(REPOSITORY / "run_recbole_tiger.py"), *board]
    command += [f"--leaderboard_dir={output / 'board'}", f"--cache_dir={output / 'cache'}"]
    status, cut = run_for(
        command,
        60 * options.minutes,
        output / "log.txt",
        {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"},
    )
    if cut and status:
        print(f"stopped after {options.minutes:g} minutes; go on with a new --output and --state={options.output}")
        return STOPPED
    return status


if __name__ == "__main__":
    sys.exit(main())
