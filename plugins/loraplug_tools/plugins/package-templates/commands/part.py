"""The command `loraplug my-part`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from loraplug import InputError, echo


@click.command("my-part")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(adapter: Path, as_json: bool) -> None:
    """Tell the rank, modules and size of the ADAPTER in a folder."""
    config = read_config(adapter)
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors"))
    modules = config.get("target_modules") or []
    told = {"base": config.get("base_model_name_or_path"), "rank": config.get("r"), "bytes": size}
    told["modules"] = modules if isinstance(modules, str) else sorted({name.rpartition(".")[2] for name in modules})
    if as_json:
        return echo(json.dumps(told, indent=2))
    for name, value in told.items():
        echo(f"{name:8} {', '.join(value) if isinstance(value, list) else value}")
    return None


def read_config(adapter: Path) -> dict[str, Any]:
    """The adapter's own settings; InputError where there are none."""
    path = adapter / "adapter_config.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        todo = "name an adapter's folder, such as outputs/adapters/NAME"
        raise InputError(f"cannot be read ({error})", where=path, todo=todo) from error
