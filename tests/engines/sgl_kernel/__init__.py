"""Stands in for SGLang's compiled CPU kernels, which no package registry carries, in plain torch: for tests only.

SGLang itself falls back to torch where its kernels' operators are not registered. By name it imports, for a
dense model without speculative decoding, only what is written out here; every other name can be imported and
raises when it is called.
"""

from collections.abc import Callable
from typing import NoReturn

import torch

__version__ = "0.4.9"
"""The version that SGLang 0.5.23 asks for."""


def assign_req_to_token_pool_cpu(
    req_pool_indices: torch.Tensor,
    req_to_token: torch.Tensor,
    start_offset: torch.Tensor,
    end_offset: torch.Tensor,
    out_cache_loc: torch.Tensor,
    pool_len: int,
) -> None:
    """Write each request's new KV slots into its row: `req_to_token[index[i], start[i]:end[i]]`, in place.

    Shapes: `req_to_token` (rows, pool_len); the offsets and indices (batch,); `out_cache_loc` is flat, the
    requests' slots one after the other (sglang/srt/mem_cache/allocation.py, assign_req_to_token_pool).
    """
    counts = (end_offset - start_offset).to(torch.int64)
    first = torch.cumsum(counts, 0) - counts
    total = int(counts.sum())
    columns = torch.arange(total) + torch.repeat_interleave(start_offset - first, counts)
    rows = torch.repeat_interleave(req_pool_indices, counts)
    req_to_token[rows, columns] = out_cache_loc[:total].to(req_to_token.dtype)


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"the stand-in for SGLang's kernels has no {name}")

    return missing
