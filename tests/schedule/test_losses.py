import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.schedule.losses import LossCurve

from .curves import ENDS, MEMORISED, NORMAL, TWO_POINTS, curve, normal_loss

SNR = np.array(ENDS) ** -2.0


def noisy(replicates, seed=0, levels=40):
    """A curve of N(0, 1) with errors of 5 % in each replicate."""
    sigma = np.geomspace(*ENDS, levels)
    factors = 1 + 0.05 * np.random.default_rng(seed).normal(size=(replicates, levels))
    each = normal_loss(sigma) * factors
    return LossCurve(sigma, each.mean(0), each)


def test_a_smooth_loss_is_interpolated():
    sigma = np.geomspace(*ENDS, 1717)
    assert NORMAL.at(sigma) == pytest.approx(normal_loss(sigma), rel=1e-6)
    assert NORMAL.at(sigma.reshape(17, 101)).shape == (17, 101)


def test_the_interpolation_does_not_decrease_with_noise():
    sigma = np.geomspace(*ENDS, 1000)
    for losses in (noisy(2), MEMORISED):
        assert np.all(np.diff(losses.at(sigma)) <= 0)
        assert np.all(losses.at(sigma) > 0)


def test_the_integral_of_a_normal_law_is_a_logarithm():
    exact = np.log((1 + SNR[1]) / (1 + SNR[0]))
    assert NORMAL.integral(*ENDS) == pytest.approx(exact, rel=1e-7)
    inner = np.log((1 + 0.3**-2) / (1 + 7**-2))
    assert NORMAL.integral(7, 0.3) == pytest.approx(inner, rel=1e-7)


def test_the_integral_is_that_of_the_interpolation_even_where_the_loss_vanishes():
    sigma = np.geomspace(*ENDS, 100_001)
    for losses in (MEMORISED, noisy(3)):
        steps, loss = np.diff(sigma**-2.0), losses.at(sigma)
        integral = losses.integral(*ENDS)
        assert steps @ loss[1:] < integral < steps @ loss[:-1]
        assert integral == pytest.approx(steps @ (loss[1:] + loss[:-1]) / 2, rel=1e-5)


def test_half_the_integral_of_two_points_is_their_entropy():
    assert 0.5 * TWO_POINTS.integral(*ENDS) == pytest.approx(np.log(2) - SNR[0] / 2, rel=1e-6)


def test_integrals_over_steps_add_up():
    grid = np.geomspace(*ENDS, 12)
    assert NORMAL.integrals(grid).shape == (11,)
    assert NORMAL.integrals(grid).sum() == pytest.approx(NORMAL.integral(*ENDS), rel=1e-12)


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_the_asymptotic_constant_of_a_normal_law_is_a_squared_logarithm(spread):
    losses = curve(lambda sigma: normal_loss(sigma, spread))
    root = np.log((spread**-2 + SNR[1]) / (spread**-2 + SNR[0]))
    assert losses.asymptotic_constant(*ENDS) == pytest.approx(root**2 / 4, rel=1e-6)


def test_the_discretisation_leaves_out_the_step_onto_zero():
    grid = np.geomspace(*ENDS, 8)
    steps = np.diff(grid**-2.0) @ normal_loss(grid[:-1])
    exact = 0.5 * (steps - np.log((1 + SNR[1]) / (1 + SNR[0])))
    assert NORMAL.discretization(grid) == pytest.approx(exact, rel=1e-6)
    assert NORMAL.discretization(np.append(grid, 0.0)) == NORMAL.discretization(grid)
    assert NORMAL.discretization(np.array([80.0, 0.0])) == 0


def test_standard_errors_come_from_the_replicates():
    grid = np.geomspace(*ENDS, 20)
    assert NORMAL.standard_error is None
    assert NORMAL.discretization_error(grid) is None
    curves = [noisy(8, seed) for seed in range(60)]
    assert curves[0].standard_error == pytest.approx(
        curves[0].replicates.std(axis=0, ddof=1) / np.sqrt(8)
    )
    # The spread of estimates over repeated measurements is what one of them says that it is.
    spread = np.std([losses.discretization(grid) for losses in curves])
    said = np.sqrt(np.mean([losses.discretization_error(grid) ** 2 for losses in curves]))
    assert said == pytest.approx(spread, rel=0.3)


def test_levels_outside_the_curve_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^sigma = 81 .* known from 0\.05 to 80: move .*$"):
        NORMAL.at(81.0)
    with pytest.raises(UserError, match=r"^sigma = 0\.04 .*$"):
        NORMAL.integral(80, 0.04)
    assert NORMAL.at(80 * (1 + 1e-9)) == NORMAL.at(80)


@pytest.mark.parametrize(
    "fields",
    [
        {"sigma": [1.0, 2.0], "loss": [1.0, 1.0]},
        {"sigma": [2.0], "loss": [1.0]},
        {"sigma": [2.0, 0.0], "loss": [1.0, 1.0]},
        {"sigma": [2.0, 1.0], "loss": [1.0]},
        {"sigma": [2.0, 1.0], "loss": [1.0, -1.0]},
        {"sigma": [2.0, 1.0], "loss": [1.0, 1.0], "replicates": [[1.0, 1.0]]},
    ],
)
def test_what_is_not_a_curve_is_a_bug(fields):
    with pytest.raises(ValueError, match="loss"):
        LossCurve(**{key: np.array(value) for key, value in fields.items()})


def write(path, sigma, loss, header="sigma,loss"):
    rows = [f"{s},{v}" for s, v in zip(sigma, loss, strict=True)]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_file_is_read_in_either_order_with_other_columns(tmp_path):
    up = write(tmp_path / "up.csv", [0.1, 1, 10], [0.2, 0.3, 0.4])
    down = tmp_path / "down.csv"
    down.write_text("\ufeffstandard_error, loss, sigma\n,0.4,10\n0.1,0.3,1\n\n0.1,0.2,0.1\n")
    for path in (up, down):
        losses = LossCurve.read(path)
        assert losses.sigma.tolist() == [10, 1, 0.1]
        assert losses.loss.tolist() == [0.4, 0.3, 0.2]


ROWS = [(0.1, 0.2), (1.5, 0.3), (10.0, 0.4)]


@pytest.mark.parametrize(
    "head, mark, point, encoding",
    [
        ("sigma;loss", ";", ".", "utf-8"),
        ("sigma;loss", ";", ",", "cp1252"),
        ("sigma\tloss", "\t", ".", "utf-8"),
        ("sigma,loss", ",", ".", "utf-16"),
        ("Sigma, LOSS", ", ", ".", "utf-8-sig"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write_is_read(tmp_path, head, mark, point, encoding, end):
    rows = [f"{sigma}{mark}{loss}" for sigma, loss in ROWS]
    rows = rows if point == "." else [row.replace(".", point) for row in rows]
    (tmp_path / "losses.csv").write_bytes(end.join([head, *rows, "  ", ""]).encode(encoding))
    losses = LossCurve.read(tmp_path / "losses.csv")
    assert list(zip(losses.sigma, losses.loss, strict=True)) == ROWS[::-1]


def test_losses_of_noise_and_of_velocity_become_those_of_the_data(tmp_path):
    # On N(0, 1) the noise is known up to 1/(1 + σ²), and v = (ε - σ x_0)/√(1 + σ²) up to 1.
    sigma = np.geomspace(10, 0.1, 9)
    eps = write(tmp_path / "eps.csv", sigma, 1 / (1 + sigma**2))
    v = write(tmp_path / "v.csv", sigma, np.ones(9))
    assert LossCurve.read(eps, "eps").loss == pytest.approx(normal_loss(sigma))
    assert LossCurve.read(v, "v").loss == pytest.approx(normal_loss(sigma))
    # Its flow has u = ε - x_0, which is known up to (1 + σ)² / (1 + σ²).
    flow = write(tmp_path / "flow.csv", sigma, (1 + sigma) ** 2 / (1 + sigma**2))
    assert LossCurve.read(flow, "flow").loss == pytest.approx(normal_loss(sigma))
    with pytest.raises(UserError, match=r"^schedule\.loss_type='u' is not one of: x0, .*flow$"):
        LossCurve.read(eps, "u")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no column 'sigma'"),
        ("sigma,lost\n1,1\n2,2\n", "no column 'loss'"),
        ("sigma,loss\n", "has 0 rows"),
        ("sigma,loss\n1,1\n", "has 1 rows: a curve needs at least 2"),
        ("sigma,loss\n1,1\n3,3\n2,2\n", "is unsorted"),
        ("sigma,loss\n1,1\n2,2\n2,3\n", "has sigma=2 twice"),
        ("sigma,loss\n1,1\n2,-2\n", "has loss=-2 in row 2"),
        ("sigma,loss\n1,nan\n2,2\n", "has loss=nan in row 1"),
        ("sigma,loss\n1,1\n2,inf\n", "has loss=inf in row 2"),
        ("sigma,loss\n0,1\n2,2\n", "has sigma=0 in row 1"),
        ("sigma,loss\n1,0\n2,0\n", "has no loss above 0"),
        ("sigma,loss\n1,1\n2,x\n", "whose loss is not a number"),
        ("sigma,loss\n1,1\n2\n", "whose loss is not a number"),
    ],
)
def test_files_that_are_no_curve_are_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "losses.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"^schedule\.loss_file={path} .*{message}.*$") as caught:
        LossCurve.read(path)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_refused_in_one_line(tmp_path):
    (tmp_path / "binary").write_bytes(b"\x80\xff\x00")
    for path in (tmp_path / "missing.csv", tmp_path, tmp_path / "binary"):
        with pytest.raises(UserError, match=rf"^schedule\.loss_file={path} cannot be read .*$"):
            LossCurve.read(path)
