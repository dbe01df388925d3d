"""An objective of pairs with all that the engine offers; run as a script it trains as one of several processes."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from attrs import field, frozen, validators

from loraplug import Doc, Encoded, Run
from loraplug_train import EngineTrainer, Objective


def pairs(count: int, seed: int = 0) -> Any:
    """Preferences: what is chosen holds low ids alone, what is rejected high ones."""
    from datasets import Dataset

    draw = random.Random(seed)
    rows = []
    for at in range(count):
        chosen = [draw.randrange(3, 60) for _ in range(draw.randint(2, 9))]
        rejected = [draw.randrange(150, 250) for _ in range(draw.randint(2, 9))]
        sides = {"chosen_ids": chosen, "chosen_labels": chosen, "rejected_ids": rejected, "rejected_labels": rejected}
        prompt = [draw.randrange(3, 250) for _ in range(draw.randint(2, 12))]
        rows.append({"prompt_ids": prompt, **sides, "row": [f"r{at}"]})
    return Dataset.from_list(rows)


@frozen
class Margin(Objective):
    """Direct preference optimisation, divided by a factor that the whole step decides."""

    schema = "pairs"
    needs_reference = True

    beta: Annotated[float, Doc("strength")] = field(default=0.1, validator=validators.gt(0))

    def fault(self, row: Mapping[str, Any]) -> str | None:
        """Sides that are the same."""
        return "both sides are the same" if row["chosen_ids"] == row["rejected_ids"] else None

    def prepare(self, step_rows: Any, model: Any) -> Any:
        """A number near 1 that every row of the step has a part in, by model and reference."""
        found = [one for row in step_rows for one in self.sequences(row)]
        apart = model.score(found) - model.score(found, reference=True)
        return 1.0 + 1e-6 * float(apart.abs().mean())

    def loss(self, model: Any, batch: Any, totals: Any, prepared: Any, reference: Any) -> Any:
        """See `Objective.loss`."""
        from torch.nn.functional import logsigmoid

        chosen, rejected = batch.sums(model.log_probs(batch) - reference).view(-1, 2).unbind(1)
        margins = self.beta * (chosen - rejected)
        batch.metrics["accuracy"] = (margins > 0).sum() / totals["rows"]
        return -logsigmoid(margins).sum() / totals["rows"] / prepared


@frozen
class MarginTrainer(Margin, EngineTrainer):
    """Preferences on the engine."""

    name = "margin"


if __name__ == "__main__":
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, outputs = sys.argv[1:]
    run = Run("both", outputs=Path(outputs))
    run.folder.mkdir(parents=True, exist_ok=True)
    trainer = MarginTrainer(samples=0, learning_rate=5e-3, batch_size=4, max_steps=6)
    trainer.placement(run)
    run.distributed.join()
    leads = run.distributed.leads
    trainer.train(
        run,
        lambda _: AutoModelForCausalLM.from_pretrained(base, dtype="float32"),
        AutoTokenizer.from_pretrained(base),
        Encoded(pairs(12), "pairs") if leads else None,
        Encoded(pairs(5, seed=9), "pairs") if leads else None,
    )
