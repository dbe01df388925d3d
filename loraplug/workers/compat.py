"""What of Ray's inner parts is used, in one place. `tests/workers/test_workers_compat.py` holds it."""

from typing import Any


def at_address(host: str) -> dict[str, Any]:
    """Keywords for `ray.init` by which this process joins the cluster under an address of this machine.

    Ray looks for a node that has this machine's outer address, and finds none where the nodes were started on
    loopback. The keyword has no public name.
    """
    return {"_node_ip_address": host}
