"""The engine model: continuous batching in virtual time, for the replay and for the emulated engine."""

from training.engine.model import EngineModel
from training.engine.types import Event, EventKind, Iteration, QueueFullError, Sequence
from training.engine.waiting import SchedulingPolicy

__all__ = ["EngineModel", "Event", "EventKind", "Iteration", "QueueFullError", "SchedulingPolicy", "Sequence"]
