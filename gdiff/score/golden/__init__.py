"""The score by a golden subset."""

from gdiff.score.golden.spec import Golden

__all__ = ["Golden"]
