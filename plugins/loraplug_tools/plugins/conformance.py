"""What every component must hold to, whoever wrote it; for tests of plugins and for `loraplug plugins check`.

    from loraplug_tools.plugins.conformance import assert_conforms

    def test_the_source_conforms(tmp_path):
        assert_conforms(YamlSource(path=rows), tmp_path)

Nothing here knows a plugin: each check is made of what the base classes promise.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any, Literal

import attrs
from attrs import frozen

from loraplug import Component, LoraplugError, Option, options
from loraplug.testing import from_table, to_table


@frozen
class Finding:
    """One check of one thing: `subject` is a component ("dataset yaml"), a plugin or a command."""

    subject: str
    check: str
    status: Literal["ok", "failed", "advice", "not run"] = "ok"
    detail: str = ""


class CheckError(Exception):
    """A check that does not hold; its text says what was seen."""


def require(holds: object, seen: str) -> None:
    """Raise CheckError unless it holds."""
    if not holds:
        raise CheckError(seen)


def refuses(what: str, action: Callable[[], object]) -> None:
    """Raise CheckError unless `action` raises one of our errors, which say what, where and what next."""
    try:
        action()
    except LoraplugError:
        return
    except Exception as error:
        raise CheckError(f"{what} raises {type(error).__name__} ({error}) instead of an InputError") from error
    raise CheckError(f"{what} is accepted without an error")


def tried(subject: str, check: str, action: Callable[[], object], optional: frozenset[str] = frozenset()) -> Finding:
    """Run one check; whatever it raises is a finding, not the end of the checking.

    Args:
        optional: modules that need not be installed; a check that finds one of them lacking has not run.
    """
    try:
        action()
    except ModuleNotFoundError as error:
        lacks = (error.name or "").partition(".")[0]
        status: Literal["failed", "not run"] = "not run" if lacks in optional else "failed"
        return Finding(subject, check, status, f"{lacks} is not installed")
    except CheckError as error:
        return Finding(subject, check, "failed", str(error))
    except Exception as error:
        return Finding(subject, check, "failed", f"{type(error).__name__}: {error}")
    return Finding(subject, check)


def assert_conforms(part: Component, folder: Path) -> None:
    """AssertionError with everything that does not hold of a component; `folder` takes what the checks write."""
    failed = [item for item in conformance(part, folder) if item.status == "failed"]
    if failed:
        raise AssertionError("\n".join(f"{item.subject}: {item.check}: {item.detail}" for item in failed))


def conformance(part: Component, folder: Path) -> list[Finding]:
    """Every check of a component: of its class, of its options, and of what its kind promises to do."""
    from loraplug_tools.plugins.kind_checks import CHECKS, quiet

    quiet()
    subject = f"{part.kind} {part.name}"
    found = check_class(type(part))
    found += [tried(subject, title, partial(check, part)) for title, check in _OPTION_CHECKS.items()]
    for number, (title, act) in enumerate(CHECKS[part.kind].items()):
        room = folder / f"{part.name}-{number}"
        room.mkdir(parents=True)
        found.append(tried(subject, title, partial(act, part, room), _optional(type(part))))
    return found


def _optional(cls: type) -> frozenset[str]:
    """What the distribution that a class is from requires for its extras alone, by the names of modules."""
    package = cls.__module__.partition(".")[0]
    wanted = [line for name in packages_distributions().get(package, ()) for line in requires(name) or ()]
    return frozenset(
        re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("-", "_") for line in wanted if "extra ==" in line
    )


def check_class(cls: type[Component]) -> list[Finding]:
    """What can be told of a component without making one."""
    subject = f"{cls.kind} {cls.name}"
    checks = {"has a docstring": _described, "every option is documented": _documented}
    return [tried(subject, title, partial(check, cls)) for title, check in checks.items()]


def _described(cls: type) -> None:
    first = (inspect.getdoc(cls) or "").split("\n\n")[0]
    require("__doc__" in cls.__dict__ and cls.__doc__ and first, "has no docstring of its own")


def _documented(cls: type) -> None:
    bare = [name for name, option in every_option(cls) if not option.doc.strip()]
    require(not bare, f'no Doc on {", ".join(bare)}: write {bare[0]}: Annotated[…, Doc("…")]' if bare else "")


def every_option(cls: type, prefix: str = "") -> Iterator[tuple[str, Option]]:
    """All options with dotted names, those of nested tables included."""
    for option in options(cls):
        yield prefix + option.name, option
        if option.nested is not None:
            yield from every_option(option.nested, f"{prefix}{option.name}.")


def _round_trip(part: Component) -> None:
    import tomli
    import tomli_w

    table = tomli.loads(tomli_w.dumps(to_table(part)))
    again, problems = from_table(type(part), table)
    require(not problems, f"its own table is refused: {'; '.join(map(str, problems))}")
    require(again == part, f"comes back from its table as {again!r}")


_ODD: dict[str, tuple[Any, ...]] = {
    "int": (-(10**9), 0, 10**12),
    "float": (-1e300, 0.0, float("nan"), float("inf")),
    "str": ("", "\0", "x" * 10_000),
    "path": ("", "\0"),
    "bool": (),
}


def _odd_values(part: Component) -> None:
    table = to_table(part)
    for option in options(type(part)):
        values = [{"no": {"such": "table"}}, 3.7, "x", [[]], True]
        values += [value for name, odd in _ODD.items() if name in option.type_name.split(" | ") for value in odd]
        for value in values:
            try:
                from_table(type(part), table | {option.name: value})
            except Exception as error:
                shown = f"{option.name} = {str(value)[:40]!r}"
                text = f"{shown} raises {type(error).__name__} ({error}): raise ValueError or InputError in validators"
                raise CheckError(text) from error


_OPTION_CHECKS: dict[str, Callable[[Any], None]] = {
    "its options survive a recipe": _round_trip,
    "odd option values get a clear error": _odd_values,
}


def given_paths(part: Component) -> Iterator[Option]:
    """The options of a component that name something on disk, and were given."""
    for option in options(type(part)):
        value = getattr(part, option.name)
        if option.is_path and value is not None and (option.required or value != option.default):
            yield option


def with_path(part: Any, option: Option, path: Path) -> Any:
    """The component with another path in `option`."""
    value = getattr(part, option.name)
    return attrs.evolve(part, **{option.name: _in_place_of(value, path)})


def _in_place_of(value: Any, path: Path) -> Any:
    """The path as the kind of value that stood there: a text, or a list with one."""
    if isinstance(value, list | tuple):
        return type(value)(_in_place_of(item, path) for item in value[:1])
    return str(path) if isinstance(value, str) else path
