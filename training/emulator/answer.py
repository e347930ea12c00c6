"""One HTTP request's answer while the engine computes it."""

import asyncio
from collections.abc import Callable, Mapping

from training.emulator.choice import Choice
from training.emulator.shapes import AnswerShape
from training.emulator.stream import EventStream
from training.engine.types import Event


class Answer:
    """Collects the tokens of an answer's choices, by sequence id, and streams them if there is a stream.

    `running` counts the choices that have not finished; `done` resolves with the last one. `on_choice_end` sees
    each, for the metrics.
    """

    def __init__(
        self,
        choices: Mapping[int, Choice],
        shape: AnswerShape,
        stream: EventStream | None,
        on_choice_end: Callable[[Choice], None],
    ) -> None:
        self.choices = choices
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._shape = shape
        self._stream = stream
        self._on_choice_end = on_choice_end
        self.running = len(choices)
        self._begun = False

    def on_token(self, sequence_id: int, now_s: float) -> None:
        """Count the token and send it; the last one waits for `on_end`, which follows at once."""
        choice = self.choices[sequence_id]
        choice.emitted += 1
        choice.last_s = now_s
        if choice.emitted == 1:
            choice.first_s = now_s
            self._begin()
        if self._stream is not None and choice.emitted < choice.tokens:
            self._stream.send_token(self._shape.token(choice))

    def _begin(self) -> None:
        """The first token of all: every choice begins, though the others' tokens may be far off."""
        if self._stream is not None and not self._begun:
            for choice in self.choices.values():
                self._stream.send(self._shape.first(choice))
        self._begun = True

    def on_end(self, event: Event) -> None:
        """Close the choice, and the answer with the last one."""
        choice = self.choices[event.sequence_id]
        choice.queue_s = event.queue_s
        choice.cached_tokens = event.cached_tokens
        self.running -= 1
        if self._stream is not None:
            self._stream.send_token(self._shape.last(choice, others_run=self.running > 0))
        self._on_choice_end(choice)
        if not self.running and not self.done.done():
            self.done.set_result(None)
