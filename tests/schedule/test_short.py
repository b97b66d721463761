"""The preset of a short diffusion."""

import pytest

from gdiff.config import composer


def composed(*overrides):
    with composer() as hydra:
        return hydra.experiment(overrides)


def test_it_starts_late_from_a_mixture_and_is_the_edm_grid_otherwise():
    experiment = composed("schedule=short")
    assert type(experiment.prior).__name__ == "DPGMM"
    sigma = experiment.process.sigma(0.4)
    assert sigma == pytest.approx(2.03, abs=0.005)
    edm = composed(f"schedule.sigma_max={sigma}")
    assert experiment.grid().tolist() == edm.grid().tolist()


@pytest.mark.parametrize("order", [1, -1])
def test_the_command_line_wins(order):
    words = ("schedule=short", "prior=gmm", "schedule.horizon=0.6", "schedule.steps=7")
    experiment = composed(*words[::order])
    assert type(experiment.prior).__name__ == "GMM"
    assert experiment.grid()[0] == experiment.process.sigma(0.6)
    assert experiment.schedule.steps == 7
