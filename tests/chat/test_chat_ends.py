"""A mask ends where the turn ends: every template of trl, with and without its control tokens, judged by hand.

The judge knows nothing of how masks are made. It knows what each family of templates writes at the end of a turn, which
ids inference sees, and which words of a conversation were said by whom.
"""

from __future__ import annotations

import pytest
from chat_help import CALL, TOOLS, answer, inference, merging_tokenizer, parts, said, system, templates, user

from loraplug import Conversation, InputError
from loraplug_chat.mask import Masker

ORIGINALS = [name for name in templates() if not name.endswith("_training")]
PARTS_ONLY = {"idefics3", "llava_next", "smolvlm"}
# what ends a turn in the middle, and the last one where it ends otherwise; the longest beginning of a name counts
ENDS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>",),
    "cohere2": ("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",),
    "deepseek": ("<\uff5cend▁of▁sentence\uff5c>",),
    "diffusion_gemma": ("<turn|>",),
    "gemma": ("<end_of_turn>",),
    "gemma4": ("<turn|>",),
    "glm4moe": ("<|user|>",),
    "gptoss": ("<|end|>", "<|return|>"),
    "idefics3": ("<end_of_utterance>",),
    "lfm2": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "llava_next": ("</s>",),
    "muse_glimmer": ("<|eot|>",),
    "nemotron": ("<|im_end|>",),
    "phi3": ("<|end|>", "<|end|>\n<eos>"),
    "qwen": ("<|im_end|>",),
    "smolvlm": ("<end_of_utterance>",),
}
# a second answer goes on in the turn of the first, so nothing ends the first
GOING_ON = ("diffusion_gemma", "gemma4_v5")
REFUSED = {(name, "answers in a row") for name in GOING_ON}
# what a template may write between the prompt of inference and the answer
HEADS = {"", " ", "</think>", "\n</think>\n\n", "<think>\n\n</think>\n\n", "\n<think></think>\n", " to=user<|message|>"}
HEADS |= {"<|channel|>final<|message|>"}

TALKS = {
    "one": [user("Qa."), answer("Xa.\n\n")],
    "no space": [user("Qa"), answer("Xa.")],
    "breaks": [user("Qa.\n\n"), answer("Xa.\n\n"), user("Qb?\n"), answer("Xb>\n"), user("Qc"), answer("Xc.")],
    "spaces": [user(" Qa "), answer(" Xa "), user("Qb"), answer("Xb ?\n \n")],
    "system": [system("Sa.\n\n"), user("Qa"), answer("Xa\n"), user("Qb"), answer("Xb.\n\n")],
    "system in the middle": [user("Qa"), answer("Xa.\n"), system("Sa.\n"), user("Qb"), answer("Xb.\n\n")],
    "answers in a row": [user("Qa"), answer("Xa.\n\n"), answer("Xb>\n"), user("Qb"), answer("Xc.")],
    "brackets": [user("<b>Qa</b>\n"), answer("<i>Xa</i>\n"), user("[Qb]"), answer("[Xb]")],
    "not to be trained": [user("Qa"), answer("Xa.\n\n", weight=0), user("Qb"), answer("Xb.\n\n")],
}


def ends_of(name: str, last: bool, control: bool, follower: str) -> str:
    """What ends a turn of this template."""
    ends = ENDS[max((family for family in ENDS if name.startswith(family)), key=len)]
    if name.startswith("glm4moe") and (not control or follower != "user"):
        return ""
    return ends[-1] if last else ends[0]


def judge(name: str, masker: Masker, conversation: Conversation, control: bool) -> None:
    """Raise AssertionError unless exactly what the model has to say is trained, in the ids of inference."""
    encoded, tokenizer = masker.encode(conversation), masker.tokens.tokenizer
    messages = conversation.messages
    wanted = [i for i, m in enumerate(messages) if m["role"] == "assistant" and m.get("weight", 1)]
    assert [message for message, _, _ in encoded.turns] == wanted
    text = tokenizer.decode(encoded.ids)
    if not encoded.boundary_split:
        ids = inference(tokenizer, conversation)
        assert encoded.ids[: len(ids)] == ids
    implicit_eos = len(encoded.ids) if name.startswith("glm4moe") and control else -1
    for message, first, end in encoded.turns:
        end += end == implicit_eos - 1
        trained = encoded.ids[first:end]
        turn, content = tokenizer.decode(trained), messages[message]["content"]
        if isinstance(content, list):
            content = content[0]["text"]
        assert trained == tokenizer(turn, add_special_tokens=False)["input_ids"]
        stripped = {content, content.strip(), content.lstrip("\n"), content.rstrip()}
        said_here = max((written for written in stripped if written in text), key=len)
        assert said_here in turn, (said_here, turn)
        head, _, tail = turn.partition(said_here)
        assert head in HEADS, turn
        follower = messages[message + 1]["role"] if message + 1 < len(messages) else "user"
        assert tail == ends_of(name, message == len(messages) - 1, control, follower), turn
        prompt = inference(tokenizer, conversation, message, prompt=True)
        if encoded.same_prompts or (message == wanted[0] and text.startswith(tokenizer.decode(prompt))):
            assert encoded.ids[:first] == prompt
    assert sum(map(bool, encoded.trained)) == sum(end - first for _, first, end in encoded.turns) + (implicit_eos > 0)


@pytest.mark.parametrize("control", [True, False], ids=["control", "text"])
@pytest.mark.parametrize("name", ORIGINALS)
def test_every_template_trains_its_turns_and_nothing_else(name: str, control: bool) -> None:
    """Every answer with its end, no header, in the ids of inference; what the template itself refuses is left out."""
    masker = Masker.of(merging_tokenizer(templates()[name], control))
    judged = 0
    for title, messages in TALKS.items():
        if (name, title) in REFUSED:
            with pytest.raises(InputError, match="cannot verify which tokens belong to turn 1"):
                judge(name, masker, Conversation(title, messages), control)
            continue
        conversation = Conversation(title, messages)
        if name in PARTS_ONLY:
            conversation = parts(conversation)
        try:
            judge(name, masker, conversation, control)
        except InputError as error:
            assert "the chat template refuses it" in str(error), title
        else:
            judged += 1
    assert judged >= 6


COMMAND = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}"
    "<|END_RESPONSE|>{% else %}<|START_OF_TURN_TOKEN|><|{{ m.role | upper }}_TOKEN|>{{ m.content }}{% endif %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
)


@pytest.mark.parametrize("control", [True, False], ids=["control", "text"])
@pytest.mark.parametrize("title", [title for title in TALKS if title != "answers in a row"])
def test_a_header_behind_every_answer_is_not_trained(title: str, control: bool) -> None:
    """Cohere's command templates write the header of a next answer at the end, whatever comes."""
    tokenizer = merging_tokenizer(COMMAND, control)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|USER_TOKEN|>", "<|SYSTEM_TOKEN|>"] * control})
    encoded = Masker.of(tokenizer).encode(Conversation(title, TALKS[title]))
    answers = [m["content"] for m in TALKS[title] if m["role"] == "assistant" and m.get("weight", 1)]
    end = "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert said(tokenizer, encoded) == [f"<|START_RESPONSE|>{content}{end}" for content in answers]
    assert encoded.stops is control


def test_a_header_behind_answers_in_a_row() -> None:
    """Where the text up to an answer is the beginning of the whole, header included."""
    tokenizer = merging_tokenizer(COMMAND)
    encoded = Masker.of(tokenizer).encode(Conversation("row", TALKS["answers in a row"]))
    assert all(text.endswith("<|END_OF_TURN_TOKEN|>") for text in said(tokenizer, encoded))
    assert len(said(tokenizer, encoded)) == 3


@pytest.mark.parametrize("control", [True, False], ids=["control", "text"])
@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
def test_an_end_behind_a_line_break_is_trained(flags: dict[str, bool], control: bool) -> None:
    """`\n<|end|>\n` behind an answer, also where the token takes white space in."""
    from transformers import AddedToken

    template = (
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '\n<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    tokenizer = merging_tokenizer(template, control=False)
    if control:
        made = [AddedToken(text, special=True, **flags) for text in ("<|end|>", "<|user|>", "<|assistant|>")]
        tokenizer.add_special_tokens({"additional_special_tokens": made})
    talk = Conversation("row", [user("Qa."), answer("Xa."), user("Qb."), answer("Xb.\n\n")])
    encoded = Masker.of(tokenizer).encode(talk)
    first, second = said(tokenizer, encoded)
    assert first.startswith("Xa.") and second.startswith("Xb.")
    assert first.endswith("<|end|>") and second.endswith("<|end|>")
    if control:
        assert encoded.stops and encoded.ids == inference(tokenizer, talk)


def test_an_answer_keeps_its_last_characters_without_control_tokens() -> None:
    """A token that reaches from an answer into the template's text is cut at the end of the turn."""
    template = (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    tokenizer = merging_tokenizer(template)
    talk = Conversation("row", [user("Qa."), answer("Xa."), user("Qb."), answer("Xb?")])
    encoded = Masker.of(tokenizer).encode(talk)
    assert said(tokenizer, encoded) == ["Xa.", "Xb?"]
    assert encoded.boundary_split and not encoded.same_prompts and not encoded.stops
    assert tokenizer.decode(encoded.ids) == tokenizer.decode(inference(tokenizer, talk))


CALLING = [name for name in ORIGINALS if name.startswith(("qwen3", "glm4moe", "gptoss", "nemotron", "gemma4", "muse"))]


@pytest.mark.parametrize("name", CALLING)
def test_calls_end_their_turn(name: str) -> None:
    """A call with its end is trained, nothing of its result or of a header; then the answer."""
    tokenizer = merging_tokenizer(templates()[name])
    result = {"role": "tool", "name": "search", "tool_call_id": "abc123def", "content": "Ra.\n\n"}
    talk = Conversation("row", [user("Qa."), answer("", tool_calls=[CALL]), result, answer("Xa.")], TOOLS)
    first, *rest = said(tokenizer, Masker.of(tokenizer).encode(talk))
    everything = "".join([first, *rest])
    assert "two  words" in first and "Ra." not in everything and "Qa." not in everything
    assert "Xa." in everything
    assert everything.endswith(ends_of(name, True, True, "user"))
    header = ("<|im_start|>", "<|start|>tool", "<|start|>functions", "<|turn>user", "<tool_response>", "<|user|>\n")
    assert not any(part in everything for part in header)
