"""The emulated engine's tokeniser: four bytes of text are a token. Enough for counts and shared prefixes."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from training.lengths import Turn, content_text

VOCABULARY: Final = 49_152

TokenIds = npt.NDArray[np.uint32]


def render(turns: Iterable[Turn]) -> str:
    """The prompt that a chat template would make of the conversation."""
    body = "".join(f"<|{turn.role}|>\n{content_text(turn.content)}</s>\n" for turn in turns)
    return f"{body}<|assistant|>\n"


def tokenize(text: str) -> TokenIds:
    """Token ids of a text; at least one."""
    raw = text.encode("utf-8", "surrogatepass")
    padded = raw.ljust(max(4, -(-len(raw) // 4) * 4), b"\0")
    return np.frombuffer(padded, dtype="<u4") % np.uint32(VOCABULARY)


def block_hashes(ids: TokenIds | Sequence[int], block_size: int, salt: str) -> tuple[int, ...]:
    """One hash per full block, each covering all tokens before it; `salt` keeps caches apart."""
    raw = np.asarray(ids, dtype="<u4").tobytes()
    width = 4 * block_size
    hashes: list[int] = []
    chain = hash(salt)
    for start in range(0, len(raw) - width + 1, width):
        chain = hash((chain, raw[start : start + width]))
        hashes.append(chain)
    return tuple(hashes)
