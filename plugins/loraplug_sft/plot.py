"""The loss plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def loss_plot(metrics: Sequence[Mapping[str, float]], figures: Mapping[str, float], folder: Path, title: str) -> None:
    """Draw training loss by step, and validation loss before, on the way and after, to loss.svg and loss.png."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "loraplug", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        steps = [line["step"] for line in metrics]
        losses = [line["loss"] for line in metrics]
        axes.plot(steps, losses, color="#9ecae1", linewidth=1, label="training, each step")
        if len(losses) >= 10:
            axes.plot(steps, _smoothed(losses), color="#08519c", linewidth=2, label="training, smoothed")
        if "validation_loss_before" in figures:
            held: dict[float, float] = {0: figures["validation_loss_before"]}
            held |= {line["step"]: line["validation_loss"] for line in metrics if "validation_loss" in line}
            held.setdefault(steps[-1], figures["validation_loss_after"])
            axes.plot(list(held), list(held.values()), "o--", color="#d94801", label="validation")
        axes.set(xlabel="optimizer step", ylabel="loss (nats per trained token)", title=title, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(folder / "loss.svg", metadata={"Date": None})
        figure.savefig(folder / "loss.png", dpi=144)
        plt.close(figure)


def _smoothed(values: Sequence[float], keep: float = 0.9) -> list[float]:
    """Exponential moving average, its start corrected for bias as in Adam (Kingma and Ba 2014)."""
    average, out = 0.0, []
    for count, value in enumerate(values, 1):
        average = keep * average + (1 - keep) * value
        out.append(average / (1 - keep**count))
    return out
