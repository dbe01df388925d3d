"""Work that falls into independent items, spread over threads, processes, or the machines of a Ray cluster."""

from loraplug.workers.crew import Crew
from loraplug.workers.job import Job
from loraplug.workers.workers import Workers

__all__ = ["Crew", "Job", "Workers"]
