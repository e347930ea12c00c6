"""What the extractor reads of a request body: bounded pieces of text and the sizes of the rest.

Whatever the prompt's length, only a head and a tail of each piece are copied, and only the first and last
messages of a conversation are visited, so that the cost of a request is bounded.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec

from predictor.request import Message, Part, RequestBody

FOCUS_HEAD_CHARS: Final = 600
FOCUS_TAIL_CHARS: Final = 900
SYSTEM_HEAD_CHARS: Final = 200
CONTEXT_HEAD_CHARS: Final = 120
MAX_MESSAGES_READ: Final = 64
MAX_PARTS_READ: Final = 32

_T = TypeVar("_T")
_USER_ROLES: Final = frozenset({"user", "human"})
_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
_TOOL_ROLES: Final = frozenset({"tool", "function"})
_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text", "tool_result"})


class PromptView(msgspec.Struct):
    """The request's text in three bounded pieces, and sizes in characters of all that was sent.

    `focus` is the last user turn (or the whole prompt of a completion), `context` the opening of the user turn
    before it, `system` the opening of the system prompt. `token_ids` counts a prompt given as ids.
    """

    focus: str = ""
    context: str = ""
    system: str = ""
    focus_chars: int = 0
    system_chars: int = 0
    history_chars: int = 0
    last_assistant_chars: int = -1
    assistant_chars: int = 0
    turns: int = 0
    user_turns: int = 0
    assistant_turns: int = 0
    tool_turns: int = 0
    tool_calls: int = 0
    images: int = 0
    other_media: int = 0
    token_ids: int = 0
    prompts: int = 1
    ends_with_user: bool = True


def read_view(body: RequestBody) -> PromptView:
    """Read a body of any dialect; never raises for one that `decode_body` accepted."""
    view = PromptView()
    if body.messages is not None:
        _read_messages(view, body.messages)
    elif body.input is not None:
        _read_input(view, body.input)
    else:
        _read_prompt(view, body.prompt if body.prompt is not None else body.input_ids)
        if isinstance(body.text, (str, list)) and not view.focus:
            _read_prompt(view, body.text)
    for system in (body.system, body.instructions):
        if system is not None:
            _add_system(view, *_flatten(view, system))
    return view


def _read_input(view: PromptView, given: str | list[str | Message]) -> None:
    if isinstance(given, str):
        _set_focus(view, given, len(given))
    else:
        _read_messages(view, [m if isinstance(m, Message) else Message("user", m) for m in _ends(given)])


def _read_messages(view: PromptView, messages: Sequence[Message]) -> None:
    view.turns = len(messages)
    user_texts: list[tuple[str, int]] = []
    visited = _ends(messages)
    for message in visited:
        text, chars = _flatten(view, message.content)
        _count_message(view, message, text, chars, user_texts)
    if user_texts:
        _set_focus(view, *user_texts[-1])
        view.history_chars = sum(chars for _, chars in user_texts[:-1]) + view.assistant_chars
    if len(user_texts) > 1:
        view.context = user_texts[-2][0][:CONTEXT_HEAD_CHARS]
    view.ends_with_user = not visited or visited[-1].role in _USER_ROLES


def _count_message(
    view: PromptView, message: Message, text: str, chars: int, user_texts: list[tuple[str, int]]
) -> None:
    view.tool_calls += len(message.tool_calls or ())
    if message.role in _SYSTEM_ROLES:
        _add_system(view, text, chars)
    elif message.role in _TOOL_ROLES or message.type == "function_call_output":
        view.tool_turns += 1
        view.history_chars += chars
    elif message.role == "assistant":
        view.assistant_turns += 1
        view.assistant_chars += chars
        view.last_assistant_chars = chars
    else:
        view.user_turns += 1
        user_texts.append((text, chars))


def _read_prompt(view: PromptView, prompt: Any) -> None:
    """`prompt`, `input_ids` or SGLang's `text`: text, texts, token ids, or lists of them."""
    if isinstance(prompt, str):
        _set_focus(view, prompt, len(prompt))
    elif isinstance(prompt, list) and prompt:
        first = prompt[0]
        if isinstance(first, int):
            view.token_ids = len(prompt)
            return
        view.prompts = len(prompt)
        if isinstance(first, str):
            _set_focus(view, first, len(first))
        elif isinstance(first, list):
            view.token_ids = len(first)


def _set_focus(view: PromptView, text: str, chars: int) -> None:
    view.focus = bounded(text, FOCUS_HEAD_CHARS, FOCUS_TAIL_CHARS)
    view.focus_chars = chars


def _add_system(view: PromptView, text: str, chars: int) -> None:
    if not view.system:
        view.system = text[:SYSTEM_HEAD_CHARS]
    view.system_chars += chars


def _flatten(view: PromptView, content: str | Sequence[str | Part] | None) -> tuple[str, int]:
    """The text of a message's content and its size; media parts are counted on the way."""
    if content is None:
        return "", 0
    if isinstance(content, str):
        return content, len(content)
    texts = [text for part in _ends(content, MAX_PARTS_READ) if (text := _part_text(view, part))]
    chars = sum(map(len, texts))
    if len(texts) == 1:
        return texts[0], chars
    return "\n".join(bounded(text, FOCUS_HEAD_CHARS, FOCUS_TAIL_CHARS) for text in texts), chars


def _part_text(view: PromptView, part: str | Part) -> str:
    if isinstance(part, str):
        return part
    if part.type in _TEXT_PARTS:
        return part.text or ""
    if "image" in part.type:
        view.images += 1
    elif part.type not in ("tool_use", "thinking", "reasoning"):
        view.other_media += 1
    return part.text or ""


def bounded(text: str, head: int, tail: int) -> str:
    """The text itself, or its first `head` and last `tail` characters where it is longer than both."""
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n{text[-tail:]}"


def _ends(items: Sequence[_T], limit: int = MAX_MESSAGES_READ) -> Sequence[_T]:
    """All items, or the first eight and the last of a long list."""
    if len(items) <= limit:
        return items
    return [*items[:8], *items[8 - limit :]]
