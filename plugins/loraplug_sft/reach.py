"""Which linear layers a text reaches: on one without a call or a gradient an adapter would stay as it began."""

from __future__ import annotations

from typing import Any

from attrs import Factory, frozen

_TOKENS = 8
PAST = "layers whose weight is read past them, or not at all, so that no gradient would reach an adapter"
TUPLES = "layers that give more than a tensor"


@frozen
class Reach:
    """Linear layers that an adapter would do nothing on, or break: name to why."""

    without: dict[str, str] = Factory(dict)


def reach(model: Any, layers: list[str]) -> Reach:
    """Try the layers of a base model without adapters, by a forward and backward pass over 8 tokens.

    A layer inside experts is not judged: few tokens reach few of them. A model that cannot be tried has nothing left
    out; what is wrong with it shows in training.

    Args:
        layers: names of its linear layers.
    """
    import torch

    outputs: dict[str, Any] = {}
    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_hook(_keep(outputs, name)) for name in layers]
    handles.append(model.get_input_embeddings().register_forward_hook(lambda _, __, out: out.detach().requires_grad_()))
    frozen_now = [one for one in model.parameters() if one.requires_grad]
    for parameter in frozen_now:
        parameter.requires_grad_(False)
    training, backward = model.training, True
    model.train()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            ids = torch.randint(3, model.config.get_text_config().vocab_size, (1, _TOKENS), device=model.device)
            loss = model(input_ids=ids, use_cache=False).logits.float().logsumexp(-1).sum()
            try:
                loss.backward()
            except RuntimeError:
                backward = False
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError, IndexError):
        return Reach()
    finally:
        for handle in handles:
            handle.remove()
        for parameter in frozen_now:
            parameter.requires_grad_(True)
        model.train(training)
    without = {}
    for name in layers:
        output = outputs.get(name)
        if isinstance(output, (tuple, list)):
            without[name] = TUPLES
        elif "expert" not in name and (output is None or (backward and output.grad is None)):
            without[name] = PAST
    return Reach(without)


def _keep(outputs: dict[str, Any], name: str) -> Any:
    def keep(_: Any, __: Any, output: Any) -> None:
        outputs[name] = output
        if getattr(output, "requires_grad", False):
            output.retain_grad()

    return keep
