"""How activations are kept: as floating point, or as 8 bits with a scale for each row.

Shapes: N rows, D dimensions of an activation.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

StoredType = Literal["float32", "float16", "bfloat16", "int8", "float8"]

TORCH: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "float8": torch.float8_e4m3fn,
}
SCALE = "/scale"  # behind a hook point's name: the column of its rows' scales
NOT_IN_PARQUET = ("bfloat16", "float8")
_LARGEST = {"int8": 127.0, "float8": 448.0}  # 448: of float8 e4m3 (Micikevicius et al. 2022, "FP8 formats", table 1)
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def is_scaled(dtype: str) -> bool:
    """Whether rows of this type have a scale beside them."""
    return dtype in _LARGEST


def row_bytes(dtype: str, width: int) -> int:
    """Bytes of one row of one hook point, its scale included."""
    return TORCH[dtype].itemsize * width + (4 if is_scaled(dtype) else 0)


def encode(x_ND: Tensor, dtype: str) -> tuple[Tensor, Tensor | None]:
    """Rows as they are stored, and their scales [N] where the type has some.

    An 8-bit row is x / scale with scale = max |x| / 127 (int8, rounded to the nearest) or / 448 (float8 e4m3).
    """
    if not is_scaled(dtype):
        return x_ND.to(TORCH[dtype]), None
    x_ND = x_ND.float()
    scale_N = (x_ND.abs().amax(dim=-1) / _LARGEST[dtype]).clamp_min(torch.finfo(torch.float32).tiny)
    unit_ND = x_ND / scale_N[:, None]
    return (unit_ND.round().to(torch.int8) if dtype == "int8" else unit_ND.to(torch.float8_e4m3fn)), scale_N


def decode(stored_ND: Tensor, scale_N: Tensor | None) -> Tensor:
    """Rows as they were, in the stored type, or in float32 where it is 8 bits with a scale."""
    return stored_ND if scale_N is None else stored_ND.float() * scale_N[:, None]


def bits(x: Tensor) -> Tensor:
    """The same bytes as integers: not every operation knows every 8-bit and 16-bit type."""
    return x.view(_BITS[x.element_size()])
