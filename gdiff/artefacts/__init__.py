"""What a run leaves besides its samples."""

from gdiff.artefacts.base import Artefact, Sampled
from gdiff.artefacts.budget import Budget
from gdiff.artefacts.distances import Distances
from gdiff.artefacts.picture import Picture
from gdiff.artefacts.score_error import ScoreError
from gdiff.artefacts.trajectory import Trajectory
from gdiff.prepared import Experiment

ALL: tuple[Artefact, ...] = (Trajectory(), Picture(), Distances(), ScoreError(), Budget())


def wanted(experiment: Experiment) -> list[Artefact]:
    """Those that an experiment asks for."""
    return [artefact for artefact in ALL if artefact.is_wanted(experiment)]


__all__ = ["ALL", "Artefact", "Sampled", "wanted"]
