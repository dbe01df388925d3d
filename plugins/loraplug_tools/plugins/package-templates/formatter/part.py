"""The formatter `my-part`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from attrs import field, frozen, validators

from loraplug import Conversation, Doc, Encoded, Formatter, InputError, Run, conversation, iter_rows, shape_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@frozen
class MyPart(Formatter):
    """Conversations as plain text, `user: …` and `assistant: …`, for base models that have no chat template."""

    name = "my-part"
    max_length: Annotated[int, Doc("tokens; longer rows are left out and counted")] = field(
        default=1024, validator=validators.ge(2)
    )
    separator: Annotated[str, Doc("what stands between a speaker and what is said")] = ": "

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, run: Run, schema: str = "tokens") -> Encoded:
        """Only what the assistant says is trained, and the end of it."""
        from datasets import Dataset

        shape = shape_of(rows.column_names)
        if shape == "text":
            raise InputError("rows of text hold no conversation", where="formatter", todo='use = "text"')
        encoded: list[dict[str, list[int] | list[str]]] = []
        for index, row in enumerate(iter_rows(rows)):
            talk = conversation(row, shape, index)
            ids, labels = self._tokens(talk, tokenizer)
            if len(ids) <= self.max_length:
                encoded.append({"input_ids": ids, "labels": labels, "row": [talk.id]})
        if len(encoded) < len(rows):
            run.warn(f"my-part: {len(rows) - len(encoded)} rows are over {self.max_length} tokens and left out")
        return Encoded(Dataset.from_list(encoded), schema)

    def _tokens(self, talk: Conversation, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
        """Token ids and labels of one conversation, both of length L."""
        ids: list[int] = []
        labels: list[int] = []
        for message in talk.messages:
            if not isinstance(message.get("content"), str):
                raise InputError("a message's content is not text", where=talk.id, todo="correct the row in the data")
            # encoded apart, so that no token can lie on both sides of the border
            head = self._ids(f"{message['role']}{self.separator}", tokenizer)
            said = [*self._ids(message["content"], tokenizer), int(tokenizer.eos_token_id)]
            weight = message.get("weight", 1)
            if weight not in (0, 1):  # would be `token_weights`, see docs/hooks/loraplug_formatters.md
                raise InputError(f"a message has the weight {weight}; only 0 and 1 are supported", where=talk.id)
            trained = message["role"] == "assistant" and weight == 1
            ids += head + said
            labels += [-100] * len(head) + (said if trained else [-100] * len(said))
        if all(label == -100 for label in labels):
            raise InputError("no message is the assistant's", where=talk.id, todo="correct the row in the data")
        return ids, labels

    def _ids(self, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        # text in the data must never become a control token
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
