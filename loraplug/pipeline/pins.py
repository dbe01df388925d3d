"""Checks that a resumed run, or a lock file, uses the same data, tokenizer, chat template, rows and base as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define

from loraplug import files
from loraplug.config.secrets import kinds, own_secrets
from loraplug.context import Run
from loraplug.data.shapes import row_id
from loraplug.errors import InputError
from loraplug.pipeline import digests
from loraplug.pipeline.state import State, save
from loraplug.recipe.lock import PINNED, locked
from loraplug.recipe.recipe import Recipe

if TYPE_CHECKING:
    from datasets import Dataset

_TEMPLATE, _DIGESTS = "chat_template.jinja", "encoded.digests"
_ENCODERS = ("loraplug", "transformers", "tokenizers")
_NAMED = 8  # row ids in a message


@define
class Pins:
    """Holds each part of a run to what the killed run that goes on, or the lock file, was begun with."""

    recipe: Recipe
    run: Run
    state: State

    def facts(self) -> dict[str, Any]:
        """What the lock file says of all parts."""
        return {"date": self.state["date"], "run": self.run.name} | {
            part: self.state[part] for part in PINNED if part in self.state
        }

    def rows(self, part: str, rows: Dataset) -> None:
        """Hold data or validation; rows that seem to hold secrets are warned of on the way."""
        self.hold(part, self._facts(part, rows))

    def sets(self, part: str, sets: Mapping[str, Dataset]) -> None:
        """Hold the data or validation rows of several sets, as `rows` does of one."""
        facts = {name: self._facts(part, rows) for name, rows in sets.items()}
        whole = digests.template_facts("".join(f"{name} {one['sha256']}\n" for name, one in facts.items()))
        self.hold(part, {"rows": sum(one["rows"] for one in facts.values()), **whole, "sets": facts})

    def _facts(self, part: str, rows: Dataset) -> dict[str, Any]:
        found: dict[int, set[str]] = {}
        own = own_secrets()

        def see(index: int, line: str) -> None:
            if some := kinds(line.replace("\\n", "\n"), own):
                found[index] = some

        facts = {"rows": len(rows), "sha256": files.hash_rows(rows, see)}
        if found:
            names = [row_id(rows[index], index) for index in [*found][:_NAMED]]
            what = Counter(kind for some in found.values() for kind in some)
            told = ", ".join(f"{count} {kind}" for kind, count in what.most_common())
            self.run.warn(
                f"{len(found)} of {len(rows)} rows hold what looks like a secret ({told}): {', '.join(names)}"
                f"{' …' if len(found) > _NAMED else ''}; the model would learn it: remove it from {PINNED[part]}"
            )
        return facts

    def tokenizer(self, tokenizer: Any) -> None:
        """Hold the tokenizer and its chat template."""
        self.hold("tokenizer", digests.tokenizer_facts(tokenizer))
        text = digests.template_text(tokenizer)
        facts = digests.template_facts(text)
        said = str(getattr(self.recipe.model, "chat_template", None) or "the model's own")
        self.hold("template", facts, lambda old: self._template_change(old, text, said))
        files.write_text(self.run.folder / _TEMPLATE, text)

    def _template_change(self, old: dict[str, Any], text: str, said: str) -> str:
        for path in self._left(_TEMPLATE):
            try:
                was = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if digests.template_facts(was)["sha256"] == old["sha256"]:
                return f"{said}: {digests.first_difference(was, text)}"
        return said

    def encoding(self, encoded: Sequence[Dataset], accept: bool) -> None:
        """Hold the encoded rows, training then validation. `accept`: another encoding than a lock file's will do."""
        made = b"".join(map(digests.row_digests, encoded))
        facts = digests.encoding_facts(made)
        facts |= {"versions": {name: metadata.version(name) for name in _ENCODERS}}
        begun, old = self.state.get("encoding"), locked(self.recipe, "encoding")
        if begun and begun["sha256"] != facts["sha256"]:
            todo = (
                "restore the versions and options that encoded them, or run it under a new name (a lock file: with "
                "--accept-encoding)"
            )
            raise InputError(f"{self._encoding_change(begun, facts, made)} than when this run began",
                             where=self.run.name, todo=todo)  # fmt: skip
        if not begun and old and old.get("sha256") != facts["sha256"]:
            what = f"{self._encoding_change(old, facts, made)} than when this lock file was made"
            if not accept:
                todo = (
                    "restore the versions and options that encoded them, or accept this encoding under a new name: "
                    "--accept-encoding"
                )
                raise InputError(what, where=self.recipe.file, todo=todo)
            self.run.warn(f"{what}; accepted because of --accept-encoding")
        self.state["encoding"] = begun or facts
        digests.write_digests(self.run.folder / _DIGESTS, made)
        save(self.run, self.state)

    def _encoding_change(self, old: dict[str, Any], new: dict[str, Any], made: bytes) -> str:
        kept = (digests.read_digests(path, str(old.get("sha256"))) for path in self._left(_DIGESTS))
        was = next((one for one in kept if one is not None), None)
        rows = old.get("rows")
        most = max(rows, new["rows"]) if isinstance(rows, int) else new["rows"]
        count = f"{digests.differing_rows(was, made)} of {most} rows are" if was is not None else "rows are"
        before = old.get("versions")
        before = before if isinstance(before, dict) else {}
        then = [
            f"{name} {before[name]} then, {now} now"
            for name, now in new["versions"].items()
            if before.get(name, now) != now
        ]
        why = "; ".join(then) or "with the same versions: another device, other packing or changed code"
        return f"{count} encoded differently ({why})"

    def hold(self, part: str, facts: dict[str, Any], how: Any = None) -> None:
        """Hold a part of `PINNED`.

        Args:
            part: its name.
            facts: what it is now, `sha256` among it.
            how: gives words on what differs from earlier facts.

        Raises:
            InputError: it is not what the run was begun with, or the lock file was made with.
        """
        old, name = locked(self.recipe, part), PINNED[part]
        if old.get("sha256") and old["sha256"] != facts["sha256"]:
            words = how(old) if how else f"sha256 {facts['sha256'][:12]}…, locked {str(old['sha256'])[:12]}…"
            short = name.removeprefix("the ")
            todo = f"restore the old {short}, or remove lock.{part} from the file to use the new one"
            what = f"{name} differs from what this lock file was made with ({words})"
            raise InputError(what, where=self.recipe.file, todo=todo)
        begun = self.state.setdefault(part, facts)
        if begun != facts:
            words = f" ({how(begun)})" if how else ""
            todo = "restore the old one, or start over with --fresh, which moves the earlier run aside"
            raise InputError(f"{name} has changed since this run began{words}", where=self.run.name, todo=todo)
        save(self.run, self.state)

    def _left(self, name: str) -> list[Path]:
        """Where a file of the earlier run may lie: in this run's folder, beside the lock file, in its run's folder."""
        run = str((self.recipe.lock or {}).get("run", self.run.name))
        places = [self.run.folder, self.recipe.file.absolute().parent]
        return [place / name for place in [*places, self.run.folder.parent / Path(run).name]]
