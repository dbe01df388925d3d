"""How tokens are drawn where a user says nothing: as the model's generation config has it."""

from __future__ import annotations

from typing import Any

from loraplug_serve.sampling import Drawing


def own_temperature(config: Any) -> float:
    """What a model's generation config says; 0 where it does not ask for sampling."""
    if not config.do_sample:
        return 0.0
    return 1.0 if config.temperature is None else float(config.temperature)


def drawing_of(
    config: Any,
    max_tokens: int,
    seed: int,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
) -> Drawing:
    """What was asked for; None is as a generation config of transformers has it."""

    def own(given: float | None, name: str, plain: float) -> float:
        if given is not None:
            return given
        value = getattr(config, name, None)
        return plain if value is None else value

    return Drawing(
        temperature=own_temperature(config) if temperature is None else temperature,
        top_p=float(own(top_p, "top_p", 1.0)),
        max_tokens=max_tokens,
        seed=seed,
        top_k=int(own(top_k, "top_k", 0)),
        min_p=float(own(min_p, "min_p", 0.0)),
        repetition_penalty=float(own(repetition_penalty, "repetition_penalty", 1.0)),
    )
