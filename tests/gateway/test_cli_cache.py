"""`dragoman cache`: what is kept, and how it is deleted, at a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import run_sync
from click.testing import Result

from gateway import embedded
from gateway.address import Argument
from gateway.cache.files import FOLDER, AnswerFiles
from gateway.cache.inventory import TOTALS_KEY
from gateway.cache.keys import lock_key, scope_of, storage_key
from gateway.cache.records import pack, seal, seal_reference
from gateway.store import Store
from gateway.tapes import Piece
from tests.gateway.dragoman import check_refusal, new_key, run
from tests.gateway.state_server import PROGRAMS, RealServer, program

CHAT = "HuggingFaceTB/SmolLM2-135M-Instruct"
CHAT_ALIAS = "local-chat"
OTHER = "hibari-tts/heart"


def digest_of(number: int) -> str:
    return f"{number:064x}"


def answer_key(number: int, *, model: str = CHAT, key_id: str = "k") -> str:
    return storage_key(digest_of(number), model=model, scope=scope_of("key", key_id, None))


def value(number: int, text: str = "Hi") -> bytes:
    pieces = [Piece(text, is_last=True)]
    return seal(pack(pieces, made_at_ms=1, record_id="r"), digest=digest_of(number))


@dataclass(frozen=True)
class Cache:
    """A cache server, and a configuration that names it."""

    url: str
    data_dir: Path
    config: Path

    def do(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Return the replies of the server."""

        async def work() -> list[Any]:
            store = Store(self.url, timeout_seconds=10)
            try:
                return await asyncio.gather(*(store.call(*command) for command in commands))
            finally:
                await store.aclose()

        return asyncio.run(work())

    def keep(self, *answers: tuple[str, bytes]) -> None:
        self.do(*(("SET", name, kept) for name, kept in answers))

    def keys(self) -> set[str]:
        [found] = self.do(("KEYS", "*"))
        return {name.decode(errors="replace") for name in found}

    def run(self, *arguments: str) -> Result:
        return run("cache", *arguments, "--config", self.config, "--data-dir", self.data_dir)

    def printed(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def configure(self, *lines: str) -> None:
        text = [f'[store]\ncache = "{self.url}"', *lines]
        self.config.write_text("\n".join(text))

    @property
    def files(self) -> AnswerFiles:
        return AnswerFiles(self.data_dir / FOLDER, limit_bytes=1_000_000)


@pytest.fixture(scope="module", params=PROGRAMS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    options = ("--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lfu")
    started = RealServer(program(request.param), tmp_path_factory.mktemp("cache"), *options)
    yield started
    started.kill()


@pytest.fixture
def cache(server: RealServer, tmp_path: Path) -> Cache:
    made = Cache(server.url, tmp_path, tmp_path / "dragoman.toml")
    made.configure()
    made.do(("FLUSHALL",))
    return made


def test_an_empty_cache_has_its_figures(cache: Cache) -> None:
    found = cache.printed("stats")
    assert found["models"] == []
    assert found["files"] == {"count": 0, "bytes": 0}
    assert set(found["totals"].values()) == {0}
    assert list(found["totals"]) == (
        "hits misses shared bypassed stored too_large corrupt errors".split()
    )
    assert found["server"]["limit_bytes"] == 64 * 1024**2
    assert found["server"]["used_bytes"] > 100_000
    assert found["server"]["evicted_keys"] == 0


def test_answers_and_their_bytes_are_counted_by_model(cache: Cache) -> None:
    first, second, third = value(1), value(2, "a longer one"), value(3)
    cache.keep(
        (answer_key(1), first),
        (answer_key(2, key_id="l"), second),
        (answer_key(3, model=OTHER), third),
    )
    assert cache.printed("stats")["models"] == [
        {"model": CHAT, "answers": 2, "bytes": len(first) + len(second)},
        {"model": OTHER, "answers": 1, "bytes": len(third)},
    ]


def test_more_answers_than_a_page_are_counted_and_deleted(cache: Cache) -> None:
    cache.keep(*((answer_key(number), b"x") for number in range(2500)))
    cache.keep(*((f"other:{number}", b"x") for number in range(2500)))
    [chat] = cache.printed("stats")["models"]
    assert (chat["answers"], chat["bytes"]) == (2500, 2500)
    assert cache.printed("clear")["answers"] == 2500
    assert len(cache.keys()) == 2500


def test_what_workers_counted_and_the_folder_of_files_are_shown(cache: Cache) -> None:
    cache.do(("HSET", TOTALS_KEY, "hits", 7, "misses", 2, "unheard-of", 1))
    cache.files.write(b"x" * 300)
    found = cache.printed("stats")
    assert (found["totals"]["hits"], found["totals"]["misses"]) == (7, 2)
    assert found["totals"]["errors"] == 0
    assert "unheard-of" not in found["totals"]
    assert found["files"] == {"count": 1, "bytes": 300}


def test_people_get_a_table(cache: Cache) -> None:
    cache.keep((answer_key(1), b"x" * 1000))
    cache.do(("HSET", TOTALS_KEY, "hits", 7))
    lines = [line.split() for line in cache.run("stats").stdout.splitlines()]
    assert lines[:3] == [["MODEL", "ANSWERS", "BYTES"], [CHAT, "1", "1000"], []]
    assert ["hits", "7"] in lines
    assert ["files", "0,", "0.0", "MiB"] in lines
    [memory] = [line for line in lines if line[:1] == ["memory"]]
    assert memory[3:] == ["of", "64.0", "MiB"]


def test_clear_deletes_answers_and_nothing_else(cache: Cache) -> None:
    others = {TOTALS_KEY, lock_key(digest_of(1)), "answered:x"}
    cache.do(("HSET", TOTALS_KEY, "hits", 1), ("SET", lock_key(digest_of(1)), "t"))
    cache.do(("SET", "answered:x", "1"))
    cache.keep((answer_key(1), value(1)), (answer_key(2, model=OTHER), value(2)))
    result = cache.run("clear")
    assert result.stdout.startswith("Answers deleted: 2,")
    assert cache.keys() == others
    assert cache.printed("clear") == {"answers": 0, "files": 0}


@pytest.mark.parametrize("name", [CHAT, CHAT_ALIAS])
def test_answers_of_a_model_are_deleted_by_its_id_or_alias(cache: Cache, name: str) -> None:
    cache.keep((answer_key(1), value(1)), (answer_key(2, model=OTHER), value(2)))
    cache.keep((answer_key(3, model=f"{CHAT}-2"), value(3)))
    assert cache.printed("clear", "--model", name)["answers"] == 1
    assert cache.keys() == {answer_key(2, model=OTHER), answer_key(3, model=f"{CHAT}-2")}


def test_answers_of_a_key_are_deleted(cache: Cache) -> None:
    key_id = new_key(cache.data_dir, "--name", "a", "--team", "red")["id"]
    mine = [answer_key(number, key_id=key_id) for number in range(2)]
    mine.append(answer_key(2, key_id=key_id, model=OTHER))
    cache.keep(*((name, b"x") for name in mine), (answer_key(3), b"x"))
    assert cache.printed("clear", "--key", key_id, "--model", OTHER)["answers"] == 1
    assert cache.keys() == {*mine[:2], answer_key(3)}
    assert cache.printed("clear", "--key", key_id)["answers"] == 2
    assert cache.keys() == {answer_key(3)}


def test_files_go_with_the_answers_that_they_are(cache: Cache) -> None:
    names = [cache.files.write(value(number, "large")) for number in range(3)]
    for number, model in enumerate((CHAT, CHAT, OTHER)):
        reference = seal_reference(
            names[number], digest=digest_of(number), made_at_ms=1, record_id="r"
        )
        cache.keep((answer_key(number, model=model), reference))
    cache.keep((answer_key(4), value(4)), (answer_key(5), value(5, "x" * 1000)))
    cache.keep((answer_key(6), b"foreign"))
    assert cache.printed("clear", "--model", CHAT) == {"answers": 5, "files": 2}
    assert [cache.files.read(name) is None for name in names] == [True, True, False]


def test_foreign_keys_are_neither_counted_nor_in_the_way(cache: Cache) -> None:
    cache.do(
        ("LPUSH", answer_key(1), "x"),
        ("SET", b"answer:{\xff}:a:b", "x"),
        ("SET", "answer:1", "x"),
        ("SET", "answer:x:y:z", "x"),
    )
    cache.keep((answer_key(2), value(2)))
    found = cache.printed("stats")["models"]
    assert {one["model"]: one["answers"] for one in found} == {CHAT: 1, "a": 1}
    assert cache.printed("clear")["answers"] == 4
    assert cache.keys() == {"answer:1"}


def test_unknown_models_and_keys_are_refused(cache: Cache) -> None:
    cache.keep((answer_key(1), value(1)))
    check_refusal(cache.run("clear", "--model", "nope"), "--model", "'nope'", CHAT)
    check_refusal(cache.run("clear", "--key", "nope"), "--key", "'nope'")
    assert cache.keys() == {answer_key(1)}


@pytest.mark.parametrize("scope", ["team", "global"])
def test_answers_that_are_shared_cannot_be_told_by_key(cache: Cache, scope: str) -> None:
    cache.configure(f'[cache]\nscope = "{scope}"')
    key_id = new_key(cache.data_dir, "--name", "a")["id"]
    check_refusal(cache.run("clear", "--key", key_id), "--key", "cache.scope", f"'{scope}'")


@pytest.mark.parametrize("command", ["stats", "clear"])
def test_a_configured_server_that_is_not_there_is_told(tmp_path: Path, command: str) -> None:
    config = tmp_path / "dragoman.toml"
    config.write_text(f'[store]\ncache = "unix://{tmp_path}/nothing"')
    result = run("cache", command, "--config", config, "--data-dir", tmp_path)
    check_refusal(result, "the cache store does not answer")


@pytest.mark.parametrize("command", ["stats", "clear"])
def test_without_a_gateway_its_own_cache_is_told_to_be_empty(tmp_path: Path, command: str) -> None:
    result = run("cache", command, "--data-dir", tmp_path)
    check_refusal(result, "no gateway runs on", str(tmp_path), "keeps no answer")


@pytest.mark.anyio
async def test_the_gateways_own_cache_is_found_while_it_runs(tmp_path: Path) -> None:
    pair = await embedded.start(tmp_path)
    store = Store(pair.cache_url)
    try:
        await store.call("SET", answer_key(1), value(1))
        result = await run_sync(lambda: run("cache", "clear", "--data-dir", tmp_path))
        assert result.stdout.startswith("Answers deleted: 1,"), result.output
        assert await store.call("DBSIZE") == 0
    finally:
        await store.aclose()
        await pair.stop()
