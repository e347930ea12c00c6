"""A progress bar on stderr, where that is a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Steps:
    """Named stages of a long job, each with its own bar."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def stage(self, name: str, total: int | None = None) -> Callable[[], None]:
        """Start a stage; call what it returns once per unit done."""
        task = self._bars.add_task(name, total=total)

        def advance() -> None:
            self._bars.advance(task)

        return advance


@contextmanager
def show_progress() -> Iterator[Steps]:
    """Bars that vanish when the work is done; nothing at all where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Steps(bars)
