"""The codes type: what an encoder returns and a decoder takes."""

from sae.codes.codes import Codes, DenseCodes, as_codes

__all__ = ["Codes", "DenseCodes", "as_codes"]
