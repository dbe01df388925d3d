"""Merges TOML files into one table that records the origin of each value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import tomli
from attrs import define, field, frozen

from loraplug.config.errors import InputError, Problem
from loraplug.config.options import (
    LISTS,
    MAPPINGS,
    ByUse,
    Option,
    arms_of,
    fitting,
    is_by_use,
    is_table,
    item_types,
    options,
)
from loraplug.config.secrets import REDACTED, is_secret_key, is_secret_name

Table = dict[str, Any]
Place = tuple[str | int, ...]
"""The way to a value: `("exporter", 0, "out")`."""
Hold = Callable[[type[ByUse], Any, Place], Any]

_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)\}")


@frozen
class Origin:
    """The origin of a value (`label`), and the folder that its relative paths are relative to."""

    label: str
    folder: Path


@define
class Layers:
    """A merged table. `origins` leads from the place of each value to where it was said, `unfilled` from the key of
    each value that variables were put into to what the file says there.
    """

    file: Path
    folder: Path
    table: Table = field(factory=dict)
    origins: dict[Place, Origin] = field(factory=dict)
    unfilled: dict[str, str] = field(factory=dict)

    def origin(self, place: Place) -> Origin | None:
        """Who said the value at `place`, or the nearest table around it."""
        while place and place not in self.origins:
            place = place[:-1]
        return self.origins.get(place)

    def read(self, file: Path, below: tuple[Path, ...] = ()) -> None:
        """Lay a TOML file over what is there, after the files its `extends` names.

        Raises:
            InputError: a file is missing, is not TOML, or extends itself.
        """
        if file in below:
            raise InputError("extends itself", where=file, todo="remove one `extends` of the cycle")
        _check_text(str(file), f"the recipe's path {file}")
        table = _parsed(file, below)
        bases = table.pop("extends", [])
        for base in bases if isinstance(bases, list) else [bases]:
            if not isinstance(base, str) or "\0" in base:
                raise InputError(f"extends: expected a file name, got {base!r}", where=file)
            self.read((file.parent / base).resolve(), (*below, file))
        self.overlay(table, Origin(str(file), file.parent))

    def overlay(self, top: Table, origin: Origin) -> None:
        """Put `top` over what is there, table by table and key by key; lists are replaced whole."""
        self._overlay(self.table, top, origin, ())

    def _overlay(self, base: Table, top: Table, origin: Origin, place: Place) -> None:
        for key, value in top.items():
            old = base.get(key)
            if isinstance(value, dict) and isinstance(old, dict) and value.get("use", old.get("use")) == old.get("use"):
                self._overlay(old, value, origin, (*place, key))
            else:  # another component has other options, so a table with a new `use` starts afresh
                self._replace(base, key, value, origin, (*place, key))

    def _replace(self, holder: Any, key: str | int, value: Any, origin: Origin, place: Place) -> None:
        self.origins = {other: said for other, said in self.origins.items() if other[: len(place)] != place}
        holder[key] = value
        self._record(value, origin, place)

    def _record(self, value: Any, origin: Origin, place: Place) -> None:
        for text in (place[-1] if place else "", value):
            _check_text(text, f"{dotted(place)}, by {origin.label}")
        self.origins[place] = origin
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            self._record(item, origin, (*place, key))

    def put(self, place: Place, value: Any, origin: Origin, where: str) -> None:
        """Put one value at its place, making the tables on the way.

        Raises:
            InputError: the way leads through something that is no table, or past the end of a list.
        """
        at: Any = self.table
        for step, key in enumerate(place):
            name = ".".join(map(str, place[:step]))
            if isinstance(at, list):
                if not isinstance(key, int) or key >= len(at):
                    raise InputError(f"{name} is a list of {len(at)}", where=where, todo="give an index")
            elif isinstance(at, dict):
                key = str(key)
            else:
                raise InputError(f"{name} is not a table", where=where, todo="check the key")
            if step == len(place) - 1:
                self._replace(at, key, value, origin, (*place[:step], key))
            else:
                at = at.setdefault(key, {}) if isinstance(at, dict) else at[key]

    def apply(self, settings: Iterable[str], under: Place = (), example: str = "trainer.epochs=1") -> None:
        """Put the `key=value` words of `--set`; `key+=value` adds to a list. InputError where one cannot be read."""
        for setting in settings:
            where = f"--set {_shown(setting)}"
            word = re.fullmatch(r"""((?:"[^"]*"|'[^']*'|[^"'=])+?)(\+?)=(.*)""", setting, re.S)
            if not word or not word[1].strip():
                raise InputError("not KEY=VALUE", where=where, todo=f"for example --set {example}")
            place, value = self._by_name((*under, *_split(word[1].strip())), where), _value(word[3])
            if word[2]:
                self._append(place, value if isinstance(value, list) else [value], where)
            else:
                self.put(place, value, Origin("--set", Path.cwd()), where)

    def _by_name(self, place: Place, where: str) -> Place:
        """A place in which tables of a list may be told by their `name`, with their indices."""
        made: Place = ()
        for key in place:
            at = self.value(made) if made else self.table
            if isinstance(at, list) and isinstance(key, str):
                names = {item["name"]: index for index, item in enumerate(at)
                         if isinstance(item, dict) and isinstance(item.get("name"), str)}  # fmt: skip
                if key not in names and names:
                    what = f'{dotted(made)} is a list of {len(at)}, and none has the name "{key}"'
                    raise InputError(what, where=where, todo=f"name one: {', '.join(names)}, or its index")
                key = names.get(key, key)
            made = (*made, key)
        return made

    def _append(self, place: Place, items: list[Any], where: str) -> None:
        origin, old = Origin("--set", Path.cwd()), self.value(place)
        if old is None:
            return self.put(place, items, origin, where)
        if not isinstance(old, list):
            raise InputError(f"{dotted(place)} is not a list", where=where, todo="write = in place of +=")
        self.origins[place] = origin
        for item in items:
            old.append(item)
            self._record(item, origin, (*place, len(old) - 1))
        return None

    def value(self, place: Place, default: Any = None) -> Any:
        """The value at a place, or `default` where nothing is said."""
        at: Any = self.table
        for key in place:
            if isinstance(at, dict) and str(key) in at:
                at = at[str(key)]
            elif isinstance(at, list) and isinstance(key, int) and key < len(at):
                at = at[key]
            else:
                return default
        return at

    def expand(self, values: Mapping[str, str | None]) -> None:
        """Put the values of variables for `${NAME}` in every string; `$${` stands for `${` itself.

        Raises:
            InputError: naming every key with a variable that is not set, or is a secret by its name: what is resolved
                is written into files that are shared.
        """
        problems: list[Problem] = []
        for place in list(self.origins):
            text = self.value(place)
            if isinstance(text, str) and "${" in text:
                names = {name for escaped, name in _VARIABLE.findall(text) if not escaped}
                problems += [Problem(dotted(place), why) for name in sorted(names) if (why := _refused(name, values))]
                if not problems:
                    said = self.origins[place]
                    filled = _VARIABLE.sub(lambda found: found[0][1:] if found[1] else str(values[found[2]]), text)
                    label = " ".join([said.label, *(f"${{{name}}}" for name in sorted(names))])
                    self.put(place, filled, Origin(label, said.folder), dotted(place))
                    self.unfilled[as_key(place)] = text
        if problems:
            text = "\n".join(f"{self.file}: {problem}" for problem in problems)
            raise InputError(text, todo="set the variable in the environment or .env; write $${ for a literal ${")

    def refill(self, redacted: Mapping[Any, Any], values: Mapping[str, str | None]) -> None:
        """Fill in what a lock file left out because it was secret, where it came from variables that are set now.

        Args:
            redacted: the key of each value left out, and the text with `${NAME}` that stood in the recipe, or nothing.
            values: names and values of variables.
        """
        for key, text in redacted.items():
            place, names = (
                tuple(_split(str(key))),
                [name for escaped, name in _VARIABLE.findall(str(text)) if not escaped],
            )
            if REDACTED in str(self.value(place)) and names and all(values.get(name) for name in names):
                filled = _VARIABLE.sub(lambda found: found[0][1:] if found[1] else str(values[found[2]]), str(text))
                said = self.origin(place)
                label = " ".join(["lock.redacted", *(f"${{{name}}}" for name in names)])
                self.put(place, filled, Origin(label, said.folder if said else self.folder), dotted(place))
                self.unfilled[as_key(place)] = str(text)

    def inherit(self, base: Place, place: Place) -> None:
        """Lay the table at `place` over that at `base`, for its own use: what it does not say is said by `base`."""
        old, new = self.value(base, {}), self.value(place, {})
        made: Table = {}
        origins = {(*place, *other[len(base) :]): said for other, said in self.origins.items()
                   if other[: len(base)] == base}  # fmt: skip
        _merge(made, old)
        if isinstance(new, dict) and new.get("use", made.get("use")) != made.get("use"):
            return
        _merge(made, new)
        self.origins = {**origins, **self.origins}
        at: Any = self.table
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = made

    def located(self, cls: type, table: Any, place: Place, hold: Hold | None = None) -> Any:
        """The table at `place` with the relative paths among the options of `cls` made absolute from who said them.

        `hold` is given each table that stands for a component, its base and its place, and gives the component.
        """
        if not isinstance(table, dict):
            return table
        table = dict(table)
        for option in options(cls):
            value, here = table.get(option.name), (*place, option.name)
            if value is None:
                table |= self._default_path(option)
                continue
            if option.is_path and option.holds is None:
                written = option.is_path == "written"
                value = (
                    value
                    if written and not is_written_path(value)
                    else self._absolute(value, option.is_path is True or written, here)
                )
                table[option.name] = value
            table[option.name] = self._inside(option.hint, table[option.name], here, hold)
        return table

    def _default_path(self, option: Option) -> Table:
        """A default that is a path or some starts, if relative, from the recipe's folder, as if the recipe said it."""
        default = option.default
        if isinstance(default, Path):
            return {option.name: absolute(str(default), self.folder)}
        if isinstance(default, list | tuple) and default and all(isinstance(item, Path) for item in default):
            return {option.name: [absolute(str(item), self.folder) for item in default]}
        return {}

    def _inside(self, hint: Any, value: Any, place: Place, hold: Hold | None) -> Any:
        """What a value of this type holds of paths, tables and components, made what it stands for."""
        arms = arms_of(hint)
        if len(arms) > 1:
            arms = tuple(arm for arm in arms if not is_by_use(arm) or isinstance(value, dict))
        tables = [arm for arm in arms if is_table(arm)]
        for arm in fitting(tables, value) if isinstance(value, dict) and len(tables) > 1 else arms:
            origin, args = get_origin(arm), get_args(arm)
            if origin is Annotated:
                value = self._inside(args[0], value, place, hold)
            elif is_by_use(arm):
                value = value if hold is None else hold(arm, value, place)
            elif arm is Path and isinstance(value, str):
                value = self._absolute(value, True, place)
            elif is_table(arm):
                value = self.located(arm, value, place, hold)
            elif origin in LISTS and isinstance(value, list):
                kinds = item_types(arm, len(value))
                pairs = enumerate(zip(kinds, value, strict=False)) if len(kinds) == len(value) else ()
                value = [self._inside(kind, item, (*place, index), hold) for index, (kind, item) in pairs] or value
            elif origin in MAPPINGS and isinstance(value, dict):
                value = {key: self._inside(args[1], item, (*place, key), hold) for key, item in value.items()}
        return value

    def _absolute(self, value: Any, sure: bool, place: Place) -> Any:
        """A path, or each of a list of paths, from the folder of who said it."""
        if isinstance(value, list):
            return [self._absolute(item, sure, (*place, index)) for index, item in enumerate(value)]
        origin = self.origin(place)
        if not isinstance(value, str) or origin is None:
            return value
        path = absolute(value, origin.folder, sure)
        _check_text(path, f"{dotted(place)}, the path it comes to")
        return path


def _merge(base: Table, top: Table) -> None:
    """Put `top` over `base` as layers are, in copies of its tables."""
    for key, value in top.items():
        old = base.get(key)
        if isinstance(value, dict):
            same = isinstance(old, dict) and value.get("use", old.get("use")) == old.get("use")
            base[key] = dict(old) if same and isinstance(old, dict) else {}
            _merge(base[key], value)
        else:
            base[key] = value


def absolute(value: str, folder: Path, sure: bool = True) -> str:
    """`value` as an absolute path from `folder`, unless it is empty, has a scheme (`https:`, `hub:`) or is a name."""
    if not value or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", value):
        return value
    # not pathlib: its expanduser and exists raise where there is no such user, or a name is too long
    path = os.path.abspath(os.path.join(folder, os.path.expanduser(value)))  # noqa: PTH100, PTH111, PTH118
    looks = value.startswith((".", "/", "~")) or value.endswith(".gguf")
    return path if sure or looks or os.path.exists(path) else value  # noqa: PTH110


def is_written_path(value: Any) -> bool:
    """Whether a text is written as a path, and not as a name: with a slash, or as a template's file."""
    return isinstance(value, str) and (value.endswith(".jinja") or bool({"/", os.sep} & {*value}))


def _check_text(value: Any, where: str) -> None:
    """Refuse what the command line, the environment or a folder's name hold of bytes that are not UTF-8."""
    if isinstance(value, str) and (wrong := re.search("[\ud800-\udfff]", value)):
        byte = ord(wrong[0]) - 0xDC00
        told = f"the byte 0x{byte:02x}" if 0x80 <= byte <= 0xFF else "half a surrogate pair"
        raise InputError(f"not UTF-8: {told} in it", where=where.encode("utf-8", "backslashreplace").decode(),
                         todo="write it in UTF-8, or choose another name")  # fmt: skip


def dotted(place: Place) -> str:
    """A place as people write it: `exporter[0].out`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def as_key(place: Place) -> str:
    """A place as `--set` takes it: `exporter.0.out`."""
    return ".".join(f'"{part}"' if isinstance(part, str) and "." in part else str(part) for part in place)


def _shown(setting: str) -> str:
    """A word of `--set` for messages."""
    key, equals, value = setting.partition("=")
    return f"{key}={REDACTED}" if equals and value and is_secret_key(key.strip(" +")) else setting


def _parsed(file: Path, below: tuple[Path, ...]) -> Table:
    try:
        return tomli.loads(file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    except FileNotFoundError:
        what, where = (f"no such file: {file}", f"{below[-1]}: extends") if below else ("no such recipe", file)
        todo = "give the path of a .toml file; those in recipes/ are made to be copied"
        if file.name == "recipe.lock.toml":
            todo = "a run writes it when it has finished; give the recipe itself until then"
        elif near := get_close_matches(file.name, [one.name for one in file.parent.glob("*.toml")], n=1):
            todo = f"did you mean {near[0]}?"
        raise InputError(what, where=where, todo=todo) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", where=file, todo="give the path of a .toml file") from None
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits is a plain ValueError
        todo = "correct the file at that line"
        if re.search("hex value|Unescaped|escape", str(error)):
            todo += "; in double quotes \\ starts an escape: put a Windows path in single quotes, or write it with /"
        raise InputError(f"not TOML: {error}", where=file, todo=todo) from None


def _refused(name: str, values: Mapping[str, str | None]) -> str | None:
    if is_secret_name(name):
        return (
            f"${{{name}}} looks like a secret and would be written into lock files; plugins read it from the "
            "environment"
        )
    return None if values.get(name) is not None else f"${{{name}}} is not set"


def _split(key: str) -> list[str | int]:
    """`trainer.lora."a.b"` to its parts, as TOML splits a dotted key; a bare number is the index of a list."""
    found = re.findall(r"""(["'])(.*?)\1|([^."']+)""", key)
    return [int(bare) if re.fullmatch("[0-9]{1,9}", bare) else quoted or bare for _, quoted, bare in found]


def _value(text: str) -> Any:
    try:
        return tomli.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text  # a bare word
