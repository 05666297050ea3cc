"""What a worker counts has its room on the disk before there is anything to count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.metrics.room import reserve
from gateway.metrics.series import METRICS

MODELS = 20
COUNT = f"""
from gateway.config import Settings
from gateway.metrics.metrics import Metrics
from tests.gateway.metrics.test_requests import SCOPE, admitted, record
names = [f"organization/a-model-of-theirs-{{at}}" for at in range({MODELS})]
models = [{{"id": name, "targets": [{{"upstream": "upstream"}}]}} for name in names]
upstreams = [{{"name": "upstream", "dialect": "openai", "base_url": "http://127.0.0.1:1"}}]
metrics = Metrics(Settings.model_validate({{"models": models, "upstreams": upstreams}}))
ends = ("ok", "stop"), ("error", "upstream_timeout"), ("disconnected", "client_disconnected")
for name in names:
    for status, finish in ends:
        used = {{"input_tokens": 9, "output_tokens": 9, "first_token_ms": 9}}
        made = record(model=name, upstream="upstream", status=status, finish=finish, **used)
        metrics.requests.ended(admitted(made, upstream_ms=9.0, is_stream=True), SCOPE)
"""
WITH_LITTLE_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )


def sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in folder.glob("*.db")}


def test_no_file_has_a_hole(tmp_path: Path) -> None:
    reserve(tmp_path, models=MODELS)
    kinds = {file.stem.rpartition("_")[0] for file in tmp_path.glob("*.db")}
    gauges = {f"gauge_{metric.together}" for metric in METRICS if metric.kind == "gauge"}
    assert kinds == {"counter", "histogram", *gauges}
    for file in tmp_path.glob("*.db"):
        stat = file.stat()
        assert stat.st_blocks * 512 >= stat.st_size > 0, file.name


def test_models_that_end_in_three_ways_need_no_more(tmp_path: Path) -> None:
    reserve(tmp_path, models=MODELS)
    reserved = sorted(sizes(tmp_path).values())
    for file in tmp_path.glob("*.db"):
        file.unlink()
    run(COUNT, tmp_path)
    assert sorted(sizes(tmp_path).values()) == reserved
    [histogram] = tmp_path.glob("histogram_*")
    assert int.from_bytes(histogram.read_bytes()[:4], sys.byteorder) > 1_000_000  # are used


def test_a_thousand_models_reserve_no_more_than_fifty(tmp_path: Path) -> None:
    reserve(tmp_path, models=1000)
    assert sum(sizes(tmp_path).values()) < 7_000_000


def test_what_a_dead_worker_with_the_same_id_has_counted_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / f"counter_{os.getpid()}.db"
    kept.write_bytes(b"counted")
    reserve(tmp_path, models=1)
    assert kept.read_bytes() == b"counted"


def test_without_room_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def write_some(file: Path, data: bytes) -> int:
        if "histogram" not in file.name:
            return write(file, data)
        write(file, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_some)
    with pytest.raises(OSError, match="No space"):
        reserve(tmp_path, models=1)
    assert sizes(tmp_path) == {}


def test_a_worker_without_room_counts_for_nobody_but_works(tmp_path: Path) -> None:
    ended = run(WITH_LITTLE_ROOM + COUNT, tmp_path)
    assert "what this worker counts is not told" in ended.stderr
    assert sizes(tmp_path) == {}
