"""A cluster of Valkey or Redis servers: each call goes to the master of its key.

The map of masters is told by any server that answers. It is asked for anew from time to time, and
at once when a server sends a call elsewhere or fails; so a replica that takes over is found. Each
master has its own breaker: where one is gone, the keys of the others are served as before.
"""

from __future__ import annotations

import asyncio
import logging
import random
from asyncio import Future
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from gateway.address import Address, Argument, Command
from gateway.connection import Call, Script, fail, pack
from gateway.link import failed
from gateway.node import Node, Terms, ask
from gateway.slots import SLOTS, Range, key_of, parse_ranges, parse_redirection, slot_of
from gateway.store_errors import StoreError, StoreRefused, StoreUnavailable

_PROBE = (b"CLUSTER", b"INFO"), b"cluster_state:ok"  # a server that is cut off says PONG as well
_MAP: Command = (b"CLUSTER", b"SLOTS")
_WELL_SECONDS = 10.0  # between two looks at the map
_UNWELL_SECONDS = 0.5  # while a master does not answer: another may take over
_LEAST_SECONDS = 0.1  # however many calls are sent elsewhere
_ASKED_AT_ONCE = 3  # for the map: the first answer counts, so none waits for one that hangs
_NO_SERVER = "no server of the cluster has the slot"
_HOPS = 10  # a call is sent at most so often, and pauses share its timeout

logger = logging.getLogger(__name__)


class Cluster:
    """The masters of a cluster, which `seeds` know. `on_change` is told if any of them is asked."""

    def __init__(
        self, seeds: Sequence[Address], terms: Terms, *, on_change: Callable[[bool], None]
    ) -> None:
        """Connect to nothing yet."""
        self._seeds = seeds
        self._terms = terms
        self._on_change = on_change
        self._nodes: dict[tuple[str, int], Node] = {}
        self._slots: list[Node | None] | None = None
        self._masters: list[Node] = []  # those in `_slots`
        self._waiting: list[Call] = []
        self._reason = ""  # for which there is no map, once it was looked for
        self._was_available = True
        self._is_lost = False  # nobody told the map when it was last asked for
        self._stale = asyncio.Event()
        self._looked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    @property
    def is_available(self) -> bool:
        """Whether calls are sent to any of the masters, as far as is known now."""
        if self._slots is None:
            return not self._reason
        return any(node.is_available for node in self._masters)

    def send(self, command: Command, script: Script | None = None) -> Future[Any]:
        """Send a command to the master of its first key; without one, to any that is asked."""
        if self._slots is None:
            return self._wait(command, script)
        node = self._home(command)
        if node is None:
            return failed(_NO_SERVER)
        return node.send(command, script)

    async def masters(self) -> list[Node]:
        """Return the masters that have slots. Raises StoreUnavailable if there is no map."""
        self._begin()
        if self._looking:
            await self._looked.wait()
        if self._slots is None:
            raise StoreUnavailable(self._reason)
        return self._masters.copy()

    async def address_of(self, key: Argument) -> Address:
        """Return where the master of a key listens. Raises StoreError."""
        await self.send((b"EXISTS", key))  # if the slot has moved, this finds out
        node = self._slots[slot_of(key)] if self._slots else None
        if node is None:
            raise StoreUnavailable(_NO_SERVER)
        return node.address

    async def ping(self) -> int:
        """Ask all masters, on connections of their own; return how many do not answer.

        Raises StoreError if none does.
        """
        pings = (node.ping() for node in await self.masters())
        answers = await asyncio.gather(*pings, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(errors) == len(answers):
            raise errors[0]
        return len(errors)

    async def aclose(self) -> None:
        """Close all connections for good; calls under way and later ones fail."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        self._slots = None
        self._give_up("the connection to the store is closed")
        self._looked.set()
        for node in self._nodes.values():
            await node.aclose()

    def _home(self, command: Command) -> Node | None:
        """Return the master that has a command's key, any for one without. None: there is none."""
        key = key_of(command)
        if key is not None:
            return self._slots[slot_of(key)] if self._slots else None
        asked = (node for node in self._masters if node.is_available)
        return next(asked, None) or next(iter(self._masters), None)

    def _route(self, call: Call) -> None:
        node = self._home(call[1])
        if node is None:
            fail(call, _NO_SERVER)
        else:
            node.take(call)

    def _redirect(self, address: Address, call: Call, error: StoreRefused) -> StoreError | None:
        """Send a call to where `address` says, or return why not."""
        future, command, script, hops = call
        if hops == _HOPS or self._slots is None:
            return StoreUnavailable(f"the cluster is being changed: {error}")
        again = (future, command, script, hops + 1)
        if error.code == "TRYAGAIN":  # some of its keys are on their way
            pause_seconds = self._terms.timeout_seconds / _HOPS
            asyncio.get_running_loop().call_later(pause_seconds, self._route, again)
            return None
        try:
            slot, host, port = parse_redirection(str(error), asked=address.host)
        except ValueError:
            return StoreUnavailable(f"the cluster does not tell where: {error}")
        node = self._node(host, port)
        if error.code == "ASK":
            node.take(again, is_asking=True)
        else:
            self._slots[slot] = node
            if node not in self._masters:
                self._masters.append(node)
            self._stale.set()
            node.take(again)
        return None

    def _wait(self, command: Command, script: Script | None) -> Future[Any]:
        """Send a command once there is a map; where none can be had, it fails at once."""
        pack(command)  # which may raise, and must not do so later
        self._begin()
        if self._reason:
            return failed(self._reason)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((future, command, script, 0))
        return future

    def _begin(self) -> None:
        if self._looking is None and not self._reason:
            self._looking = asyncio.get_running_loop().create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            self._stale.clear()
            await self._look()
            await asyncio.sleep(_LEAST_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds()):
                    await self._stale.wait()

    def _pause_seconds(self) -> float:
        is_well = not self._is_lost and all(node.is_available for node in self._masters)
        return _WELL_SECONDS if is_well else _UNWELL_SECONDS

    async def _look(self) -> None:
        """Ask for the map, and adopt it."""
        try:
            ranges = await first_map(self._whom_to_ask(), self._terms.timeout_seconds)
        except StoreError as error:
            self._is_lost = True
            if self._slots is None:
                if not self._reason:
                    logger.warning("%s is not asked for now: %s", self._terms.name, error)
                self._give_up(f"no map of the cluster: {error}")
        else:
            self._is_lost = False
            self._adopt(ranges)
            await self._close_others()
        self._looked.set()
        self._tell()

    def _whom_to_ask(self) -> list[Address]:
        known = [node.address for node in self._masters if node.is_available]
        some = random.sample(known, min(_ASKED_AT_ONCE, len(known)))
        return [*some, *self._seeds] if self._is_lost or not some else some

    def _adopt(self, ranges: Sequence[Range]) -> None:
        slots: list[Node | None] = [None] * SLOTS
        for first, last, host, port in ranges:
            slots[first : last + 1] = [self._node(host, port)] * (last + 1 - first)
        if self._reason:
            logger.warning("%s answers again", self._terms.name)
        self._slots, self._reason = slots, ""
        self._masters = list(dict.fromkeys(node for node in slots if node))
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._route(call)

    def _give_up(self, reason: str) -> None:
        """Fail what waits for a map, and what will be sent until there is one."""
        self._reason = reason
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            fail(call, reason)

    async def _close_others(self) -> None:
        """Close what is no master and has nothing under way."""
        for place, node in tuple(self._nodes.items()):
            if node not in self._masters and node.is_idle:
                del self._nodes[place]
                await node.aclose()

    def _node(self, host: str, port: int) -> Node:
        node = self._nodes.get((host, port))
        if node is None:
            address = replace(self._seeds[0], host=host, port=port)
            node = self._nodes[host, port] = Node(
                address,
                replace(self._terms, name=f"{self._terms.name}'s node {host}:{port}"),
                on_change=lambda _: self._tell(),
                on_failure=self._stale.set,
                on_redirect=partial(self._redirect, address),
                probe=_PROBE,
            )
        return node

    def _tell(self) -> None:
        is_available = self.is_available
        if is_available != self._was_available:
            self._was_available = is_available
            self._on_change(is_available)


async def first_map(servers: Sequence[Address], timeout_seconds: float) -> list[Range]:
    """Return where the slots are, as the first server that answers says. Raises StoreError."""
    asking = [asyncio.create_task(_map_of(one, timeout_seconds)) for one in servers]
    error: StoreError = StoreUnavailable("nobody was asked")
    try:
        for answer in asyncio.as_completed(asking):
            try:
                return await answer
            except StoreError as exc:
                error = exc
        raise error
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def _map_of(server: Address, timeout_seconds: float) -> list[Range]:
    reply = await ask(server, _MAP, 2 * timeout_seconds, timeout_seconds)
    try:
        ranges = list(parse_ranges(reply, asked=server.host))
    except (TypeError, ValueError):
        raise StoreUnavailable("CLUSTER SLOTS has no slots") from None
    if not ranges:
        raise StoreUnavailable(f"{server.host}:{server.port} knows of no slots")
    return ranges
