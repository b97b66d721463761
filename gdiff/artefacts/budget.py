"""The divergence of the samples from the data, in nats."""

from collections.abc import Sequence
from functools import partial

from gdiff import figures
from gdiff.artefacts.base import Artefact, Sampled
from gdiff.budget.terms import METRICS, SPENT, budget, is_ancestral
from gdiff.experiment import Experiment
from gdiff.parallel import processes
from gdiff.store import outputs
from gdiff.store.outputs import RUN

BUDGET, PLOT = "budget.json", "budget.png"
# What was spent down to each level; only where all terms apply.
CURVE = "budget.csv"


class Budget(Artefact):
    """It term by term."""

    phase = "budget"
    files = (BUDGET, PLOT)
    is_shared = True

    def is_wanted(self, experiment: Experiment) -> bool:
        """If the metrics ask for it; it is about the data as a whole, not class by class.

        By itself where all terms apply, or where one of them is the objective.
        """
        asked = experiment.metrics.asks_for_budget
        if asked is None:
            asked = experiment.objective in METRICS or _applies(experiment)
        return asked and experiment.condition is None

    def names(self, experiment: Experiment) -> Sequence[str]:
        """Of its terms."""
        return METRICS

    def lacking(self, experiment: Experiment) -> dict[str, str]:
        """All but the first term, for other samplers than the ancestral one."""
        if _applies(experiment):
            return {}
        return dict.fromkeys(METRICS[1:], "is for sampler=ancestral without a corrector")

    def make(self, run: Sampled) -> dict[str, float]:
        """Write the budget and its plot."""
        prepared, folder = run.prepared, run.folder
        experiment = prepared.experiment
        denoiser = None if experiment.score.is_exact else prepared.denoiser
        blocks = folder.read_json(RUN).get("blocks", ())
        steps = prepared.steps
        terms = 1 + 2 * is_ancestral(steps, prepared.grid)
        run.announce(self.phase, terms * prepared.measuring, "metrics.budget=false")
        with prepared.clock.phase(self.phase):
            found = budget(
                *(prepared.data, prepared.grid, steps, experiment.prior),
                *(experiment.score, denoiser, blocks, prepared.measuring),
            )
            folder.write_json(BUDGET, found.to_json())
            if (spent := found.spent()) and processes.is_first():
                outputs.write_csv(folder.path / CURVE, SPENT, spent)
            with run.failed.spare(f"{self.phase}: {PLOT}"):
                terms = [term[:4] for term in found.terms if term.nats is not None]
                look = {"title": prepared.title}
                draw = partial(figures.budget_figure, terms, found.dim, **look)
                folder.write_plot(PLOT, draw, experiment.plot_kinds)
        return found.metrics()


def _applies(experiment: Experiment) -> bool:
    """Whether all terms do."""
    return is_ancestral(experiment.blocks().steps, experiment.grid())
