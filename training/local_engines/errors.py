"""What can go wrong with an engine of our own; each message says what to do."""


class LocalEngineError(RuntimeError):
    """A local engine cannot be installed or started."""


class UnsupportedMachineError(LocalEngineError):
    """The engines' CPU wheels do not fit this machine or interpreter."""


class InstallError(LocalEngineError):
    """An environment or the model could not be built."""


class EngineStartError(LocalEngineError):
    """The engine was not ready in time or could not be started; carries the end of its log."""


class EngineDiedError(EngineStartError):
    """The engine ended before it was ready."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
