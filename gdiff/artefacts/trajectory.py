"""The first samples on their way, as a moving picture."""

from gdiff import figures
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.experiment import Experiment
from gdiff.figures.trajectory import spread_of, telling
from gdiff.prepared import Prepared
from gdiff.store.outputs import RunFolder
from gdiff.trajectory import States

TRAJECTORY = "trajectory.gif"
_FRAMES = 32


class Trajectory(Artefact):
    """Made while sampling: a complete run cannot have it made later."""

    phase = "trajectory"
    is_measure = False
    is_late = False

    def is_wanted(self, experiment: Experiment) -> bool:
        """If it is asked for."""
        return experiment.trajectory

    def states(self, prepared: Prepared) -> States:
        """Of the samples that the picture shows, where they change for the eye."""
        count = min(prepared.experiment.picture_samples, prepared.batch_size)
        return States(telling(prepared.grid, spread_of(prepared.dataset), _FRAMES), count)

    def keep(self, prepared: Prepared, folder: RunFolder, states: States) -> None:
        """Write the frames."""
        with prepared.clock.phase(self.phase):
            frames, sigma = states.stacked(), prepared.grid[states.stops]
            gif = figures.trajectory_gif(frames, prepared.dataset, sigma, states.count)
            folder.write_bytes(TRAJECTORY, gif)

    def make(self, run: Sampled) -> dict[str, float]:
        """There is nothing left to do."""
        return {}
