"""The values of some options; in a module of their own, so that listing formatters imports nothing heavy."""

from typing import Literal

TrainOn = Literal["assistant", "last-assistant", "all"]
Policy = Literal["truncate-left", "truncate-right", "drop", "error"]
TextPolicy = Literal["auto", "split", "truncate-left", "truncate-right", "drop", "error"]
