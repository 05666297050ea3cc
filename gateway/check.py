"""`dragoman check`: whether the gateway could serve what its configuration promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from adapters.base import Task
from adapters.local import weights
from adapters.transport import Transport
from gateway.config import LOCAL_UPSTREAM, Store
from gateway.config_file import load
from gateway.local_models import with_local_upstream
from gateway.store_check import examine
from gateway.templates import Template, TemplateUnavailable
from gateway.tokenizer import Tokenizer
from gateway.traces.tracer import check_extra
from gateway.upstream_check import examine_hub, examine_target
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.target import Model, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    subject: str
    ok: bool
    detail: str


async def check(config: Path | None, *, as_json: bool) -> int:
    """Print what was found, a line each, and return 1 if anything is wrong, else 0.

    Raises ConfigError: a configuration that cannot be read has no findings.
    """
    settings = load(config)
    check_extra(settings.traces)
    embedded = settings.is_embedded
    async with Transport() as transport:
        catalog = Catalog(with_local_upstream(settings, "http://127.0.0.1:1"), transport)
        findings = []
        async for finding in _findings(catalog, settings.store, embedded=embedded):
            findings.append(finding)
            if not as_json:
                mark = "ok     " if finding.ok else "PROBLEM"
                click.echo(f"{mark}  {finding.subject}: {finding.detail}")
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(findings)))
    return 0 if all(finding.ok for finding in findings) else 1


async def _findings(catalog: Catalog, stores: Store, *, embedded: bool) -> AsyncIterator[Finding]:
    yield Finding(subject="configuration", ok=True, detail=f"{len(catalog.models)} models")
    for model in catalog.models:
        yield await _template(model)
    for subject, ok, detail in await examine(stores):
        yield Finding(subject=subject, ok=ok, detail=detail)
    if embedded:
        yield await asyncio.to_thread(_local_weights)
    for target, task in _targets(catalog):
        if not (embedded and target.upstream.name == LOCAL_UPSTREAM):
            yield await _probe(target, task)
    if catalog.hub:
        async for subject, ok, detail in examine_hub(catalog.hub):
            yield Finding(subject=subject, ok=ok, detail=detail)


def _targets(catalog: Catalog) -> list[tuple[Target, str]]:
    """Return the targets, each upstream and model once, and what they are for."""
    targets = [(target, model.task) for model in catalog.models for target in model.targets]
    return list({(one.upstream.name, one.model): (one, task) for one, task in targets}.values())


async def _template(model: Model) -> Finding:
    subject = f"template of {model.id}"
    if model.task != Task.CHAT:
        return await _tokenizer(model)
    if model.tokenizer is None:
        renders = [target.upstream.name for target in model.targets if target.upstream.renders]
        if not renders:
            return Finding(subject=subject, ok=True, detail="not needed")
        detail = f"'tokenizer' is not set, but {', '.join(renders)} takes prompts"
        return Finding(subject=subject, ok=False, detail=detail)
    try:
        template = await asyncio.to_thread(Template.load, model.tokenizer)
    except TemplateUnavailable as exc:
        return Finding(subject=subject, ok=False, detail=exc.message)
    tools = "takes tools" if template.takes_tools else "takes no tools"
    return Finding(subject=subject, ok=True, detail=f"{model.tokenizer}, {tools}")


async def _tokenizer(model: Model) -> Finding:
    subject = f"tokenizer of {model.id}"
    if model.tokenizer is None:
        return Finding(subject=subject, ok=True, detail="not needed")
    try:
        await asyncio.to_thread(Tokenizer.load, model.tokenizer)
    except TemplateUnavailable as exc:
        return Finding(subject=subject, ok=False, detail=exc.message)
    return Finding(subject=subject, ok=True, detail=model.tokenizer)


def _local_weights() -> Finding:
    problems = []
    for wanted in weights.CATALOG:
        try:
            weights.find(wanted.name)
        except weights.WeightsError as exc:
            problems.append(str(exc))
    detail = "; ".join(problems) or f"weights in {weights.models_directory()}"
    return Finding(subject="local models", ok=not problems, detail=detail)


async def _probe(target: Target, task: str) -> Finding:
    upstream = target.upstream
    subject = f"upstream {upstream.name}" + (f" ({target.model})" if upstream.renders else "")
    ok, detail = await examine_target(target, task)
    return Finding(subject=subject, ok=ok, detail=upstream.discreet(detail))
