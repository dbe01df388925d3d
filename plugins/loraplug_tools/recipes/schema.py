"""A JSON schema (draft 2020-12) of recipes, made from the options of everything installed.

A table's `use` decides which keys it may have. That is said with if/then, so that an editor names the one wrong key (of
`oneOf`, Taplo only says that no branch fits); the keys of all components of a kind stand beside it, for completion.
The same registry always gives the same schema, whatever the environment says.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Collection, Mapping, MutableMapping, MutableSequence, Sequence, Set
from datetime import date, datetime, time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import attrs

from loraplug import Component, Entry, Option, Registry, as_toml, options

Schema = dict[str, Any]

_KINDS = {
    "dataset": "where training rows come from",
    "formatter": "turns rows into tokens and chooses which are trained",
    "model": "the base model",
    "quantizer": "loads the base in fewer bits; omit the table for full precision",
    "trainer": "trains the adapter",
    "exporter": "exports the finished adapter",
}
_INSIDE = {
    "transform": "changes or drops rows after they are read",
    "adapter": "what is trained of the model",
    "optimizer": "the optimizer",
    "scheduler": "the learning-rate schedule",
}
_HELD = "held."
"""Before the kind in the name of what stands inside a component, where the core reads no keys of its own."""


def schema(registry: Registry) -> Schema:
    """The schema of a whole recipe. A recipe that `extends` another may leave anything out."""
    from loraplug import Mix, Plugins, Validation, Workers

    definitions: Schema = {}
    for kind in (*_KINDS, *_INSIDE):
        entries = sorted(registry.of_kind(kind), key=lambda entry: entry.full_name)
        for entry in entries:
            definitions[f"{kind}.{entry.full_name}"] = _component(entry)
        definitions[kind] = _kind(kind, entries)
        if kind == "dataset":
            definitions |= _only_held(definitions, kind)
            for name in [kind, *(f"{kind}.{entry.full_name}" for entry in entries)]:
                definitions[name] = {**definitions[name], "properties": definitions[name]["properties"] | _TRANSFORMS}
            _allow_transforms(definitions[kind])
            definitions["set"] = _set(definitions[kind])
    run_name = {"type": "string", "pattern": r"^[A-Za-z0-9_$]", "description": "names the folders under outputs/"}
    seed = {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**32 - 1,
        "default": 42,
        "description": "seed of all random numbers",
    }
    extends = {
        "description": "recipes this one builds on; later ones override earlier ones; paths relative to this file",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    tables: Schema = {kind: {"$ref": f"#/$defs/{kind}"} for kind in _KINDS if kind != "exporter"}
    several: Schema = {
        "type": "array",
        "items": {"$ref": "#/$defs/set"},
        "description": "[[dataset]]: several data sets, mixed",
    }
    either = f"[dataset]: {_KINDS['dataset']}; [[dataset]]: several, mixed"
    tables["dataset"] = {"description": either, "if": {"type": "array"}, "then": several, "else": tables["dataset"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "loraplug recipe",
        "description": "One LoRA fine-tuning run: six stages, each a plugin",
        "type": "object",
        "properties": {
            "run_name": run_name,
            "seed": seed,
            "extends": extends,
            **tables,
            "exporter": {
                "type": "array",
                "items": {"$ref": "#/$defs/exporter"},
                "description": f"[[exporter]]: {_KINDS['exporter']}",
            },
            "mix": _table(Mix) | {"description": "how several data sets become one"},
            "validation": _table(Validation) | {"description": "rows held out before training"},
            **{name: _table(cls) | {"description": _sentence(cls)} for name, cls in registry.tables.items()},
            "workers": _table(Workers) | {"description": "where parallel work runs"},
            "plugins": _table(Plugins) | {"description": "plugins disabled for this recipe"},
            "lock": {"type": "object", "description": "written by a run; such a file ignores the environment"},
        },
        "additionalProperties": False,
        "anyOf": [
            {"required": ["extends"]},
            {"required": ["run_name", "dataset", "formatter", "model", "trainer"]},
        ],
        "$defs": definitions,
    }


_TRANSFORMS: Schema = {
    "transform": {
        "type": "array",
        "items": {"$ref": "#/$defs/transform"},
        "description": f"[[dataset.transform]]: {_INSIDE['transform']}, in this order",
    }
}


def _set(table: Schema) -> Schema:
    """One of several data sets: what its source has as options, and the keys that the core reads."""
    own = {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "description": "name of the data set"},
        "share": {
            "type": "number",
            "minimum": 0,
            "description": "its share of the mixture; 0: only evaluated, not trained",
        },
        "transform": _TRANSFORMS["transform"],
        "formatter": {"type": "object", "description": "options of [formatter] that differ for this set"},
    }
    return {
        "type": "object",
        "required": ["use", "name"],
        "description": "one of several [[dataset]]",
        "properties": {**table["properties"], **own},
        "additionalProperties": False,
    }


def _only_held(definitions: Schema, kind: str) -> Schema:
    """The definitions of a kind as they are inside a component, under names of their own."""
    own = {name: value for name, value in definitions.items() if name == kind or name.startswith(f"{kind}.")}
    text = json.dumps(own).replace(f'"#/$defs/{kind}', f'"#/$defs/{_HELD}{kind}')
    return {f"{_HELD}{name}": value for name, value in json.loads(text).items()}


def _allow_transforms(table: Schema) -> None:
    """A table without `use` adds to that of a recipe it extends, and may say its transforms."""
    table["allOf"][-1]["then"]["propertyNames"]["enum"].append("transform")


def _kind(kind: str, entries: list[Entry]) -> Schema:
    shared: dict[str, list[Schema]] = {}
    for entry in entries:
        for key, value in _properties(entry.cls).items():
            shared.setdefault(key, []).append(value)
    keys = {key: _either(values) for key, values in shared.items()}
    uses = {entry.full_name: _names(entry, entries) for entry in entries}
    told = "; ".join(f"{uses[entry.full_name][0]}: {_summary(entry)}" for entry in entries)
    use = {"enum": [name for names in uses.values() for name in names], "description": told or "none is installed"}
    branches = [
        {
            "if": {"properties": {"use": {"enum": uses[entry.full_name]}}, "required": ["use"]},
            "then": {"$ref": f"#/$defs/{kind}.{entry.full_name}"},
        }
        for entry in entries
    ]
    if kind in ("exporter", *_INSIDE):
        branches.append({"required": ["use"]})
    else:  # without `use`, a table adds to that of a recipe it extends, whatever stands there
        branches.append({"if": {"not": {"required": ["use"]}}, "then": {"propertyNames": {"enum": list(keys)}}})
    return {
        "description": f"[{kind}]: {(_KINDS | _INSIDE)[kind]}",
        "x-taplo": {"initKeys": ["use"]},
        "type": "object",
        "properties": {"use": use} | keys,
        "allOf": branches,
    }


def _names(entry: Entry, entries: list[Entry]) -> list[str]:
    twins = sum(other.name == entry.name for other in entries)
    return [entry.full_name] if twins > 1 else [entry.name, entry.full_name]


def _summary(entry: Entry) -> str:
    return _sentence(entry.cls)


def _either(values: list[Schema]) -> Schema:
    found = [value for place, value in enumerate(values) if value not in values[:place]]
    return found[0] if len(found) == 1 else {"anyOf": found, "description": found[0]["description"]}


def _component(entry: Entry) -> Schema:
    table = _table(entry.cls)
    brought = f"{_summary(entry)} Provided by {entry.plugin.distribution} {entry.plugin.version}."
    table["properties"] = {"use": {"type": "string", "description": brought}} | table["properties"]
    return {"title": entry.name, "description": brought} | table


def _sentence(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n", 1)[0].replace("\n", " ")


def _table(cls: type) -> Schema:
    required = [option.name for option in options(cls) if option.required]
    table = {"type": "object", "properties": _properties(cls), "additionalProperties": False}
    return table | ({"required": required} if required else {})


def _properties(cls: type) -> Schema:
    return {option.name: _option(option) for option in options(cls)}


def _option(option: Option) -> Schema:
    made = {"description": option.doc} | _type(option.hint)
    default = None if option.required else as_toml(option.default)
    plain = isinstance(default, str | int | float | bool | list) and option.nested is None and option.holds is None
    return made | ({"default": json.loads(json.dumps(default, default=str))} if plain else {})


_SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", Path: "string"}
_DATES = {datetime: "date-time", date: "date", time: "time"}
_LISTS = (tuple, list, set, frozenset, Sequence, MutableSequence, Collection, Set)


def _type(hint: Any) -> Schema:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(args[0])
    if hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        arms = [_type(arg) for arg in args if arg is not type(None)]
        return arms[0] if len(arms) == 1 else {"anyOf": arms}
    if origin is tuple and args[-1:] != (...,):
        return {"type": "array", "prefixItems": [*map(_type, args)], "minItems": len(args), "maxItems": len(args)}
    if origin in _LISTS:
        return {"type": "array", "items": _type(args[0])}
    if hint in _DATES:
        return {"type": "string", "format": _DATES[hint]}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": [as_toml(member) for member in hint]}
    if isinstance(hint, type) and issubclass(hint, Component):
        return {"$ref": f"#/$defs/{_HELD if hint.kind == 'dataset' else ''}{hint.kind}"}
    if origin in (dict, Mapping, MutableMapping):
        return {"type": "object", "additionalProperties": _type(args[1])}
    return _table(hint) if attrs.has(hint) else {}
