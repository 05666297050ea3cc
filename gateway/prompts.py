"""OpenAI bodies to dialect requests: defaults filled in, and prompts rendered where needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from adapters.base import Json, Request, Task
from gateway.catalog import Model, Target
from gateway.errors import BadRequest, GatewayError
from gateway.template_shelf import TemplateShelf
from gateway.templates import Template, TemplateRefused, TemplateUnavailable

_RETRY_SECONDS = 60

Prompt = str | list[str] | list[int] | list[list[int]]


class Prompts:
    """Translates with the templates of `shelf`."""

    def __init__(self, shelf: TemplateShelf) -> None:
        self._shelf = shelf

    async def translate(self, task: Task, body: Json, model: Model, target: Target) -> Request:
        """Return `body` as `target`'s dialect takes it. Raises GatewayError."""
        body = model.defaults | body
        prompts: tuple[str, ...] = ()
        style = None
        if target.upstream.dialect.renders:
            try:
                if task is Task.CHAT:
                    template = await self._template(model)
                    prompts = (await _render(template, body),)
                    style = template.tool_style
                else:
                    prompts = await self._texts(body.get("prompt") or "", model)
            except TemplateRefused as exc:
                raise BadRequest(
                    exc.message, code=exc.code or "invalid_value", param=exc.param
                ) from None
            except TemplateUnavailable as exc:
                raise _unavailable(exc) from None
        return Request(
            task=task,
            model=target.model,
            body=body,
            stream=body.get("stream") is True,
            prompts=prompts,
            tool_style=style,
            max_tokens_default=model.max_tokens_default,
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
        return tuple(template.decode(row) for row in rows)


async def _render(template: Template, body: Json) -> str:
    tools = body.get("tools") if body.get("tool_choice") != "none" else None
    if tools and not template.takes_tools:
        raise TemplateRefused(
            "The model's chat template does not show 'tools' to the model.",
            param="tools",
            code="unsupported_parameter",
        )
    return await template.render_async(
        body["messages"], tools=tools, options=body.get("chat_template_kwargs")
    )


def _unavailable(error: TemplateUnavailable) -> GatewayError:
    seconds = math.ceil(error.retry_after_seconds or _RETRY_SECONDS)
    return GatewayError(
        error.message,
        status=503,
        code="template_unavailable",
        headers={"retry-after": str(seconds)},
    )
