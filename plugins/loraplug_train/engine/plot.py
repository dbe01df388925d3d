"""The loss plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def loss_plot(metrics: Sequence[Mapping[str, float]], figures: Mapping[str, float], folder: Path, title: str) -> None:
    """Plot training loss by step, and validation loss before, during and after training, to loss.svg and loss.png."""
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
        for key in [key for key in figures if key.startswith("validation_loss_before")]:
            part = key.removeprefix("validation_loss_before")  # nothing, or `/` and the name of a data set
            label, color = f"validation_loss{part}", None if part else "#d94801"
            held: dict[float, float] = {0: figures[key]}
            held |= {line["step"]: line[label] for line in metrics if label in line}
            held.setdefault(steps[-1], figures[f"validation_loss_after{part}"])
            shown = f"validation {part[1:]}".strip()
            axes.plot(list(held), list(held.values()), ":" if part else "o--", color=color, label=shown)
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
