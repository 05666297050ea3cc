"""Which model a path of the native API means, and what of it.

Ids may hold a slash or none, so that an ending is one only behind something else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = "/hf-inference"  # the router's name for the same service
_MODELS = "/models/"
_PIPELINE_BEFORE = re.compile(r"/pipeline/(?P<pipeline>[^/]+)/(?P<model>.+)")
_PIPELINE_BEHIND = re.compile(r"(?P<model>.+)/pipeline/(?P<pipeline>[^/]+)")
_ENDINGS = (
    "v1/chat/completions",
    "v1/completions",
    "generate_stream",
    "generate",
    "tokenize",
    "info",
    "health",
)
_VIEWS = ("info", "health")

FACE = re.compile(rb"/+(models|pipeline|hf-inference|status|framework|api)(/|$)")
"""Paths whose errors are told in the native API's form."""


@dataclass(frozen=True, slots=True)
class Address:
    """`ending`: what of the model, empty for itself. `pipeline`: the task that the path names."""

    model: str
    ending: str = ""
    pipeline: str | None = None

    @property
    def template(self) -> str:
        """Its path, with names for what clients choose: there are only so many of these."""
        if self.pipeline is not None:
            return "/pipeline/{task}/{model}"
        return f"/models/{{model}}/{self.ending}".rstrip("/")

    @property
    def is_view(self) -> bool:
        """Whether it can be looked at."""
        return self.ending in ("", *_VIEWS) and self.pipeline is None

    @property
    def takes_bodies(self) -> bool:
        """Whether it can be asked."""
        return self.ending not in _VIEWS

    @property
    def allowed(self) -> str:
        """The methods that it takes, as `Allow` has them."""
        methods = {"GET": self.is_view, "POST": self.takes_bodies, "OPTIONS": True}
        return ", ".join(name for name, is_allowed in methods.items() if is_allowed)


def parse_address(path: str) -> Address | None:
    """Return what a path means, None if that is no model."""
    path = path.removeprefix(_PREFIX).rstrip("/")
    if found := _PIPELINE_BEFORE.fullmatch(path):
        return Address(found["model"], pipeline=found["pipeline"])
    name = path.removeprefix(_MODELS)
    if name == path or not name:
        return None
    if found := _PIPELINE_BEHIND.fullmatch(name):
        return Address(found["model"], pipeline=found["pipeline"])
    for ending in _ENDINGS:
        if name.endswith(f"/{ending}"):
            return Address(name.removesuffix(f"/{ending}"), ending)
    return Address(name)
