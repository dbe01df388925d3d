"""The diagnostic `proxy` of `loraplug doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator

from loraplug import Finding, Run

VARIABLE = "HTTPS_PROXY"


def proxy(run: Run) -> Iterator[Finding]:
    """Report a proxy between this machine and the hub."""
    address = os.environ.get(VARIABLE)
    if address is None:
        yield Finding("proxy", "none is set, downloads are direct")
    elif "://" not in address:
        yield Finding("proxy", f"{VARIABLE} is {address}, which is no URL", "error", "write it as http://HOST:PORT")
    else:
        yield Finding("proxy", f"downloads go through {address}", "warning", f"unset {VARIABLE} if they fail")
