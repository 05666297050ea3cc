"""The table of metrics, and the codes that are labels."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gateway
from gateway import errors
from gateway.metrics.codes import CODES, OTHER, bounded
from gateway.metrics.registry import Series, exact
from gateway.metrics.series import BY_NAME, METRICS

SOURCES = [
    *Path(gateway.__file__).parent.rglob("*.py"),
    *(Path(gateway.__file__).parents[1] / "adapters").rglob("*.py"),
]
NEVER_IN_ANSWERS_OF_OURS = {"invalid_http", "code"}  # told below the edge; a key of JSON


def codes_in(source: Path) -> Iterator[str]:
    """Yield what stands as `code=` in calls, and as the default of such a parameter."""
    for node in ast.walk(ast.parse(source.read_text())):
        match node:
            case ast.keyword(arg="code", value=value):
                found = [one for one in ast.walk(value) if isinstance(one, ast.Constant)]
            case ast.FunctionDef(args=ast.arguments(kwonlyargs=names, kw_defaults=defaults)):
                pairs = zip(names, defaults, strict=True)
                found = [
                    default
                    for name, default in pairs
                    if name.arg == "code" and isinstance(default, ast.Constant)
                ]
            case _:
                continue
        yield from (one.value for one in found if isinstance(one.value, str))


def test_all_codes_in_the_code_are_labels() -> None:
    written = {code for source in SOURCES for code in codes_in(source)}
    tables = {code for _, _, code in errors._ANSWERS.values()}
    tables |= {code for code, _ in errors._SENTENCES.values()}
    assert len(written) > 30
    assert written | tables <= CODES | NEVER_IN_ANSWERS_OF_OURS


@pytest.mark.parametrize("code", ["made_up", None, ""])
def test_what_is_no_code_of_ours_is_other(code: str | None) -> None:
    assert bounded(code) == OTHER


def test_names_and_labels_are_of_the_form_that_is_expected() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith(("gen_ai_", "dragoman_"))
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert bool(metric.buckets) == (metric.kind == "histogram"), metric.name
        assert list(metric.buckets) == sorted(metric.buckets)
        assert metric.help.endswith("."), metric.name


@pytest.mark.parametrize(
    ("amount", "bucket"), [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.005"), (11.0, "+Inf")]
)
def test_a_quick_observation_goes_where_the_slow_one_does(amount: float, bucket: str) -> None:
    name, labels = "gen_ai_server_time_to_first_token_seconds", ("a", "b", "c")
    quick, slow = Series(), Series()
    quick.observer(name, *labels)(amount)
    slow.histogram(name, *labels).observe(amount)
    one, other = (
        {(s.name, s.labels.get("le")): s.value for m in made.registry.collect() for s in m.samples}
        for made in (quick, slow)
    )
    assert one.pop((f"{name}_sum", None)) == exact(other.pop((f"{name}_sum", None)))
    assert one == other
    assert one[f"{name}_bucket", bucket] == 1


def test_a_metric_that_is_not_in_the_table_cannot_be_counted() -> None:
    with pytest.raises(KeyError):
        Series().counter("dragoman_made_up_total")
