"""The codes type: what an encoder returns and a decoder takes."""

from sae.codes.codes import Codes, DenseCodes, as_codes, in_full
from sae.codes.sparse import SparseCodes, on_support

__all__ = ["Codes", "DenseCodes", "SparseCodes", "as_codes", "in_full", "on_support"]
