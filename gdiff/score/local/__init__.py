"""Posteriors of single coordinates, over what the data relate to them."""

from gdiff.score.local.spec import PcaLocal

__all__ = ["PcaLocal"]
