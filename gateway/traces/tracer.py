"""Who gives requests their place in a trace: the client's, or one of a span of the gateway's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from gateway.access import Access
from gateway.config import ConfigError, Traces
from gateway.traces.context import parse

if TYPE_CHECKING:
    from litestar.types import HTTPScope

    from gateway.traces.spans import Spans

_PATH = "/v1/traces"
_PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Bystander:
    """Passes on the client's trace, and adds nothing to it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def began(self, access: Access, scope: HTTPScope) -> None:
        """Let upstreams go on with the request's trace, if it has one."""
        if context := parse(scope["headers"]):
            access.trace = context.headers()

    def ended(self, access: Access, scope: HTTPScope) -> None:
        """Do nothing."""


def tracer(settings: Traces, *, env: Mapping[str, str] = os.environ) -> Bystander | Spans:
    """Return who passes traces on, and sends spans if there is an endpoint to send them to.

    It is an observer of requests and a context, at whose end the last spans are sent. Nothing of
    OpenTelemetry is imported without an endpoint. Raises ConfigError as `check_extra` does.
    """
    if not _is_wanted(settings, env):
        return Bystander()
    check_extra(settings, env=env)
    from gateway.traces.spans import Spans, exporter

    return Spans(exporter(_url(settings.endpoint)), share=settings.share)


def check_extra(settings: Traces, *, env: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError if spans are to be sent, and what sends them is not installed."""
    if _is_wanted(settings, env) and not all(map(_is_installed, _PACKAGES)):
        raise ConfigError(
            "traces.endpoint: spans are sent by OpenTelemetry, which is not installed. Run "
            "`pip install 'dragoman[traces]'`, or leave the endpoint out and unset "
            f"{' and '.join(_VARIABLES)}"
        )


def _is_wanted(settings: Traces, env: Mapping[str, str]) -> bool:
    return settings.endpoint is not None or any(env.get(name) for name in _VARIABLES)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is what it is a part of
        return False


def _url(endpoint: str | None) -> str | None:
    """Return where spans go; None: where the environment says."""
    if endpoint is None:
        return None
    endpoint = endpoint.rstrip("/")
    return endpoint if endpoint.endswith(_PATH) else endpoint + _PATH
