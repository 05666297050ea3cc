"""A model's chat template and tokenizer: conversations to prompts, texts to token counts.

`transformers` renders, as it is the reference. It costs 1.3 s and 66 MiB to import, so it is
imported when the first template is loaded, in the thread that loads it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from gateway.control_tokens import Defuser, control_tokens, printable
from gateway.conversations import (
    Message,
    TemplateRefused,
    count_images,
    in_parts,
    is_large,
    merged_messages,
    plain_messages,
    with_marks,
    with_texts,
)
from gateway.template_probes import (
    image_mark_of,
    shows_tools,
    tool_style_of,
    wants_of,
    wants_parts,
)

__all__ = ["Template", "TemplateRefused", "TemplateUnavailable"]

# What a template's own code raises on data that it was not written for.
_TEMPLATE_FAULTS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_SENTENCE_MAX_CHARS = 300
_RESERVED_OPTIONS = frozenset({"messages", "conversation", "conversations", "tools", "documents"})


class TemplateUnavailable(Exception):
    """A tokenizer or its chat template is not at hand. `message` says what to do about it."""

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class Template:
    """One model's chat template with its tokenizer. Safe to use from several threads.

    `bos_added`: the tokenizer puts its BOS before every text by itself. `takes_tools`: the
    template shows tools to the model. `tool_style`: how the model then writes calls, if known.
    `image_mark`: what the template writes where an image stands, if it knows images.
    """

    def __init__(self, tokenizer: Any, *, source: str, max_prompt_bytes: int = 4_000_000) -> None:
        """Take a tokenizer of `transformers`. Raises TemplateUnavailable if it has no template."""
        if not tokenizer.chat_template:
            raise TemplateUnavailable(
                f"The tokenizer {source!r} has no chat template: name one that has, as "
                "instruction-tuned models do."
            )
        self.source = source
        self.tokenizer = tokenizer
        self._max_prompt_bytes = max_prompt_bytes
        text = _template_text(tokenizer.chat_template)
        added = tokenizer.added_tokens_decoder.values()
        self.control_tokens = control_tokens([(t.content, t.special) for t in added], text)
        self._reserved = _RESERVED_OPTIONS | _parameters(tokenizer)
        bos = tokenizer.bos_token
        self._bos: str = bos or ""
        self.bos_added = bool(bos) and tokenizer.encode("x")[:1] == [tokenizer.bos_token_id]
        self._in_parts = False  # while it is tried
        self._in_parts = wants_parts(self._probe)
        self.image_mark = image_mark_of(self._probe)
        self._defuser = Defuser(self.control_tokens | {self.image_mark or ""} - {""})
        self.takes_tools = shows_tools(self._probe)
        self._wants = wants_of(self._probe, text)
        self.tool_style = tool_style_of(text)

    @classmethod
    def load(cls, source: str, *, max_prompt_bytes: int = 4_000_000) -> Template:
        """Load from a folder or from the Hub by id. Blocks: seconds, or as long as a download.

        Raises TemplateUnavailable.
        """
        local = Path(source).is_dir()
        # Read at the import, which else tells the operator that PyTorch is missing.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
        except (OSError, ImportError, *_TEMPLATE_FAULTS) as error:
            reason = str(error).strip().partition("\n")[0]
            raise TemplateUnavailable(
                f"The tokenizer {source!r} cannot be loaded: {reason} Name a folder that holds "
                "tokenizer.json and a chat template, or the Hub id of a model that this machine "
                "may download."
            ) from error
        return cls(tokenizer, source=source, max_prompt_bytes=max_prompt_bytes)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        upstream_adds_bos: bool = True,
        image_mark: str | None = None,
    ) -> str:
        """Return the prompt of a conversation in OpenAI's form.

        An assistant's message at the end is continued. `options` are further variables of the
        template, scalars only. `upstream_adds_bos`: the upstream tokenises with special tokens,
        so a BOS that its tokenizer will add is left out here. With an `image_mark` the messages
        may hold images, for each of which the prompt holds the mark once, in order. A template
        that refuses the conversation is asked once more with its roles merged. Raises
        TemplateRefused.
        """
        self._check_options(options or {})
        with _refusing():
            plain = plain_messages(messages, wants=self._wants, images=image_mark is not None)
            chat, shown, extra = self._defused(
                [plain, list(tools) if tools else None, dict(options or {})], image_mark
            )
        prompt = self._first_accepted(chat, shown, extra, image_mark or "")
        return self._sendable(prompt, upstream_adds_bos=upstream_adds_bos)

    async def render_async(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        upstream_adds_bos: bool = True,
        image_mark: str | None = None,
    ) -> str:
        """Do what `render` does, in a thread when it would hold up the event loop."""
        render = partial(
            self.render,
            messages,
            tools=tools,
            options=options,
            upstream_adds_bos=upstream_adds_bos,
            image_mark=image_mark,
        )
        return await asyncio.to_thread(render) if is_large(messages) else render()

    def count(self, text: str) -> int:
        """Return how many tokens an upstream makes of a prompt, its own BOS included."""
        return len(self.tokenizer.encode(printable(text), verbose=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included. Raises TemplateRefused."""
        size = len(self.tokenizer)
        if any(not 0 <= token_id < size for token_id in ids):
            raise TemplateRefused(
                f"'prompt' holds a token id outside of 0 to {size - 1}.", param="prompt"
            )
        ids = list(ids)
        if self.bos_added and ids[:1] == [self.tokenizer.bos_token_id]:
            ids = ids[1:]  # the upstream adds it
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for key, value in options.items():
            param = f"chat_template_kwargs.{key}"
            if key in self._reserved:
                raise TemplateRefused(f"{param!r} is not for clients to set.", param=param)
            if not isinstance(value, str | int | float | bool | None):
                raise TemplateRefused(
                    f"{param!r} must be a string, a number, a boolean or null.", param=param
                )

    def _defused(self, value: Any, image_mark: str | None) -> Any:
        """Return JSON data in which nothing is read as a control token or as an image's mark."""
        value = self._defuser.value(value)
        if image_mark in (None, self.image_mark):
            return value
        return Defuser([image_mark]).value(value)

    def _first_accepted(
        self, chat: list[Message], tools: list[Any] | None, options: Mapping[str, Any], mark: str
    ) -> str:
        """Return the prompt of the first form that the template takes and shows in whole.

        Raises TemplateRefused: what the template said at first.
        """
        images = count_images(chat)
        refusals = []
        for form in self._forms(chat, mark):
            try:
                prompt = self._applied(form, tools, options)
            except TemplateRefused as refused:
                refusals.append(refused)
                continue
            if not images or prompt.count(mark) == images:
                return prompt
        if refusals:
            raise refusals[0]
        raise TemplateRefused(
            f"The model's chat template does not show all {images} images of 'messages'.",
            param="messages",
        )

    def _forms(self, chat: list[Message], mark: str) -> Iterator[list[Message]]:
        """Yield the forms of a conversation, the truest first: only images are lists in it."""
        if count_images(chat):
            yield with_texts(chat, self._defuser.apart)
            chat = with_marks(chat, mark)
        yield chat
        yield merged_messages(chat)

    def _applied(
        self, chat: list[Message], tools: list[Any] | None, options: Mapping[str, Any]
    ) -> str:
        """Apply the template. Raises TemplateRefused with the template's own sentence."""
        if self._in_parts:
            chat = in_parts(chat)
        last = chat[-1] if chat else {}
        prefilled = last.get("role") == "assistant" and not last.get("tool_calls")
        with _refusing():
            prompt: str = self.tokenizer.apply_chat_template(
                chat,
                tools=tools,
                tokenize=False,
                add_generation_prompt=not prefilled,
                continue_final_message=prefilled,
                **options,
            )
        return prompt

    def _probe(self, chat: list[Message], tools: list[Any] | None) -> str | None:
        """Return a probe's prompt, None if refused. Raises TemplateUnavailable: syntax error."""
        try:
            return self._applied(chat, tools, {})
        except TemplateRefused as refused:
            if isinstance(refused.__cause__, jinja2.TemplateSyntaxError):
                raise TemplateUnavailable(
                    f"The chat template of {self.source!r} cannot be read: {refused.__cause__}"
                ) from refused
            return None

    def _sendable(self, prompt: str, *, upstream_adds_bos: bool) -> str:
        if upstream_adds_bos and self.bos_added:
            prompt = prompt.removeprefix(self._bos)
        if len(prompt.encode("utf-8", "surrogatepass")) > self._max_prompt_bytes:
            raise TemplateRefused(
                f"The prompt of 'messages' is longer than {self._max_prompt_bytes} bytes.",
                param="messages",
                code="context_length_exceeded",
            )
        return prompt


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what a template raises into TemplateRefused."""
    try:
        yield
    except jinja2.TemplateError as error:
        sentence = (error.message or type(error).__name__)[:_SENTENCE_MAX_CHARS]
        raise TemplateRefused(
            f"The model's chat template refuses 'messages': {sentence}", param="messages"
        ) from error
    except _TEMPLATE_FAULTS as error:  # their texts may quote the prompt
        raise TemplateRefused(
            "The model's chat template cannot express 'messages' of this form "
            f"({type(error).__name__}).",
            param="messages",
        ) from error


def _template_text(template: str | Mapping[str, str]) -> str:
    """Return the source of a template, of all of them where there are several by name."""
    return template if isinstance(template, str) else "\n".join(template.values())


def _parameters(tokenizer: Any) -> frozenset[str]:
    """Return the names that a client's option would set beside the template's own variables."""
    signature = inspect.signature(tokenizer.apply_chat_template)
    return frozenset(signature.parameters) | frozenset(tokenizer.special_tokens_map)
