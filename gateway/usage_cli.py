"""`dragoman usage`: the ledger on the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gateway.command_line import Desk, at_desk, common, print_json, print_table
from gateway.command_options import MOMENT, NAME, Parsed

if TYPE_CHECKING:
    from gateway.usage_report import Report

_FORMATS = ("table", "csv", "json")
_IN_TABLE = {"requests", "input_tokens", "output_tokens", "images", "characters", "audio_ms", "usd"}
_OF_RECORDS = {"at", "key", "team", "model", "task", "status"}


def _by(text: str) -> tuple[str, ...]:
    from gateway.usage_report import parse_by

    return parse_by(text)


@click.command()
@click.option("--key", metavar="ID", type=NAME, help="Use of this key.")
@click.option("--team", type=NAME, help="Use of this team.")
@click.option("--model", type=NAME, help="Use of the model with this id or alias.")
@click.option("--since", type=MOMENT, help="From then on: ISO date or time, or 24h, 7d ago.")
@click.option("--until", type=MOMENT, help="Up to then, which is not part of it.")
@click.option(
    "--by",
    type=Parsed("COLUMNS", _by),
    help="Sums by some of key,model,day,team,upstream,task,status,month.  [default: every record]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="How to print it; csv and json have all columns.  [default: table]",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--reconcile", is_flag=True, help="Prove that the ledger and the counters agree.")
@click.option("--rebuild", is_flag=True, help="Count the counters anew from the ledger.")
@common
def usage(
    config: Path | None,
    data_dir: Path,
    form: str | None,
    as_json: bool,
    reconcile: bool,
    rebuild: bool,
    **asked: Any,
) -> int:
    """Report what was used, from the ledger: a record for every request, or sums.

    With --reconcile, compare the counters of today and of this month with the ledger instead, for
    all keys and teams, and exit 1 if they differ. With --rebuild, count them anew from the ledger
    before; requests under way keep what they hold.
    """
    if as_json and form not in (None, "json"):
        raise click.UsageError(f"--json and --format {form} exclude each other.")
    form = "json" if as_json else form or "table"
    if not (reconcile or rebuild):
        at_desk(config, data_dir, lambda desk: _report(desk, form, **asked))
        return 0
    if given := [f"--{name}" for name, value in asked.items() if value]:
        flag = "--rebuild" if rebuild else "--reconcile"
        raise click.UsageError(f"{flag} is about everything: leave out {', '.join(given)}.")
    if form == "csv":
        raise click.UsageError("--reconcile prints lines or JSON: leave out --format csv.")
    return at_desk(
        config, data_dir, lambda desk: _reconcile(desk, rebuilds=rebuild, as_json=form == "json")
    )


async def _report(desk: Desk, form: str, *, model: str | None, **asked: Any) -> None:
    from gateway.fields import model_id
    from gateway.usage_report import ask, render_csv, render_json

    model = model_id(model, desk.settings.models)
    report = await ask(desk.book, model=model, **asked)
    if form == "table":
        await _print_report(report)
        return
    parts = render_csv(report) if form == "csv" else render_json(report, head=b"", tail=b"\n")
    async for part in parts:
        click.echo(part, nl=False)


async def _print_report(report: Report) -> None:
    shown = _IN_TABLE | (set(report.by) or _OF_RECORDS)
    places = [at for at, name in enumerate(report.columns) if name in shown]

    async def pages() -> AsyncIterator[list[list[Any]]]:
        async for batch in report.rows():
            yield [[values[place] for place in places] for values in batch]

    heads = [report.columns[place] for place in places]
    await print_table(heads, pages(), numbers=_IN_TABLE)


async def _reconcile(desk: Desk, *, rebuilds: bool, as_json: bool) -> int:
    from gateway.reconcile import rebuild, reconcile

    if rebuilds:
        await rebuild(desk.settings, desk.data_dir, desk.book)
    differences = await reconcile(desk.settings, desk.data_dir, desk.book)
    if as_json:
        print_json(differences)
    else:
        for one in differences:
            click.echo(
                f"{one.scope}: {one.meter}: the counter says {one.counter}, the ledger {one.ledger}"
            )
    if not differences and not as_json:
        click.echo(
            "The counters of today and of this month agree with the ledger, "
            "for every key and every team."
        )
    return 1 if differences else 0
