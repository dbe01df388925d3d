"""What `loraplug doctor` says of the hub: where it is, whether it is asked at all, and whether a token is there."""

from __future__ import annotations

import os
from collections.abc import Iterator

from loraplug import Finding, Run

_TRUE = ("1", "on", "yes", "true")


def hub_login(run: Run) -> Iterator[Finding]:  # noqa: ARG001
    """Tells of the token that would be sent, never the token; nothing is asked over the network."""
    from huggingface_hub import constants, get_token

    where = constants.ENDPOINT
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        yield Finding("hub", f"HF_HUB_OFFLINE is set: {where} is not asked, only what is in its cache is found")
    elif get_token():
        kind = "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the token of an earlier `hf auth login`"
        yield Finding("hub", f"{where}, with {kind}")
    else:
        todo = "`hf auth login`, or HF_TOKEN in the environment or .env, for those and for the exporter `hub`"
        yield Finding("hub", f"{where}, no token: private and gated models cannot be read", "ok", todo)
