"""What an upstream can do wrong, by type.

DialectError                 the request cannot be said in this dialect: the client's 400
UpstreamError                anything that went wrong beyond the gateway
  Unreachable                no connection (refused, DNS, TLS, too slow): nothing was sent
  TimedOut                   the first byte or the whole took longer than allowed
  Interrupted                the answer broke off, or is not what its protocol allows
    HungUp                   … before it had begun
  ModelLoading               cold: ask again after `retry_after_seconds`
  Overloaded                 429 or 503: too much to do now
  OutOfCredits               402: the gateway's own account is empty
  Misconfigured              401, 403, 410 and the like: the operator must act
    Gated                    … by accepting the model's licence
  ModelMissing               404: the upstream has no such model
  Rejected                   400, 413, 422: the upstream refuses this request
    ContextTooLong           … because prompt and answer do not fit
  Failed                     any other status
"""

from __future__ import annotations


class DialectError(Exception):
    """The request asks for what this dialect cannot say and must not leave out in silence."""

    def __init__(
        self, message: str, *, param: str | None, code: str = "unsupported_parameter"
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class UpstreamError(Exception):
    """An upstream did not answer as asked. `message` holds no secret and may reach the client."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.param = param
        self.code = code


class Unreachable(UpstreamError):
    """No connection came about, so nothing was processed."""


class TimedOut(UpstreamError):
    """The upstream took longer than its configuration allows."""


class Interrupted(UpstreamError):
    """The answer ended before its protocol says it may, or cannot be read."""


class HungUp(Interrupted):
    """The connection ended before an answer began, as one does that was kept for too long."""


class ModelLoading(UpstreamError):
    """The model is cold. `retry_after_seconds` is the upstream's own estimate."""


class Overloaded(UpstreamError):
    """The upstream turned the request away for lack of room."""


class OutOfCredits(UpstreamError):
    """The account behind the gateway's credential has nothing left."""


class Misconfigured(UpstreamError):
    """The upstream refuses the gateway itself: credential, address or permission."""


class Gated(Misconfigured):
    """The model is behind a licence that the gateway's account has not accepted."""


class ModelMissing(UpstreamError):
    """The upstream does not know the model, or does not serve it for this task."""


class Rejected(UpstreamError):
    """The upstream found the request invalid."""


class ContextTooLong(Rejected):
    """Prompt and requested answer together exceed the model's context."""


class Failed(UpstreamError):
    """The upstream failed on a request that it had accepted."""


TRANSIENT = (Overloaded, Failed)
"""What may be gone when a server has started, or has less to do."""
