import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.ddpm import DDPM


def test_noise_levels_match_the_published_table():
    sigma = DDPM().sigma([900, 800, 700, 600, 500, 300, 100])
    assert [float(f"{level:.2g}") for level in sigma] == [61, 26, 12, 6.2, 3.4, 1.2, 0.34]


def test_noise_levels_come_from_the_product_of_the_rates():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert DDPM().sigma(np.arange(1000)) == pytest.approx(np.sqrt(1 / alpha_bar - 1), rel=1e-11)


def test_log_sigma_is_linear_between_indices():
    sigma = DDPM().sigma([41, 41.5, 42])
    assert sigma[1] == pytest.approx(np.sqrt(sigma[0] * sigma[2]))


def test_time_and_sigma_stay_at_the_ends_of_the_table():
    ddpm = DDPM(timesteps=10)
    assert ddpm.time([0.0, np.inf]).tolist() == [0, 9]
    assert ddpm.sigma([-1, 20]) == pytest.approx(ddpm.sigma_range)


@pytest.mark.parametrize(
    "fields", [{"timesteps": 1}, {"beta_min": 0.0}, {"beta_max": 1.0}, {"beta_min": 0.5}]
)
def test_impossible_tables_are_refused_in_one_line(fields):
    with pytest.raises(UserError, match=rf"^{next(iter(fields))[:4]}.*$"):
        DDPM(**fields)
