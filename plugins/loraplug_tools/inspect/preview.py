"""`loraplug preview`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loraplug import InputError, atomic_output, echo, iter_rows, row_id, transformed

if TYPE_CHECKING:
    from loraplug import App, Pipeline

Rows = Sequence[tuple[str, Sequence[Any]]]


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-n", "count", default=3, show_default=True, type=click.IntRange(min=1), help="Number of rows to show.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key: formatter.max_length=512.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: [{id, tokens: [{id, text, trained, weight?}]}].")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write a self-contained HTML page to this file.")
@click.option(
    "--stage",
    type=click.Choice(["dataset", "transform", "formatter"]),
    default="formatter",
    show_default=True,
    help="Show rows from the source, after the transforms, or as tokens.",
)
@click.option("--dataset", "named", metavar="NAME", help="The data set to show, if there are several.")
@click.pass_obj
def preview(
    app: App,
    recipe: Path,
    count: int,
    settings: tuple[str, ...],
    as_json: bool,
    page: Path | None,
    stage: str,
    named: str | None,
) -> None:
    """Show RECIPE's first rows as the model will see them, trained tokens marked; --stage shows earlier forms."""
    from loraplug_tools.inspect.tokens import documents, tokens

    if stage != "formatter":
        if page is not None:
            raise InputError(f"shows tokens, but --stage {stage} has none", where="--html", todo="leave one out")
        return _rows(app, recipe, settings, named, stage, count, as_json)
    pipeline = one_of(app.pipeline(recipe, settings), named)
    rows = pipeline.load_rows()
    tokenizer = pipeline.load_tokenizer()
    encoded = pipeline.encode(rows.select(range(min(count, len(rows)))), tokenizer)
    shown = [(name, tokens(tokenizer, ids, weights)) for name, ids, weights in documents(encoded)]
    if page is not None:
        with atomic_output(page) as out:
            out.write_text(_page(str(recipe), shown), encoding="utf-8")
        echo(f"wrote {page}", err=True)
    if as_json:
        listed = [{"id": name, "tokens": [_told(token) for token in row]} for name, row in shown]
        echo(json.dumps(listed, ensure_ascii=False))
    elif page is None:
        colours = sys.stdout.isatty()
        for name, row in shown:
            echo(f"── {name}: {_counts(row)}", bold=True)
            _show(row, colours)
        if not colours:
            echo("«trained»  not trained")
            return None
        echo("trained", fg="green", nl=False)
        echo("  not trained  ", nl=False)
        echo("special token", reverse=True)
    return None


def one_of(pipeline: Pipeline, named: str | None) -> Pipeline:
    """The pipeline of one of several data sets; the recipe's own where it has one.

    Raises:
        InputError: none of this name, or no name where there are several.
    """
    sets = {one.name: one for one in pipeline.recipe.sets}
    if named is None and not sets:
        return pipeline
    if named not in sets:
        what = "has several data sets" if named is None else f'has no data set named "{named}"'
        todo = f"choose one with --dataset: {', '.join(sets)}" if sets else "omit --dataset: there is only one"
        raise InputError(what, where=pipeline.recipe.file, todo=todo)
    return pipeline.of_set(sets[named])


def _rows(
    app: App, recipe: Path, settings: tuple[str, ...], named: str | None, stage: str, count: int, as_json: bool
) -> None:
    """The first rows as they are before or after the transforms."""
    source, transforms, run = app.source(recipe, settings, named)
    rows = source.load(run=run)
    if stage == "transform":
        rows = transformed(rows, transforms, run)
    shown = [*iter_rows(rows.select(range(min(count, len(rows)))))]
    if as_json:
        return echo(json.dumps(shown, ensure_ascii=False, default=str))
    for index, row in enumerate(shown):
        echo(f"── {row_id(row, index)}", bold=True)
        for name, value in row.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1, default=str)
            echo(f"{name}: ", fg="cyan", nl=False)
            echo(text)
        echo("")
    return echo(f"{len(shown)} of {len(rows)} rows")


def _told(token: Any) -> dict[str, Any]:
    """A token for JSON; its weight only where it is neither 0 nor 1."""
    told = {"id": token.id, "text": token.text, "trained": token.trained}
    return told if token.weight in (0, 1) else {**told, "weight": token.weight}


def _counts(row: Sequence[Any]) -> str:
    trained = sum(token.trained for token in row)
    weights = {token.weight for token in row} - {0, 1}
    told = f", some weighted {', '.join(f'{weight:g}' for weight in sorted(weights)[:4])}" if weights else ""
    return f"{len(row)} tokens, {trained} trained ({trained / max(len(row), 1):.0%}){told}"


def _show(row: Sequence[Any], colours: bool) -> None:
    """A row's text, trained tokens in colour or between « and », without line feeds at its end, and an empty line."""
    waiting, marked = 0, False
    for token in row:
        if not colours and token.trained != marked:
            echo("\n" * waiting + "«" if token.trained else "»", nl=False)
            waiting, marked = 0 if token.trained else waiting, token.trained
        style: dict[str, Any] = {"fg": "green"} if token.trained else {}
        style |= {"reverse": True} if token.special else {}
        text = token.text if not token.trained else token.text.replace("\n", "↵\n")
        for at, part in enumerate(text.split("\n")):
            waiting += at > 0
            if part:
                echo("\n" * waiting, nl=False)
                echo(part, nl=False, **style)
                waiting = 0
    echo("»\n" if marked else "\n")


def _page(title: str, rows: Rows) -> str:
    import html

    body = []
    for name, row in rows:
        spans = []
        for token in row:
            kind = " ".join(word for word, on in (("t", token.trained), ("s", token.special)) if on)
            text = html.escape(token.text).replace("\n", "↵\n")
            spans.append(f'<span class="{kind}" title="{_title(token)}">{text}</span>')
        body.append(f"<h2>{html.escape(name)}</h2><p>{_counts(row)}</p><pre>{''.join(spans)}</pre>")
    return _PAGE.format(title=html.escape(title), body="\n".join(body))


def _title(token: Any) -> str:
    return str(token.id) if token.weight in (0, 1) else f"{token.id}, weight {token.weight:g}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: tokens</title><style>
:root {{ color-scheme: light dark; --t: #c9f2d0; --s: #8888 }}
@media (prefers-color-scheme: dark) {{ :root {{ --t: #1d5a2c }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px }}
.t {{ background: var(--t) }} .s {{ outline: 1px solid var(--s); font-weight: bold }}
</style></head><body><h1>{title}</h1>
<p><span class="t">trained</span> · not trained · <span class="s">special token</span> · hover to see its id</p>
{body}
</body></html>
"""
