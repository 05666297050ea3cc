"""OpenAI bodies to dialect requests: defaults filled in, and prompts rendered where needed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from adapters.base import Json, Request, Task
from adapters.parameters import offered_tools
from gateway.errors import BadRequest, GatewayError
from gateway.template_shelf import TemplateShelf
from gateway.templates import Template, TemplateRefused, TemplateUnavailable
from gateway.upstreams.target import Model, Target

_RETRY_SECONDS = 60
_MANY_TOKENS = 10_000  # to be decoded; more than that leaves the event loop

Prompt = str | list[str] | list[int] | list[list[int]]


class Prompts:
    """Translates with the templates of `shelf`."""

    def __init__(self, shelf: TemplateShelf[Template]) -> None:
        self._shelf = shelf

    async def translate(self, task: Task, body: Json, model: Model, target: Target) -> Request:
        """Return `body` as `target`'s dialect takes it. Raises GatewayError."""
        body = model.defaults | body
        prompts: tuple[str, ...] = ()
        style = mark = None
        if target.upstream.dialect[task].renders:
            try:
                if task is Task.CHAT:
                    template = await self._template(model)
                    mark = _image_mark(model, template)
                    prompts = (await _render(template, body, mark),)
                    style = template.tool_style
                else:
                    prompts = await self._texts(body.get("prompt") or "", model)
            except TemplateRefused as exc:
                raise BadRequest(
                    exc.message, code=exc.code or "invalid_value", param=exc.param
                ) from None
            except TemplateUnavailable as exc:
                raise template_unavailable(exc) from None
        return Request(
            task=task,
            model=target.model,
            body=body,
            stream=body.get("stream") is True,
            prompts=prompts,
            tool_style=style,
            max_tokens_default=model.max_tokens_default,
            image_mark=mark or "",
        )

    def counter(self, model: Model) -> Callable[[str], int] | None:
        """Return what counts a text's tokens as `model` does, None if nothing here can."""
        template = self._shelf.loaded(model.tokenizer) if model.tokenizer else None
        return template.count if template else None

    async def _template(self, model: Model) -> Template:
        if model.tokenizer is None:
            raise BadRequest(
                f"The model {model.id!r} has no chat template: its upstream takes prompts, so the "
                "operator must name its 'tokenizer'.",
                code="template_missing",
                param="model",
            )
        return await self._shelf.get(model.tokenizer)

    async def _texts(self, prompt: Prompt, model: Model) -> tuple[str, ...]:
        """Return the prompts of a completion; those given as tokens are decoded."""
        if isinstance(prompt, str):
            return (prompt,)
        rows: Any = [prompt] if isinstance(prompt[0], int) else prompt
        if all(isinstance(row, str) for row in rows):
            return tuple(rows)
        template = await self._template(model)
        if sum(map(len, rows)) > _MANY_TOKENS:
            return await asyncio.to_thread(lambda: tuple(map(template.decode, rows)))
        return tuple(map(template.decode, rows))


def _image_mark(model: Model, template: Template) -> str | None:
    """Return what stands for an image in a prompt, None for a model that takes text only."""
    if not model.vision:
        return None
    mark = model.image_placeholder or template.image_mark
    if mark is None:
        raise BadRequest(
            f"The chat template of the model {model.id!r} shows no images: the operator must name "
            "the model's 'image_placeholder'.",
            code="template_missing",
            param="model",
        )
    return mark


async def _render(template: Template, body: Json, image_mark: str | None) -> str:
    tools = offered_tools(body)
    if tools and not template.takes_tools:
        raise TemplateRefused(
            "The model's chat template does not show 'tools' to the model.",
            param="tools",
            code="unsupported_parameter",
        )
    return await template.render_async(
        body["messages"],
        tools=tools or None,
        options=body.get("chat_template_kwargs"),
        image_mark=image_mark,
    )


def template_unavailable(error: TemplateUnavailable) -> GatewayError:
    """Return what a request is told whose template or tokenizer is not at hand."""
    seconds = math.ceil(error.retry_after_seconds or _RETRY_SECONDS)
    return GatewayError(
        error.message,
        status=503,
        code="template_unavailable",
        headers={"retry-after": str(seconds)},
    )
