"""How many tokens a request's prompts are: at most, before it is sent, and by a count after."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.base import Request, Task
from gateway.counting import Count, count_tokens, most_tokens_of
from gateway.texts import chat_texts, completion_texts, count_images, count_sent_tokens

_TOKENS_PER_IMAGE = 1000
_MARK = 1  # the token that opens a text
_TOKENS_PER_MESSAGE = 8  # what chat templates put around one, rather more than less


class PromptSize:
    """The prompts of `request`, counted once at most. `count` is its model's tokenizer's.

    A request that is not rendered here has one prompt: all that it says.
    """

    def __init__(self, request: Request, *, count: Count | None) -> None:
        self._rendered = request.prompts
        self._images = len(request.images)
        self._is_chat = request.task is Task.CHAT
        self._body = request.body
        self._count = count
        self._counted: Sequence[int] = ()

    async def at_most(self, *, exactly: bool) -> int:
        """Return an upper bound of all prompts together; `exactly`: by the tokenizer, if any."""
        if exactly and self._count:
            texts = sum(await self.tokens())
        else:
            texts = sum(most_tokens_of(text) + _MARK for text in self._texts())
            texts += self._sent_tokens()
        return texts + self._unseen()

    async def tokens(self) -> Sequence[int]:
        """Return the tokens of each prompt, guessed if there is no tokenizer."""
        if not self._counted:
            texts = self._rendered or ["\n".join(self._texts())]
            counts = await count_tokens(texts, self._count)
            self._counted = [tokens + self._sent_tokens() for tokens in counts]
        return self._counted

    def _texts(self) -> Sequence[str]:
        if self._rendered:
            return self._rendered
        return chat_texts(self._body) if self._is_chat else completion_texts(self._body)

    def _sent_tokens(self) -> int:
        return 0 if self._rendered or self._is_chat else count_sent_tokens(self._body)

    def _unseen(self) -> int:
        """Return what an upstream may count beside the texts: images, and its own template."""
        if self._rendered or not self._is_chat:
            return self._images * _TOKENS_PER_IMAGE
        messages = self._body["messages"]
        return len(messages) * _TOKENS_PER_MESSAGE + count_images(messages) * _TOKENS_PER_IMAGE
