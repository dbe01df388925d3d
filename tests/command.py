"""What tests of the command line share; a module of its own, since several folders have a conftest."""

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
"""The `loraplug` fixture: words of the command line in, the finished process out."""
