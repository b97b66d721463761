"""The score by a golden subset."""

from gdiff.score.golden.spec.spec import Golden

__all__ = ["Golden"]
