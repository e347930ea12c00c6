"""Everything that can go wrong with an artifact or a feature vector, in one small tree."""

from pathlib import Path


class PredictorError(Exception):
    """The root: catching it catches every error that this package raises on purpose."""


class ArtifactError(PredictorError):
    """An artifact that cannot serve. The message names the directory and what to do."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"artifact {directory}: {reason}")
        self.directory = directory
        self.reason = reason


class HashMismatchError(ArtifactError):
    """A file whose SHA-256 is not the one in metadata.json, or which is listed and missing."""


class SchemaMismatchError(ArtifactError):
    """The artifact was trained on features that this version does not compute."""

    def __init__(self, directory: Path, *, artifact_schema: str, code_schema: str) -> None:
        super().__init__(
            directory,
            f"its feature schema is {artifact_schema}, this version computes {code_schema}; "
            "train a new artifact with this version",
        )
        self.artifact_schema = artifact_schema
        self.code_schema = code_schema


class TrialError(ArtifactError):
    """The child process that tried the artifact crashed, timed out or refused it."""


class TrialUnfinishedError(TrialError):
    """The child could not start or was too slow: that says more of the machine just now than of the artifact."""
