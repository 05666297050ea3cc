"""The dialects by the name that configuration gives them."""

from __future__ import annotations

from types import MappingProxyType

from adapters.base import Dialect
from adapters.hf import HfDialect
from adapters.openai import OpenAIDialect
from adapters.tgi import TgiDialect

DIALECTS: MappingProxyType[str, Dialect] = MappingProxyType(
    {"hf": HfDialect(), "tgi": TgiDialect(), "openai": OpenAIDialect()}
)
