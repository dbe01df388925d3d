"""Requirements for running untrusted tests, checked on the machine that will run them."""

from __future__ import annotations

import shutil
from pathlib import Path

from attrs import frozen

from loraplug_swe.sandbox.sandbox import probe


@frozen
class Needs:
    """Called on a machine, returns what is missing, or None.

    Attributes:
        python: the interpreter that tests are run with; "" for that of loraplug.
        network: whether the tests may use the network.
        weak: whether they run even if the system cannot isolate them.
    """

    python: str = ""
    network: bool = False
    weak: bool = False

    def __call__(self) -> str | None:
        """See the class."""
        if shutil.which("git") is None:
            return "git is not installed; install it on every machine"
        if self.python and shutil.which(self.python) is None and not Path(self.python).exists():
            return f"there is no interpreter {self.python}; put it at the same path on every machine"
        if not self.weak and (missing := probe(self.network)):
            why = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            return f"cannot isolate other people's code ({why}); allow user namespaces there"
        return None
