"""The error of an approximate score, on the run's own trajectories."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from gdiff import figures
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.experiment import Experiment
from gdiff.metrics import SCORE_ERRORS, SCORE_VIOLATIONS
from gdiff.metrics.chunks import evenly
from gdiff.metrics.score_error import CURVE, ScoreErrors, affordable_queries, score_errors
from gdiff.parallel import processes
from gdiff.prepared import Prepared
from gdiff.progress import track
from gdiff.store import outputs
from gdiff.store.outputs import RunFolder
from gdiff.trajectory import Queries, States

QUERIES, CURVE_FILE, PLOT = "queries.npz", "score_error.csv", "score_error.png"
_LEVELS = 16
_OF_ALL_ROWS = 4


class ScoreError(Artefact):
    """Compares the denoiser with the exact one at states of the first samples.

    Where the score is a subset's, and not of the posterior, with its own on all rows.
    """

    phase = "score error"
    files = (CURVE_FILE, PLOT)
    is_shared = True
    more_names = SCORE_VIOLATIONS

    def is_wanted(self, experiment: Experiment) -> bool:
        """Unless the score is exact or the metrics say otherwise."""
        return experiment.measures_score

    def names(self, experiment: Experiment) -> Sequence[str]:
        """Of errors; bounds need a score that has some."""
        return SCORE_ERRORS

    def states(self, prepared: Prepared) -> States:
        """As many as can be afforded, at up to 16 levels."""
        score, dataset = prepared.experiment.score, prepared.dataset
        products = score.products(dataset.dim)
        # A score on all rows takes several times what one on a subset does.
        share = prepared.measuring / (1 if score.of_all_rows is None else _OF_ALL_ROWS)
        affordable = affordable_queries(dataset, products, share)
        levels = evenly(len(prepared.grid) - 1, min(_LEVELS, affordable))
        asked = prepared.experiment.metrics.score_queries
        each = max(1, affordable // max(1, len(levels)))
        return States(levels, min(asked, each, prepared.batch_size))

    def keep(self, prepared: Prepared, folder: RunFolder, states: States) -> None:
        """Write the queries."""
        found = Queries(states.stacked(), prepared.grid[states.stops])
        folder.write_bytes(QUERIES, found.to_bytes())

    def make(self, run: Sampled) -> dict[str, float]:
        """Ask the denoiser on all devices, and compare in the first process."""
        prepared, folder = run.prepared, run.folder
        queries, found = self._queries(run), []
        asked = queries.z.shape[0] * queries.z.shape[1]
        run.announce("error of the score", asked, "metrics.score_error=never")
        # One part, or one a class.
        for part, places in prepared.parts(np.arange(queries.z.shape[1])):
            own, denoiser = queries._replace(z=queries.z[:, places]), part.denoiser
            with prepared.clock.phase(self.phase):
                answers = own.ask(denoiser, prepared.mesh)
                full = part.of_all_rows
                wanted = None if full is None else own.ask(full, prepared.mesh).mean
            if processes.is_first():
                with processes.first_only(), prepared.clock.phase(self.phase):
                    found.append(score_errors(part.dataset, own.z, own.sigma, answers, wanted))
        if not processes.is_first():
            return {}
        with processes.first_only(), prepared.clock.phase(self.phase):
            errors = ScoreErrors.joined(found)
            curve = errors.curve()
            outputs.write_csv(folder.path / CURVE_FILE, CURVE, curve)
            with run.failed.spare(f"{self.phase}: {PLOT}"):
                points, look = len(prepared.dataset), {"title": prepared.title}
                draw = partial(figures.score_error, curve, points, **look)
                folder.write_plot(PLOT, draw, prepared.experiment.plot_kinds)
        return errors.metrics()

    def _queries(self, run: Sampled) -> Queries:
        """Those that sampling left; where they are too few the first batch is drawn again."""
        prepared, folder = run.prepared, run.folder
        states = self.states(prepared)
        known = (prepared.grid[states.stops], prepared.dataset.event_shape)
        read = partial(processes.broadcast, partial(Queries.read, folder.path / QUERIES, *known))
        found = read()
        if found is None or found.z.shape[1] < states.count:
            # Those of a finished run are the same ones again.
            with track("sampling the first batch again", prepared.steps.count, "steps") as progress:
                prepared.batches.draw(np.arange(prepared.batch_size), [states], progress.reach)
            self.keep(prepared, folder, states)
            found = read()
        return found._replace(z=found.z[:, : states.count])
