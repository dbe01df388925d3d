"""The `chat-template` formatter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from attrs import field, frozen

from loraplug import Doc, Encoded, InputError, Problem, Run, conversation, shape_of
from loraplug_chat.encoding import Encoding
from loraplug_chat.option_types import TrainOn

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from loraplug_chat.encoder import MaskEncoder
    from loraplug_chat.encoding import Lines, Read
    from loraplug_chat.forms import Forms


@frozen
class ChatTemplate(Encoding):
    """Conversations through the model's chat template; exactly the tokens that the model must generate are trained."""

    name = "chat-template"
    produces = frozenset({"tokens", "pairs", "labelled", "rollouts"})

    train_on: Annotated[
        TrainOn,
        Doc("train every assistant turn, only the last one, or every token; `weight` on a message takes precedence"),
    ] = "assistant"
    train_reasoning: Annotated[
        bool, Doc("also train the reasoning of answers, given under a key or as `<think>…</think>`")
    ] = True
    template_options: Annotated[
        dict[str, bool | int | float | str],
        Doc("variables of the chat template, such as `{ enable_thinking = false }`; saved with the adapter"),
    ] = field(factory=dict)

    special_tokens: Annotated[
        tuple[str, ...],
        Doc("special tokens that are kept as tokens when they occur in rows and prompts; all others become plain text"),
    ] = ()

    def recognise(self, columns: Sequence[str], schema: str = "tokens") -> str:
        """See `Encoding.recognise`; text alone is no conversation."""
        if shape_of(columns, schema) == "text":
            raise InputError("text rows are not conversations", where="formatter", todo='set use = "text"')
        return super().recognise(columns, schema)

    def check(self, recipe: Any) -> Iterator[Problem]:
        """Report options that do not apply to preference rows."""
        if recipe.trainer.consumes == "tokens":
            return
        if self.train_on == "all":
            what = f'"all" would train prompts, but {recipe.trainer.name} compares answers; set "assistant"'
            yield Problem("formatter.train_on", what)
        if self.packing is True:
            yield Problem("formatter.packing", f"rows for {recipe.trainer.name} cannot be packed; remove it")

    def preflight(self, run: Run, recipe: Any) -> Iterator[Problem]:
        """Report a base without a chat template, or whose template fails to render."""
        from loraplug_chat.preflight import template_problem

        facts = recipe.model.facts(run=run)
        if facts is None:
            return
        if wrong := template_problem(facts.chat_template, self.template_options, facts.template_advice):
            yield Problem("model.chat_template", wrong)
        for token in self.special_tokens if facts.added_tokens is not None else ():
            if token not in facts.added_tokens:
                what = f'"{token}" is not a single token of the tokenizer; add it: [model] add_tokens = ["{token}"]'
                yield Problem("formatter.special_tokens", what)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str = "tokens") -> Encoded:
        """See `Encoding.encode`; `template_options` are written into the tokenizer's template, which is saved later."""
        self.recognise(rows.column_names, schema)  # whoever calls this without having asked
        if self.template_options:
            from loraplug_chat.options import give_options

            give_options(tokenizer, self.template_options)
        if self.special_tokens:
            from loraplug_chat.special import open_tokens

            open_tokens(tokenizer, self.special_tokens)
            run.say(f"special tokens that are kept as tokens in rows: {', '.join(self.special_tokens)}")
        return super().encode(rows, tokenizer, run, schema)

    def reader(self, shape: str, tokenizer: PreTrainedTokenizerBase) -> Read:
        """See `Encoding.reader`."""
        forms, encode = self._encoder(tokenizer)
        return lambda row, index: (forms.fit(conversation(row, shape, index)), encode)

    def lines(self, schema: str, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Lines:
        """See `Encoding.lines`."""
        if schema == "tokens":
            return super().lines(schema, columns, tokenizer)
        if schema == "rollouts":
            from loraplug_chat.rollouts import Rollouts

            return Rollouts(self.max_length, self.overlong).lines
        from loraplug_chat.judged import Judged

        return Judged(schema, *self._encoder(tokenizer), self.max_length, self.overlong).lines

    def _encoder(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Forms, MaskEncoder]:
        from loraplug_chat.encoder import MaskEncoder
        from loraplug_chat.forms import Forms
        from loraplug_chat.mask import Masker

        masker = Masker.of(tokenizer, self.special_tokens)
        return Forms(masker.template), MaskEncoder(masker, self.train_on, self.train_reasoning)
