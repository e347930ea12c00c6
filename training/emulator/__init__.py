"""An emulated vLLM server: real HTTP, real queueing, recorded answer lengths, filler words."""

from training.emulator.engine import EmulatedEngine
from training.emulator.faults import Faults, Garbage, UsageLie
from training.emulator.inference import EmulatorConfig

__all__ = ["EmulatedEngine", "EmulatorConfig", "Faults", "Garbage", "UsageLie"]
