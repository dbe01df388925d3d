"""The words that options take. On their own, so that listing the formatters need not load what carries them out."""

from typing import Literal

TrainOn = Literal["assistant", "last-assistant", "all"]
Policy = Literal["truncate-left", "truncate-right", "drop", "error"]
TextPolicy = Literal["auto", "split", "truncate-left", "truncate-right", "drop", "error"]
