"""An upstream that plays what a test tells it, and the tokenizer of the models that render."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.prompts import Prompts
from gateway.tasks.text import TextTask
from gateway.template_shelf import TemplateShelf
from gateway.templates import Template
from gateway.vision import Vision
from tests.gateway.running import TOKENIZER
from tests.gateway.usage.text_upstream import Text, routes
from tests.scripted_upstream import Upstream, Visit


async def unwanted(visit: Visit) -> None:
    raise AssertionError(f"nothing may reach the upstream, but {visit.raw!r} did")


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream(unwanted) as upstream:
        yield upstream


@pytest.fixture(scope="package")
async def shelf(anyio_backend: str) -> AsyncIterator[TemplateShelf[Template]]:
    async with TemplateShelf([str(TOKENIZER)], load=Template.load) as shelf:
        await shelf.get(str(TOKENIZER))
        yield shelf


@pytest.fixture
def text(shelf: TemplateShelf[Template], upstream: Upstream) -> Text:
    return Text(TextTask(Prompts(shelf), Vision()), routes(upstream.url))
