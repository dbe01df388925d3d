"""What `loraplug_bnb.compat` relies on in bitsandbytes: a failure says what another version has changed."""

from __future__ import annotations

import torch

from loraplug_bnb.compat import keep_layout_with_gradients

SEE = "see loraplug_bnb/compat.py"


def test_a_layer_keeps_its_layout_and_its_gradients() -> None:
    """Measured before it is trained, as with validation rows; without the switch it may be repacked for good."""
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    layer = Linear4bit(64, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    layer.load_state_dict({"weight": torch.randn(64, 64)})
    layer = layer.to("cpu")
    assert hasattr(layer, "support_avx512bf16_for_cpu"), f"the switch has another name, or is needless now: {SEE}"
    keep_layout_with_gradients(layer)
    before = layer.weight.data.clone()
    with torch.no_grad():
        layer.eval()(torch.randn(3, 64, dtype=torch.bfloat16))
    assert torch.equal(layer.weight.data, before), f"evaluation repacks weights all the same: {SEE}"
    x = torch.randn(3, 64, dtype=torch.bfloat16, requires_grad=True)
    layer.train()(x).sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0), SEE
