"""Write preference rows that prefer a short answer: the first sentence of a sample answer above the whole of it.

Usage: python data/build_sample_preferences.py DEST

Made of `sample_chats`, the embedded model's own answers to everyday questions. Answers of one sentence, those that
begin with a long one, and those of several lines are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

CHATS = Path(__file__).parent / "sample_chats"
LONGEST = 240
"""Characters of a first sentence."""


def main() -> None:
    """Write a pair for each answer of several sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dest", type=Path)
    dest = parser.parse_args().dest
    lines = []
    for name in ("train.jsonl", "watch.jsonl"):
        for line in (CHATS / name).read_text(encoding="utf-8").splitlines():
            question, answer = (message["content"] for message in json.loads(line)["messages"])
            first, *rest = re.split(r"(?<=[.!?])\s+(?=[A-Z])", answer, maxsplit=1)
            if rest and len(first) <= LONGEST and "\n" not in answer:
                lines.append(json.dumps({"prompt": question, "chosen": first, "rejected": answer}, ensure_ascii=False))
    dest.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
