"""The finding of `loraplug doctor` on the hub: its address, offline mode, and whether a token is set."""

from __future__ import annotations

import os
from collections.abc import Iterator

from loraplug import Finding, Run

_TRUE = ("1", "on", "yes", "true")


def hub_login(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Report which token would be sent, never the token itself; uses no network."""
    from huggingface_hub import constants, get_token

    where = constants.ENDPOINT
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        yield Finding("hub", f"HF_HUB_OFFLINE is set: {where} is not contacted, only cached models are available")
    elif get_token():
        kind = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token of an earlier `hf auth login`"
        yield Finding("hub", f"{where}, with {kind}")
    else:
        todo = "`hf auth login`, or HF_TOKEN in the environment or .env, for those and for the exporter `hub`"
        yield Finding("hub", f"{where}, no token: private and gated models cannot be read", "ok", todo)
