"""Files that nobody ever reads half of."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star import metric_log
from star.metric_log import MetricLog, read_metrics
from star.rundir import REMOVED, JobDir, read_json, write_json


def lines_of(path: Path) -> list[tuple[int, dict[str, float]]]:
    return [(line["step"], line["metrics"]) for _, line in read_metrics(path)]


@given(st.integers(0, 2000), st.integers(1, 12))
def test_a_log_cut_anywhere_and_resumed_is_the_whole_log(cut: int, checkpoint: int) -> None:
    """Whatever byte a kill leaves as the last one, and from whichever checkpoint the job goes on."""
    steps = [(step, {"loss": step / 7, "lr": 0.1}) for step in range(1, 13)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        log = MetricLog(path)
        for step, metrics in steps:
            log.record(step, metrics)
        log.close()
        path.write_bytes(path.read_bytes()[:cut])
        whole = len(lines_of(path))
        log = MetricLog(path)
        for step, metrics in steps[min(checkpoint, whole) :]:
            log.record(step, metrics)
        log.close()
        assert lines_of(path) == steps


def test_lines_wait_for_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full for a moment ends no training; what was measured then is there afterwards."""
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    whole, left = log._file, 2

    class Full:
        """A file that takes half of a line, then nothing for a while."""

        def write(self, line: bytes) -> int:
            nonlocal left
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole.write(line[: len(line) // 2 + 1]) if left > 0 else whole.write(line)

    monkeypatch.setattr(metric_log, "PAUSE", 0.0)
    log._file = Full()  # type: ignore[assignment]
    log.record(1, {"a": 1.0})
    log.record(2, {"a": 2.0})
    assert left < 0 and lines_of(path) == [(1, {"a": 1.0}), (2, {"a": 2.0})]
    left = 1
    monkeypatch.setattr(metric_log, "PATIENCE", -1.0)
    with pytest.raises(OSError, match="No space left"):
        log.record(3, {"a": 3.0})


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(read_metrics(path)) == []
    log = MetricLog(path)
    log.record(1, {"a": 1.0})
    (offset, first), *_ = read_metrics(path)
    log.record(2, {"a": 2.0})
    with path.open("a") as file:
        file.write('{"half a li')
    assert first["metrics"] == {"a": 1.0}
    assert [line["step"] for _, line in read_metrics(path, offset)] == [2]


def test_a_place_within_a_line_is_no_place(tmp_path: Path) -> None:
    """A power cut may take lines that were delivered, and others be written where they were."""
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    for step in range(1, 4):
        log.record(step, {"a": step / 3})
    log.close()
    (end, _), *_ = read_metrics(path)
    assert [line["step"] for _, line in read_metrics(path, end + 3)] == [1, 2, 3]
    assert [line["step"] for _, line in read_metrics(path, 10**6)] == [1, 2, 3]


def test_a_damaged_log_is_cut_there_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path)
    log.record(1, {"a": 1.0})
    log.close()
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b'\xff\xfe\n{"step": 3}\n')
    log = MetricLog(path)
    log.record(2, {"a": 2.0})
    log.close()
    assert lines_of(path) == [(1, {"a": 1.0}), (2, {"a": 2.0})]
    assert f"damaged from byte {whole} on" in caplog.text


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plain, stale = tmp_path / "progress.json", Path.read_text, [errno.ESTALE]
    path.write_text('{"done": 1}')

    def read(self: Path, *rest: object, **options: object) -> str:
        if stale:
            raise OSError(stale.pop(), "stale")
        return plain(self)

    monkeypatch.setattr(Path, "read_text", read)
    assert read_json(path) == {"done": 1}
    stale[:] = [errno.EACCES]
    assert JobDir(tmp_path).read_progress() is None, "it is only shown"
    stale[:] = [errno.EACCES]
    with pytest.raises(PermissionError):
        read_json(path)


def test_a_job_is_complete_with_its_result_and_its_output(tmp_path: Path) -> None:
    job = JobDir(tmp_path / "train-1")
    assert not job.is_complete()  # no folder
    job.path.mkdir()
    write_json(job.result, {"metrics": {}})
    assert not job.is_complete()  # numbers alone
    job.out.mkdir()
    assert job.is_complete()
    for damaged in ("", "null", "{}", "[1]", '{"metrics": {"acc": 0.', '{"metrics": 1}'):
        job.result.write_text(damaged)
        assert job.read_result() is None and not job.is_complete(), damaged
    write_json(job.result, {"metrics": {}})
    (job.out / REMOVED).touch()
    assert not job.is_complete()  # its large files are gone
    (job.out / REMOVED).unlink()
    job.result.unlink()
    assert not job.is_complete()  # killed between the two


def test_json_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    write_json(path, {"a": 2}, durable=False)
    assert read_json(path) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
