"""The sandbox for untrusted code and its tests: isolated, with limits, restored after each run."""

from loraplug_swe.sandbox.commands import CommandReport, ReportedCommands
from loraplug_swe.sandbox.controls import Controls
from loraplug_swe.sandbox.limits import Limits
from loraplug_swe.sandbox.sandbox import Sandbox

__all__ = ["CommandReport", "Controls", "Limits", "ReportedCommands", "Sandbox"]
