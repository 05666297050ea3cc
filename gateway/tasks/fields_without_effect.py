"""What clients say of a request that no answer depends on: records, accounts, caches, speed.

Source: the types of the official Python SDK, 3.54, where each is described so; `prediction` makes
an answer come sooner, of the same tokens.
"""

from __future__ import annotations

WITHOUT_EFFECT = frozenset(
    "user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_options "
    "prompt_cache_retention prediction".split()
)
"""The names of those fields, whatever the task: two requests that differ in them are the same."""
