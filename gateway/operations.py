"""What OpenTelemetry calls the tasks, in metrics and in traces alike: `gen_ai.operation.name`.

Source: https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_OPERATIONS: Mapping[str, str] = MappingProxyType(
    {"completion": "text_completion", "embedding": "embeddings"}
)


def operation_of(task: str) -> str:
    """Return the name of a task's operation; images and sound have none there but their own."""
    return _OPERATIONS.get(task, str(task))
