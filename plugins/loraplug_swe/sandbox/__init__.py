"""Where other people's code and tests run: shut in by the system, limited, and put back after each run."""

from loraplug_swe.sandbox.commands import CommandReport, ReportedCommands
from loraplug_swe.sandbox.controls import Controls
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

__all__ = ["CommandReport", "Controls", "Limits", "ReportedCommands", "Sandbox"]
