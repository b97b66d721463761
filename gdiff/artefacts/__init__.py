"""What a run leaves besides its samples."""

from gdiff.artefacts.base import Artefact, Sampled
from gdiff.artefacts.bits import BitsPerDim
from gdiff.artefacts.budget import Budget
from gdiff.artefacts.distances import Distances
from gdiff.artefacts.neighbours import Neighbours
from gdiff.artefacts.picture import Picture
from gdiff.artefacts.score_error import ScoreError
from gdiff.artefacts.trajectory import Trajectory
from gdiff.errors import require, require_one_of
from gdiff.experiment import Experiment
from gdiff.prepared import ACCOUNT

ALL: tuple[Artefact, ...] = (
    *(Trajectory(), Picture(), Neighbours(), Distances(), ScoreError(), Budget(), BitsPerDim()),
)


def wanted(experiment: Experiment) -> list[Artefact]:
    """Those that an experiment asks for."""
    return [artefact for artefact in ALL if artefact.is_wanted(experiment)]


def require_objective(experiment: Experiment) -> None:
    """Raise `UserError` if a run cannot have the metric that a sweep should minimise."""
    name, steps = experiment.objective, experiment.blocks().steps
    if name is None:
        return
    lacking = {}
    if experiment.sampler.block_size == 1:
        lacking["speedup_in_rounds"] = "needs another sampler.block_size than 1"
    if steps.clip is None:
        lacking["clip_rate"] = "needs a sampler that clips, such as li_cai"
    names = list(ACCOUNT)
    for artefact in wanted(experiment):
        names += artefact.names(experiment)
        lacking |= artefact.lacking(experiment)
    require_one_of("objective", name, names)
    require(name not in lacking, f"objective={name} {lacking.get(name)}")


__all__ = ["ALL", "Artefact", "Sampled", "require_objective", "wanted"]
