"""The worker's side of a command: what it is called with, how it may end, what is read of it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from star.command import run_command
from star.errors import DataError, ScriptError, StarError, Stopped
from star.metric_log import read_metrics
from star.rundir import JobDir, read_json
from star.script_output import Reports
from star.spec.run_class import run_class
from star.spec.scripts import ScriptStage
from tests.services import until


def call(
    root: Path, code: str, stop: Callable[[], bool] = lambda: False, log: str = "", **declared: Any
) -> dict[str, float]:
    """Run a script of this text, declared as given, as the stage `fit`."""
    (root / "script").mkdir(exist_ok=True)
    (root / "script" / "it.py").write_text(code)
    words = declared.pop("words", "{out}")
    script = ScriptStage.model_validate({"command": f"python it.py {words}", "gpu": False, **declared})
    spec = run_class({"fit": script}, full=False).model_validate({"stages": {"fit": script}})
    job_dir = JobDir(root / "job")
    job_dir.path.mkdir(exist_ok=True)
    job_dir.log.write_text(log)
    job = {"stage": "fit", "script": str(root / "script"), "threads": 1, "inputs": {"before": str(root / "before")}}
    return run_command(job, job_dir, spec, script, stop)


def told(text: str) -> str:
    """A script that writes its results."""
    return f"import sys, pathlib\npathlib.Path(sys.argv[1], 'results.json').write_text('''{text}''')\n"


def prints(text: str) -> str:
    """A script that prints: into the job's log, as a worker's own output goes there."""
    return f"import sys, pathlib\nwith pathlib.Path(sys.argv[1]).parent.joinpath('log.txt').open('a') as log: log.write({text!r})\n"


def test_what_the_command_is_called_with(tmp_path: Path) -> None:
    """Word by word, whatever is in them: no shell sees it."""
    code = "import json, os, sys\njson.dump([sys.argv[1:], dict(os.environ), os.getcwd()], open(sys.argv[1] + '/seen.json', 'w'))"
    words = "{out} --seed={seed} {name} '{name}' {before} {threads} {device} {checkpoints} '{resume}' {{}} {parameters} {images}"
    parameters = {"name": "a b; $HOME", "rate": 0.5, "fast": True, "slow": False}
    call(tmp_path, code, words=words, parameters=parameters, after=["before"], reads={"images": "/data/x y"})
    job = JobDir(tmp_path / "job")
    seen, environment, folder = read_json(job.scratch / "seen.json")
    assert seen == [
        *(str(job.scratch), "--seed=0", "a b; $HOME", "a b; $HOME", str(tmp_path / "before" / "out"), "1", "cpu"),
        *(str(job.checkpoints), "", "{}", "--name", "a b; $HOME", "--rate", "0.5", "--fast", "/data/x y"),
    ]
    assert (environment["STAR_OUT"], environment["OMP_NUM_THREADS"]) == (str(job.scratch), "1")
    assert environment["CUDA_VISIBLE_DEVICES"] == "" and Path(folder) == job.path / "script", (
        "a copy of this attempt's own"
    )
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent), "`python` is the worker's"


def test_results_that_are_declared_are_kept(tmp_path: Path) -> None:
    found = call(tmp_path, told('{"a": 1, "b": 0.5, "note": "x", "c": 3}'), results=["b", "a"])
    assert found == {"b": 0.5, "a": 1.0}
    assert call(tmp_path, "", results=[]) == {}
    elsewhere = "import sys, json\njson.dump({'a': 2}, open(sys.argv[1] + '/all.json', 'w'))"
    assert call(tmp_path, elsewhere, words="{checkpoints}", results=["a"], results_file="{checkpoints}/all.json") == {
        "a": 2
    }


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("", "ended without writing results.json"),
        (told("{"), "results.json is not JSON"),
        (told("[1]"), "holds no mapping of names to numbers"),
        (told('{"b": 1}'), "has no number a; it has b"),
        (told('{"a": "high"}'), "has no number a; it has none"),
        (told('{"a": true}'), "has no number a; it has none"),
    ],
)
def test_results_that_are_not_as_declared_are_the_users_mistake(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(StarError, match=says) as raised:
        call(tmp_path, code, results=["a"])
    assert str(raised.value).startswith("stages.fit.results: ")


def test_results_may_be_read_from_what_is_printed(tmp_path: Path) -> None:
    """The last match in what the script printed, and nowhere else: not in an earlier attempt's part, nor in the line that calls it."""
    code = prints("acc: 0.1 of 5\nacc: 0.25 of 8\n== attempt to close\n")
    found = call(tmp_path, code, log="acc: 0.9\n", results={"a": r"acc: ([\d.]+)", "n": r"acc: ([\d.]+) (of) (\d)"})
    assert found == {"a": 0.25, "n": 0.25}
    for pattern, says in ((r"loss: (\S+)", "matches nothing"), (r"(acc): ", "'acc' is no number")):
        with pytest.raises(StarError, match=says):
            call(tmp_path, code, results={"a": pattern})
    with pytest.raises(StarError, match="matches nothing"):
        call(tmp_path, "", log="acc: 0.5\n", words="{out} --acc 0.5", results={"a": r"acc:? ([\d.]+)"})


@pytest.mark.parametrize(
    ("code", "stop", "error", "says"),
    [
        ("import sys; sys.exit(1)", False, ScriptError, "ended with exit code 1"),
        ("import sys; sys.exit(2)", False, StarError, "exit code 2"),
        (
            "import sys; sys.exit(75)",
            False,
            ScriptError,
            "75, though nobody had asked it to stop, and has kept nothing new",
        ),
        ("import sys; open(sys.argv[2] + '/s', 'w'); sys.exit(75)", False, Stopped, "begins again"),
        ("import os; os.kill(os.getpid(), 9)", False, ScriptError, "died by signal 9"),
        ("import time; time.sleep(60)", True, Stopped, "begins again"),
        ("import os; os.kill(os.getpid(), 15)", False, ScriptError, "died by signal 15"),
    ],
)
def test_how_it_may_end(tmp_path: Path, code: str, stop: bool, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call(tmp_path, code, stop=lambda: stop, words="{out} {checkpoints}")


def test_one_that_ends_well_after_it_was_asked_to_stop_is_done(tmp_path: Path) -> None:
    code = (
        "import signal, sys\nasked = []\nsignal.signal(15, lambda *_: asked.append(1))\nopen(sys.argv[1] + '/ready', 'w')\n"
        "while not asked:\n    signal.sigtimedwait([], 0.01)\n"
    )
    ready = JobDir(tmp_path / "job").scratch / "ready"
    assert call(tmp_path, code + told('{"a": 1}'), stop=ready.exists, results=["a"]) == {"a": 1}


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    script = ScriptStage.model_validate({"command": "no-such-program {out}"})
    spec = run_class({"fit": script}, full=False).model_validate({"stages": {"fit": script}})
    job_dir = JobDir(tmp_path / "job")
    job_dir.path.mkdir()
    (tmp_path / "script").mkdir()
    job = {"stage": "fit", "script": str(tmp_path / "script"), "threads": 1, "inputs": {}}
    with pytest.raises(StarError, match=r"stages.fit.command: no-such-program cannot be called: No such file"):
        run_command(job, job_dir, spec, script, lambda: False)
    with pytest.raises(DataError, match="the copy of the script is gone"):
        run_command(job | {"script": str(tmp_path / "gone")}, job_dir, spec, script, lambda: False)


def test_a_report_that_cannot_be_read_ends_the_script_and_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\nchild = subprocess.Popen(['sleep', '600'])\n"
        "open(sys.argv[1] + '/pid', 'w').write(str(child.pid))\n"
        "open(sys.argv[1] + '/curves.jsonl', 'w').write('{\"loss\": 1}\\n')\ntime.sleep(600)"
    )
    with pytest.raises(DataError, match=r'curves.jsonl:1: is not as {"step": 3, "loss": 0.5}'):
        call(tmp_path, code)
    pid = int((JobDir(tmp_path / "job").scratch / "pid").read_text())
    until(lambda: is_gone(pid), "the end of its child")


def is_gone(pid: int) -> bool:
    """Whether a process has ended: nothing of it is left but its exit code."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


CSV = "epoch,step,loss,name\n0,9,2.5,x\n0,9,,x\n1,19,1.5,y\n"
JSON = json.dumps({"log_history": [{"step": 9, "loss": 2.5}, {"step": 19, "loss": 1.5, "eval": 0.5}]})
LINES = '{"step": 9, "of": 20, "loss": 2.5}\n{"step": 19, "of": 20, "loss": 1.5, "x": null}\n{"step": 20, "lo'


@pytest.mark.parametrize(("name", "text"), [("m.csv", CSV), ("t.json", JSON), ("curves.jsonl", LINES)])
def test_curves_of_three_kinds(tmp_path: Path, name: str, text: str) -> None:
    """Read while they grow: a line that is half written waits, and none is recorded twice."""
    job = JobDir(tmp_path / "job")
    job.path.mkdir()
    reports = Reports(tmp_path / name, job)
    for size in range(len(text) + 1):
        (tmp_path / name).write_text(text[:size])
        reports.carry()
    (tmp_path / name).write_text(text)
    if name == "curves.jsonl":
        reports.carry()
        assert read_json(job.progress)["done"] == 19 and read_json(job.progress)["total"] == 20
    else:
        reports.close()
    losses = {
        line["step"]: line["metrics"]["loss"] for _, line in read_metrics(job.metrics) if "loss" in line["metrics"]
    }
    assert losses == {9: 2.5, 19: 1.5}


@pytest.mark.parametrize(
    "line",
    [
        *("{", "[]", '{"loss": 1}', '{"step": 1.5}', '{"step": -1}', '{"step": true}', '{"step": 1, "loss": "low"}'),
        *(
            '{"step": 1, "loss": {}}',
            '{"step": Infinity}',
            '{"step": 99999999999999999999}',
        ),
        *('{"step": 1, "loss": 1' + "0" * 400 + "}", "[" * 100_000),
    ],
    ids=lambda line: line[:30],
)
def test_a_line_that_is_none(tmp_path: Path, line: str) -> None:
    job = JobDir(tmp_path / "job")
    job.path.mkdir()
    (tmp_path / "curves.jsonl").write_text(f'{{"step": 0, "loss": 1}}\n{line}\n')
    with pytest.raises(DataError, match=r"curves.jsonl:2: is not as"):
        Reports(tmp_path / "curves.jsonl", job).carry()


def test_what_it_said_last_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="ended with exit code 3: RuntimeError: shapes differ$"):
        call(tmp_path, prints("Traceback\nRuntimeError: shapes differ\n\n") + "sys.exit(3)")
    with pytest.raises(StarError, match="a mistake in how it was called: it printed nothing$"):
        call(tmp_path, "import sys; sys.exit(2)", log="of another attempt\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "layers.py").write_text("")
    code = prints("ModuleNotFoundError: No module named 'layers'\n") + "sys.exit(1)"
    with pytest.raises(
        ScriptError, match=r"layers.py is not among the script's files: add it to `files: \[layers.py\]`"
    ):
        call(tmp_path, code, folder=str(tmp_path / "mine"))


def test_what_an_earlier_attempt_left_is_ended_before_the_next_begins(tmp_path: Path) -> None:
    """Its worker was killed, and with it the script, but not what that had started."""
    scratch = JobDir(tmp_path / "job").scratch
    left = subprocess.Popen(["sleep", "600"], env=os.environ | {"STAR_OUT": str(scratch)})
    other = subprocess.Popen(["sleep", "600"], env=os.environ | {"STAR_OUT": f"{scratch}-of-another"})
    assert call(tmp_path, told('{"a": 1}'), results=["a"]) == {"a": 1}
    assert left.wait(timeout=60) == -9 and other.poll() is None
    other.kill()
    other.wait()


def test_a_report_that_was_cut_off_hides_no_other_end(tmp_path: Path) -> None:
    code = "import sys\nopen(sys.argv[1] + '/t.json', 'w').write('{\"log_history\": [{\"st')\nsys.exit(7)"
    with pytest.raises(ScriptError, match="ended with exit code 7"):
        call(tmp_path, code, curves_file="t.json")
    with pytest.raises(DataError, match="t.json: is not as"):
        call(tmp_path, code.replace("7", "0"), curves_file="t.json")


def test_an_end_with_any_code_after_it_was_asked_to_stop_is_a_stop(tmp_path: Path) -> None:
    code = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(1))\nopen(sys.argv[1] + '/ready', 'w')\nsignal.pause()"
    with pytest.raises(Stopped):
        call(tmp_path, code, stop=(JobDir(tmp_path / "job").scratch / "ready").exists)


@pytest.mark.parametrize(
    "name, text",
    [
        ("t.jsonl", '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.25}'),
        ("t.csv", "\ufeffstep, loss\n1,1.0\n2.0,0.25"),
        ("t.json", '{"log_history": [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.25, "note": "x"}]}'),
    ],
)
def test_the_last_line_needs_no_end(tmp_path: Path, name: str, text: str) -> None:
    call(tmp_path, f"import sys, pathlib\npathlib.Path(sys.argv[1], {name!r}).write_text({text!r})", curves_file=name)
    read = {line["step"]: line["metrics"]["loss"] for _, line in read_metrics(JobDir(tmp_path / "job").metrics)}
    assert read == {1: 1.0, 2: 0.25}


def test_what_is_left_out_of_a_curve_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = '{"step": 1, "loss": 1.0, "acc@1": 0.3}\n{"step": 2, "loss": 0.5, "acc@1": 0.4}\n'
    call(tmp_path, f"import sys, pathlib\npathlib.Path(sys.argv[1], 'curves.jsonl').write_text({text!r})")
    assert "curves.jsonl: left out: 'acc@1', which is no name that MLflow takes (2 times, first 0.3)" in caplog.text
    text = 'step,loss\n1,abc\n2,"0,5"\n'
    call(tmp_path, f"import sys, pathlib\npathlib.Path(sys.argv[1], 't.csv').write_text({text!r})", curves_file="t.csv")
    assert "t.csv: left out: values of loss that are no numbers (2 times, first 'abc')" in caplog.text
    text = '{"step": "3", "val loss": "0.25", "best": true}\n'
    call(tmp_path, f"import sys, pathlib\npathlib.Path(sys.argv[1], 'curves.jsonl').write_text({text!r})")
    assert "left out: values of best that are no numbers (1 times, first True)" in caplog.text
    read = [(line["step"], line["metrics"]) for _, line in read_metrics(JobDir(tmp_path / "job").metrics)]
    assert read == [(1, {"loss": 1.0}), (2, {"loss": 0.5}), (3, {"val loss": 0.25})]


@pytest.mark.parametrize(
    "name, text, says",
    [
        ("t.csv", "epoch,loss\n1,2\n", "t.csv:1: .* it has no column step; it has epoch, loss"),
        ("t.csv", "step;loss\n1;2\n", "it has no column step; it has step;loss"),
        ("t.json", "[" * 100_000, "t.json: is not as"),
    ],
)
def test_a_curves_file_of_another_form(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        code = f"import sys, pathlib\npathlib.Path(sys.argv[1], {name!r}).write_text({text!r})"
        call(tmp_path, code, curves_file=name)


@pytest.mark.parametrize(
    "code, says",
    [
        ("import sys, os\nos.mkdir(sys.argv[1] + '/results.json')", "results.json is a folder"),
        (told('{"a": 1' + "0" * 400 + "}"), "a whole number that is too large"),
        (told("[" * 100_000), "results.json is not JSON"),
    ],
)
def test_results_that_python_cannot_take(tmp_path: Path, code: str, says: str) -> None:
    with pytest.raises(StarError, match=says):
        call(tmp_path, code, results=["a"])


def test_a_folder_in_place_of_the_curves(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="curves.jsonl: is not as"):
        call(tmp_path, "import sys, os\nos.mkdir(sys.argv[1] + '/curves.jsonl')")


def test_what_it_leaves_in_a_session_of_its_own_is_ended_with_it(tmp_path: Path) -> None:
    code = "import subprocess, sys\nsubprocess.Popen(['sleep', '601'], start_new_session=True)\n"
    call(tmp_path, code)
    left = [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "601"]]
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def test_a_last_line_that_was_cut_off_is_no_number(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\npathlib.Path(sys.argv[1], 't.csv').write_text('step,loss\\n1,0.5\\n12,0.3')\nsys.exit(7)"
    )
    with pytest.raises(ScriptError, match="exit code 7"):
        call(tmp_path, code, curves_file="t.csv")
    assert [line["step"] for _, line in read_metrics(JobDir(tmp_path / "job").metrics)] == [1]


def test_what_the_worker_says_is_not_what_the_script_has_printed(tmp_path: Path) -> None:
    """It writes into the same log: of processes that were left, of what it left out."""
    worker = logging.FileHandler(tmp_path / "job" / "log.txt") if (tmp_path / "job").mkdir() is None else None
    assert worker is not None
    logging.getLogger("star.worker").addHandler(worker)
    try:
        left = "import subprocess\nsubprocess.Popen(['sleep', '602'], start_new_session=True)\n"
        csv = "pathlib.Path(sys.argv[1], 't.csv').write_text('step,when\\n1,9.5 h\\n')\n"
        code = prints("accuracy 0.9\nValueError: the rate is negative\n") + left + csv
        found = call(tmp_path, code, curves_file="t.csv", results={"a": r"([0-9.]+)\D*$"})
        assert found == {"a": 0.9}
        with pytest.raises(ScriptError, match="exit code 1: ValueError: the rate is negative$"):
            call(tmp_path, code + "sys.exit(1)", curves_file="t.csv")
    finally:
        logging.getLogger("star.worker").removeHandler(worker)
        worker.close()
