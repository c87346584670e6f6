"""The script for the first minutes on a GPU ends in time, whatever its parts do, and writes down what they found."""

import json
import os
import sys

import pytest


@pytest.fixture(scope="module")
def script(benchmark_script):
    benchmarks = os.path.join(os.path.dirname(__file__), "..", "..", "benchmarks")
    sys.path.insert(0, benchmarks)  # as Python does for a script
    yield benchmark_script("first_gpu")
    sys.path.remove(benchmarks)


def test_parts_that_hang_or_crash_cost_the_others_nothing(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "SCRIPT_GRACE", 0.5)
    finding = json.dumps({"part": "c", "what": "speed | size", "ok": True, "steps/s": 1.23456789, "at": 1})
    programs = {
        "a": "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)",
        "b": "raise SystemExit(3)",
        "c": f"open({str(tmp_path / 'results.jsonl')!r}, 'a').write({finding + chr(10)!r})",
        "d": "print('never')",
    }
    asked = {}

    def command_of(name, seconds):
        asked[name] = seconds
        return [sys.executable, "-c", programs[name]]

    limits = {"a": 1.0, "b": 5.0, "c": 0, "d": 30.0}
    statuses = script.run_parts(["a", "b", "c"], command_of, tmp_path, 20, dict(os.environ), limits)
    assert (statuses["b"], statuses["c"]) == (3, 0) and statuses["a"] != 0
    assert asked["a"] == 1.0 and 5 < asked["c"] < 20  # a part without a limit has what is left
    script.run_parts(["d"], command_of, tmp_path, 0.4, dict(os.environ), limits)
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["part"], line["ok"]) for line in lines] == [
        ("a", False), ("b", False), ("c", True), ("c", True), ("d", False),
    ]  # fmt: skip
    assert "stopped after 1 s" in lines[0]["error"] and "no time" in lines[-1]["error"]
    assert "| c | speed \\| size | ok True; steps/s 1.2346 |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--output=new", "--parts=a,x"], "unknown x"),
        (["--output=new", "--data=nowhere"], "has no amazon-beauty"),
        (["--output=old"], "holds findings already"),
    ],
)
def test_mistakes_are_named(script, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "results.jsonl").write_text("")
    with pytest.raises(SystemExit):
        script.main(arguments)
    assert message in capsys.readouterr().err


def test_missing_packages_are_named(script, tmp_path, monkeypatch):
    monkeypatch.setitem(script.self_contained.NEEDED, "no_such_module", "no-such-package")
    with pytest.raises(SystemExit, match="missing packages: no-such-package; bring their wheels"):
        script.main([f"--output={tmp_path / 'new'}"])


def test_every_model_accepts_the_settings_of_its_trial(script, tmp_path, monkeypatch):
    from recbole_tiger.experiment.configuration import build_config

    for name in ("argv", "path"):
        monkeypatch.setattr(sys, name, list(getattr(sys, name)))
    monkeypatch.chdir(tmp_path)
    part = script.Part(script.parsed([f"--output={tmp_path / 'new'}", "--device=cpu", "--tiny", "--part=a"]))
    for model, changes in [*script.OURS.values(), *((name, {}) for name in script.BASELINES)]:
        config = build_config(model, "toy", config_dict=part.settings(model, changes), command_line={})
        assert (config["epochs"], config["train_batch_size"]) == (1, 32)


def test_a_finding_that_is_not_ok_is_the_scripts_status(script, tmp_path, monkeypatch):
    def run_parts(names, command_of, output, *_):
        lines = [{"part": "a", "what": "SASRec", "ok": found} for found in findings[output.name]]
        (output / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        script.write_table(output)

    monkeypatch.setattr(script, "run_parts", run_parts)
    findings = {"good": (True, True), "bad": (True, False)}
    assert [script.main([f"--output={tmp_path / name}"]) for name in findings] == [0, 1]


def test_the_limits_leave_the_last_part_time(script):
    assert sum(script.LIMITS.values()) < 11.5 * 60 - 240 and set(script.LIMITS) == set(script.PARTS)
