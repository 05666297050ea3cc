"""Which values a generation may have, in text-generation-inference's order and words."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace

from adapters.local.grammar import Grammar, parse_grammar
from adapters.local.problems import Invalid
from adapters.local.vocabulary import Vocabulary
from adapters.local.wire import GenerateRequest, Parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server allows; `/info` tells them. Token counts are per request."""

    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5
    max_input_tokens: int = 4095
    max_total_tokens: int = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One generation with nothing left to decide. `seed` is None when it is greedy."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_n_tokens: int = 0
    grammar: Grammar | None = None

    def reseeded(self) -> Job:
        """Return the same job with a fresh seed, if it samples."""
        return self if self.seed is None else replace(self, seed=secrets.randbits(64))


_Rule = tuple[Callable[[Parameters, Limits], bool], Callable[[Parameters, Limits], str]]


def check_whole(parameters: Parameters, limits: Limits) -> None:
    """Check what only an answer in one piece allows. Raises Invalid."""
    best_of = parameters.best_of or 1
    if best_of > limits.max_best_of:
        raise Invalid(f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}")


def check_stream(parameters: Parameters) -> None:
    """Check what a stream does not allow. Raises Invalid."""
    if parameters.best_of not in (None, 1):
        raise Invalid("`best_of` != 1 is not supported when streaming tokens")
    if parameters.decoder_input_details:
        raise Invalid("`decoder_input_details` == true is not supported when streaming tokens")


def plan(request: GenerateRequest, *, limits: Limits, vocabulary: Vocabulary) -> Job:
    """Return the job that `request` asks for. Raises Invalid with the first rule it breaks."""
    given = request.parameters
    for is_broken, message in _RULES:
        if is_broken(given, limits):
            raise Invalid(message(given, limits))
    if not request.inputs:
        raise Invalid("`inputs` cannot be empty")
    _check_truncate(given, limits)
    prompt = vocabulary.encode(request.inputs)
    if given.truncate is not None:
        prompt = prompt[-given.truncate :]
    return Job(
        prompt=tuple(prompt),
        max_new_tokens=_max_new_tokens(len(prompt), given.max_new_tokens, limits),
        temperature=_or(given.temperature, 1.0),
        top_k=given.top_k or 0,
        top_p=_or(given.top_p, 1.0),
        typical_p=_or(given.typical_p, 1.0),
        repetition_penalty=_or(given.repetition_penalty, 1.0),
        frequency_penalty=_or(given.frequency_penalty, 0.0),
        seed=_seed(given),
        stop=given.stop,
        top_n_tokens=given.top_n_tokens or 0,
        grammar=parse_grammar(*given.grammar) if given.grammar else None,
    )


def _check_truncate(given: Parameters, limits: Limits) -> None:
    size, most = given.truncate, limits.max_input_tokens
    if size is not None and not 0 < size <= most:
        raise Invalid(f"`truncate` must be strictly positive and less than {most}. Given: {size}")


def _max_new_tokens(input_length: int, wanted: int | None, limits: Limits) -> int:
    """Return how many tokens may be generated: by default, all that the context still holds."""
    room = max(limits.max_total_tokens - input_length, 0)
    count = room if wanted is None else wanted
    if input_length + count > limits.max_total_tokens:
        raise Invalid(
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}. "
            f"Given: {input_length} `inputs` tokens and {count} `max_new_tokens`"
        )
    if input_length > limits.max_input_tokens:
        raise Invalid(
            f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_length}"
        )
    return count


def _seed(given: Parameters) -> int | None:
    """Return the seed of a generation that samples, None for a greedy one.

    Source: `NextTokenChooser` in TGI's server/text_generation_server/utils/tokens.py: any
    warper that changes the distribution makes it sample, whatever `do_sample` says.
    """
    samples = (
        given.do_sample
        or _or(given.temperature, 1.0) != 1.0
        or bool(given.top_k)
        or _or(given.top_p, 1.0) < 1.0
        or _or(given.typical_p, 1.0) < 1.0
    )
    if not samples:
        return None
    return secrets.randbits(64) if given.seed is None else given.seed


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _wants_sampling(given: Parameters) -> bool:
    warpers = (given.temperature, given.top_k, given.top_p, given.typical_p)
    return given.do_sample or any(value is not None for value in warpers)


def _fixed(message: str) -> Callable[[Parameters, Limits], str]:
    return lambda _given, _limits: message


# The order is TGI's (`Validation::validate` in router/src/validation.rs): the first broken rule is
# the one that is reported. The last two are for what this server cannot do at all.
_RULES: tuple[_Rule, ...] = (
    (
        lambda p, _: (p.best_of or 1) > 1 and not _wants_sampling(p),
        _fixed("you must use sampling when `best_of` is > 1"),
    ),
    (lambda p, _: _or(p.temperature, 1.0) <= 0, _fixed("`temperature` must be strictly positive")),
    (
        lambda p, _: _or(p.repetition_penalty, 1.0) <= 0,
        _fixed("`repetition_penalty` must be strictly positive"),
    ),
    (
        lambda p, _: not -2 <= _or(p.frequency_penalty, 0.0) <= 2,
        _fixed("`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ),
    (lambda p, _: not 0 < _or(p.top_p, 0.5) < 1, _fixed("`top_p` must be > 0.0 and < 1.0")),
    (lambda p, _: not 0 < _or(p.typical_p, 0.5) < 1, _fixed("`typical_p` must be > 0.0 and < 1.0")),
    (lambda p, _: _or(p.top_k, 1) <= 0, _fixed("`top_k` must be strictly positive")),
    (lambda p, _: p.max_new_tokens == 0, _fixed("`max_new_tokens` must be strictly positive")),
    (
        lambda p, limits: len(p.stop) > limits.max_stop_sequences,
        lambda p, limits: (
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. "
            f"Given: {len(p.stop)}"
        ),
    ),
    (
        lambda p, _: (p.best_of or 1) > 1 and p.seed is not None,
        _fixed("`seed` must not be set when `best_of` > 1"),
    ),
    (
        lambda p, limits: (p.top_n_tokens or 0) > limits.max_top_n_tokens,
        lambda p, limits: (
            f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {p.top_n_tokens}"
        ),
    ),
    (lambda p, _: p.watermark, _fixed("`watermark` is not supported")),
    (lambda p, _: p.adapter_id is not None, _fixed("`adapter_id` is not supported")),
)
