"""What the native API answers when it does not answer.

    Problem                  any of them: a status and a body
      Unreadable             400, 415, 422: the body is not the JSON object that was expected
      Malformed              400: a pipeline task's body or parameter is not what it must be
      WrongTask              400: the model is not one for this task or path
      TooLarge               413: the body is longer than the model takes
      Invalid                422: a value is out of its range
      Overloaded             429: too many requests under way
      GenerationFailed       424: the model failed on an accepted request
      IncompleteGeneration   500: the model stopped without an end
      UnknownModel           404
      Loading                503: the model is not ready yet
      LoadFailed             500: the model will not get ready; the operator must act
        NotInstalled         501: … because a package or a file of weights is missing
      Unhealthy              503: what `/health` says until the model is ready

Wording and statuses are text-generation-inference's and, for `UnknownModel` and `Loading`, those
of the hosted inference service. The answers of a `Malformed`, a `WrongTask` and a `TooLarge` have
no `error_type`, as those of its pipelines.
"""

from __future__ import annotations

import msgspec


class Problem(Exception):
    """An answer that is an error: JSON `{"error", "error_type"}` unless a subclass says else."""

    status = 500
    error_type: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def media_type(self) -> str:
        return "application/json"

    def render(self) -> bytes:
        """Return the body."""
        body: dict[str, object] = {"error": self.message}
        if self.error_type is not None:
            body["error_type"] = self.error_type
        return msgspec.json.encode(body)


class Unreadable(Problem):
    """The body could not be read as a request; the answer is plain text."""

    def __init__(self, message: str, *, status: int = 422) -> None:
        super().__init__(message)
        self.status = status

    @property
    def media_type(self) -> str:
        return "text/plain; charset=utf-8"

    def render(self) -> bytes:
        return self.message.encode()


class Malformed(Problem):
    """The body, or one of its parameters, is of the wrong kind or not known."""

    status = 400


class WrongTask(Problem):
    """The model is here, but does something else."""

    status = 400

    def __init__(self, model_id: str, *, task: str, asked: str) -> None:
        super().__init__(f"Model {model_id} is for {task}, not for {asked}")


class TooLarge(Problem):
    """The body is longer than this model's requests may be."""

    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body must not be longer than {limit_bytes} bytes")


class Invalid(Problem):
    """The request reads well, but asks for something out of range or unsupported."""

    status = 422
    error_type = "validation"

    def __init__(self, message: str) -> None:
        super().__init__(f"Input validation error: {message}")


class Overloaded(Problem):
    """As many requests as allowed are running or waiting."""

    status = 429
    error_type = "overloaded"

    def __init__(self) -> None:
        super().__init__("Model is overloaded")


class GenerationFailed(Problem):
    """The engine refused or dropped a request that had passed validation."""

    status = 424
    error_type = "generation"

    def __init__(self, message: str) -> None:
        super().__init__(f"Request failed during generation: {message}")


class IncompleteGeneration(Problem):
    """The engine ended without a finish reason."""

    status = 500
    error_type = "incomplete_generation"

    def __init__(self) -> None:
        super().__init__("Incomplete generation")


class UnknownModel(Problem):
    """No model of that id is served here."""

    status = 404

    def __init__(self, model_id: str) -> None:
        super().__init__(f"Model {model_id} does not exist")


class Loading(Problem):
    """The model is on its way; `estimated_seconds` is what is thought to be left."""

    status = 503

    def __init__(self, model_id: str, *, estimated_seconds: float) -> None:
        super().__init__(f"Model {model_id} is currently loading")
        self.estimated_seconds = estimated_seconds

    def render(self) -> bytes:
        body = {"error": self.message, "estimated_time": self.estimated_seconds}
        return msgspec.json.encode(body)


class LoadFailed(Problem):
    """The model could not be loaded. Not a 503: clients would ask again for ever."""

    status = 500


class NotInstalled(LoadFailed):
    """The model is served here in principle; its message names the command that is missing."""

    status = 501


class Unhealthy(Problem):
    """The model cannot answer at the moment."""

    status = 503
    error_type = "healthcheck"

    def __init__(self) -> None:
        super().__init__("unhealthy")
