"""An artifact tried in a child process first: a damaged LightGBM model can kill whoever parses it."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from predictor.artifact import load_artifact
from predictor.errors import PredictorError, TrialError, TrialUnfinishedError

_PATIENCE_S: Final = 30.0
_LONGEST_REASON: Final = 500
_NICENESS: Final = 10
_REFUSED: Final = 3


def try_artifact(
    directory: Path,
    patience_s: float = _PATIENCE_S,
    started: Callable[[subprocess.Popen[bytes]], object] = lambda _: None,
) -> None:
    """Load an artifact and run its self-test in a child; takes a second, so call it off the event loop.

    `started` is given the child, for whoever may not want to wait for its end. Raises TrialError where the child
    crashed or refused the artifact, of it TrialUnfinishedError where it could not start or took longer than
    `patience_s`.
    """
    # -P: where serving was started there may be folders with the names of our packages.
    command = [sys.executable, "-P", "-m", "predictor.trial", str(directory)]
    try:
        status, said = _run(command, patience_s, started)
    except subprocess.TimeoutExpired as error:
        raise TrialUnfinishedError(directory, f"its trial took longer than {patience_s:g} s") from error
    except OSError as error:
        raise TrialUnfinishedError(directory, f"its trial could not start: {error.strerror}") from error
    if status == 0:
        return
    last = (said.decode("utf-8", "replace").strip().splitlines() or ["no word"])[-1]
    if status == _REFUSED:
        raise TrialError(directory, last[:_LONGEST_REASON])
    ended = f"signal {-status}" if status < 0 else f"status {status}"
    raise TrialError(directory, f"it killed its trial ({ended}): {last[:_LONGEST_REASON]}")


def _run(
    command: list[str], patience_s: float, started: Callable[[subprocess.Popen[bytes]], object]
) -> tuple[int, bytes]:
    """Exit status and stderr; never leaves the child running."""
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=pipe) as child:
        started(child)
        try:
            _, said = child.communicate(timeout=patience_s)
        except BaseException:
            child.kill()
            raise
    return child.returncode, said


def main() -> int:
    """The child: 0 where the artifact named on the command line loads and passes its self-test."""
    parser = argparse.ArgumentParser(prog="python -m predictor.trial", description=__doc__)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    os.nice(_NICENESS)
    try:
        load_artifact(directory)
    except PredictorError as error:
        reason = getattr(error, "reason", str(error))
        sys.stderr.write(f"{reason}\n")
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
