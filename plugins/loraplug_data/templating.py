"""`template`: columns of a row made into messages, each by a Jinja text in a sandbox."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import field, frozen

from loraplug import Doc, InputError, Run, Transform, iter_rows, row_id
from loraplug_data.caching import changed
from loraplug_data.columns import NAMES, check_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


@frozen
class Turn:
    """One message."""

    role: Annotated[Literal["system", "user", "assistant"], Doc("the role of the message")]
    text: Annotated[str, Doc("a Jinja template over the row's columns, such as `Fix this: {{ problem }}`")]


def _turns(_: Any, __: Any, value: tuple[Turn, ...]) -> None:
    if not value:
        raise ValueError("expected at least one [[dataset.transform.messages]] with role and text")


def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


@frozen
class Template(Transform):
    """Makes messages from columns, with a Jinja template for each message. The columns it uses are removed, others are
    kept.
    """

    name = "template"
    messages: Annotated[tuple[Turn, ...], Doc("the messages of a row, in order")] = field(validator=_turns)

    def __attrs_post_init__(self) -> None:
        self._read()

    def _read(self) -> set[str]:
        """Names that the texts read; InputError where one is no Jinja text."""
        from jinja2 import TemplateSyntaxError, meta

        environment, names = _environment(), set[str]()
        for index, turn in enumerate(self.messages):
            try:
                names |= meta.find_undeclared_variables(environment.parse(turn.text))
            except TemplateSyntaxError as error:
                raise InputError(
                    f"messages[{index}].text is not valid Jinja: line {error.lineno}: {error.message}"
                ) from None
        return names

    def apply(self, rows: Dataset, run: Run) -> Dataset:
        """The rows with a column `messages`.

        Raises:
            InputError: a text reads a column that is not there, or fails for a row, naming it; the rows have messages.
        """
        from datasets import Features, Json

        where = "dataset.transform template: messages"
        read = self._read()
        check_columns(sorted(read), rows.column_names, where)
        if "messages" in rows.column_names and "messages" not in read:
            raise InputError("the rows already have a column messages, which the templates do not use", where=where,
                             todo="rename that column, or remove this transform")  # fmt: skip
        gone = [name for name in rows.column_names if name in read and name not in NAMES]
        kept = {name: feature for name, feature in rows.features.items() if name not in gone}
        features = Features({**kept, "messages": Json()})
        environment = _environment()
        texts = [environment.from_string(turn.text) for turn in self.messages]

        def work(table: pa.Table, counts: Counter[str]) -> pa.Table:
            import pyarrow
            from datasets import Dataset

            made = []
            for row in iter_rows(Dataset(table, info=rows.info)):
                try:
                    said = [text.render(row) for text in texts]
                except Exception as error:  # whatever the text's own operations raise
                    todo = "correct the template, or remove such rows with `select` before it"
                    at = f"{where}, {row_id(row, counts['rows'])}"
                    raise InputError(f"cannot be rendered: {error}", where=at, todo=todo) from None
                counts["rows"] += 1
                turns = [{"role": turn.role, "content": text} for turn, text in zip(self.messages, said, strict=True)]
                made.append(json.dumps(turns, ensure_ascii=False))
            kind = features.arrow_schema.field("messages").type
            return table.select(list(kept)).append_column("messages", pyarrow.array(made, type=kind))

        return changed(rows, self, run, work, features, remove=gone)[0]
