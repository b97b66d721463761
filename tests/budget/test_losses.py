from dataclasses import dataclass

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from gdiff.budget import losses
from gdiff.budget.losses import effort, measure
from gdiff.dataset.base import Dataset
from gdiff.dataset.digits import Digits
from gdiff.dataset.placed import Placed
from gdiff.dataset.statistics import statistics
from gdiff.dataset.toy import Gaussians, Moons, TwoPoints
from gdiff.denoiser import as_denoiser
from gdiff.errors import UserError
from gdiff.parallel.mesh import make_mesh
from gdiff.schedule.programme import Optimum
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact
from gdiff.score.golden import Golden
from gdiff.score.wiener import Wiener

ENDS = (80.0, 0.05)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh("batch:1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))


def mmse_of_two_points(gamma):
    def integrand(x):
        return (1 - np.tanh(gamma + np.sqrt(gamma) * x)) * norm.pdf(x)

    return quad(integrand, -12, 12, points=[-np.sqrt(gamma)], limit=200)[0]


def test_two_points_have_the_loss_of_the_closed_form(mesh):
    curve = measure(Exact(), Placed(TwoPoints().load(), mesh), ENDS)
    shown = curve.sigma > 0.3
    exact = [mmse_of_two_points(sigma**-2.0) for sigma in curve.sigma[shown]]
    np.testing.assert_allclose(curve.loss[shown], exact, rtol=1e-2)
    # ½ ∫ mmse dγ is the entropy.
    assert curve.integral(*ENDS) / 2 == pytest.approx(np.log(2), rel=1e-3)


# Discretisation of ±1 from sigma 80 to .05, by quadrature of the closed form.
@pytest.mark.parametrize("steps, las, logsnr", [(5, 0.5627, 4.00), (20, 0.0885, 0.332)])
def test_the_table_of_two_points_is_reproduced_to_three_digits(mesh, steps, las, logsnr):
    from gdiff.process.vp import VPLinear
    from gdiff.schedule.compare import compare

    curve = measure(Exact(), Placed(TwoPoints().load(), mesh), ENDS)
    grids = compare(curve, VPLinear(), steps, *ENDS)
    assert curve.discretization(grids["las_nats"]) == pytest.approx(las, rel=1e-3)
    assert curve.discretization(grids["logsnr"]) == pytest.approx(logsnr, rel=2e-3)


def test_a_linear_score_on_standardised_data_has_the_loss_of_a_normal_law(mesh):
    curve = measure(Wiener(), Placed(TwoPoints().load(), mesh), ENDS)
    np.testing.assert_allclose(curve.loss, 1 / (1 + curve.sigma**-2.0), rtol=1e-3)


@pytest.mark.slow
def test_traces_and_squared_errors_estimate_the_same(mesh):
    data = Digits(subset=200).load()
    exact = measure(Exact(), Placed(data, mesh), (20.0, 0.5), samples=128)
    # Points that the score is told are not its own: the same ones under another name.
    squared = measure(Exact(), Placed(data, mesh), (20.0, 0.5), samples=128, test=data)
    error = np.hypot(exact.standard_error, squared.standard_error)
    assert np.all(np.abs(exact.loss - squared.loss) < 5 * error + 1e-3 * exact.loss)
    assert np.all(exact.standard_error[20:-20] < squared.standard_error[20:-20])


def test_held_out_points_show_that_a_score_memorises(mesh):
    spec = Moons(num_points=50)
    data, test = spec.load(), spec.held_out().load()
    seen = measure(Exact(), Placed(data, mesh), (2.0, 0.01), samples=256)
    unseen = measure(Exact(), Placed(data, mesh), (2.0, 0.01), samples=256, test=test)
    assert 100 * seen.loss[-1] < unseen.loss[-1]


def test_held_out_points_are_others_of_the_same_law():
    spec = Gaussians(num_points=100)
    assert not np.array_equal(spec.load().x, spec.held_out().load().x)
    with pytest.raises(UserError, match=r"^Digits has no points held out.*loss_on=train"):
        Digits().held_out()
    with pytest.raises(UserError, match=r"noise=0 .* none are held out"):
        Gaussians(noise=0.0).held_out()


def test_a_curve_is_found_in_the_cache(mesh, monkeypatch):
    data = Moons(num_points=40).load()
    first = measure(Exact(), Placed(data, mesh), (2.0, 0.1), samples=16)
    monkeypatch.setattr(Exact, "fit", None)
    again = measure(Exact(), Placed(data, mesh), (2.0, 0.1), samples=16)
    assert np.array_equal(first.loss, again.loss)
    assert again.replicates.shape == (8, len(again.sigma))
    # And serves other ends within the usual range.
    part = measure(Exact(), Placed(data, mesh), (1.0, 0.2), samples=16)
    assert 0.9 < part.sigma[0] / 1.0 < 1.2
    assert set(part.sigma) < set(again.sigma)


@pytest.mark.slow
def test_standard_errors_are_honest(mesh):
    data = Digits(subset=100).load()
    truth = measure(Exact(), Placed(data, mesh), (5.0, 0.3), samples=2048)
    rough = measure(Exact(), Placed(data, mesh), (5.0, 0.3), samples=64)
    t = (rough.loss - truth.loss) / rough.standard_error
    assert np.median(np.abs(t)) < 2


def test_a_grid_made_for_few_samples_does_not_leap_where_they_show_no_loss(mesh):
    data, ends = Digits().load(), (80.0, 0.002)
    judge = measure(Exact(), Placed(data, mesh), ends, samples=512, seed=3)
    best = judge.discretization(Optimum(judge, *ends).nodes(11))
    for seed in (0, 1):
        few = measure(Exact(), Placed(data, mesh), ends, samples=16, seed=seed)
        assert np.all(few.loss > 0)
        assert judge.discretization(Optimum(few, *ends).nodes(11)) < 4 * best


def test_effort_falls_with_the_size_of_the_data():
    def of(n, d):
        return Dataset("d", np.broadcast_to(np.zeros(1, np.uint8), (n, d)))

    assert effort(of(2, 1)) == (128, 2**12)
    assert effort(of(50_000, 3072)) == (24, 16)
    assert effort(of(50_000, 3072), fewest=32) == (24, 32)
    assert effort(of(50_000, 3072), 100) == (24, 100)


@dataclass(frozen=True, kw_only=True)
class Shrunk(ScoreSpec):
    """The Wiener filter's mean, a tenth nearer to that of the data: linear, and no posterior."""

    def fit(self, data, sigmas=()):
        filter_ = Wiener().fit(data)

        def mean(z, sigma):
            centre = filter_.mean.reshape(z.shape[1:])
            return centre + 0.9 * (filter_(z, sigma).mean - centre)

        return as_denoiser(mean)


def test_few_points_do_for_a_score_that_errs_where_the_wiener_filter_does(mesh):
    data = Placed(Digits().load(), mesh)
    variance = statistics(data.dataset).eigenvalues
    curve = measure(Shrunk(), data, ENDS, samples=16, levels=12)
    gain = 0.9 * variance / (variance + curve.sigma[:, None] ** 2)
    exact = ((1 - gain) ** 2 * variance + (gain * curve.sigma[:, None]) ** 2).sum(1)
    shown = curve.sigma > 0.5  # below, what it errs in is the shrinking
    np.testing.assert_allclose(curve.loss[shown], exact[shown], rtol=0.03)


def test_a_score_that_is_the_exact_one_to_a_tolerance_has_its_loss_and_is_not_fitted(
    mesh, monkeypatch
):
    monkeypatch.setattr(Golden, "fit", lambda *_: pytest.fail("it was fitted"))
    data = Placed(Digits(subset=80).load(), mesh)
    exact = measure(Exact(), data, ENDS, samples=16, levels=5)
    golden = measure(Golden(), data, ENDS, samples=16, levels=5)
    assert golden.loss.tolist() == exact.loss.tolist()


def test_the_scan_is_plain_where_all_levels_allow_it(mesh):
    """By a relative error of the mean, against the scan that is careful where it has to be."""
    data = Placed(Digits(subset=80).load(), mesh)
    scan = Exact().fit(data)
    assert not scan.within(np.array([80.0, 1e-4]), 1e-3).is_plain
    plain = scan.within(np.array([80.0, 0.2]), 1e-3)
    assert plain.is_plain
    x = data.dataset.rows(slice(0, 16))
    z = x + 0.2 * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    sigma = np.full(16, 0.2, np.float32)
    ours, theirs = plain(z, sigma).mean, scan(z, sigma).mean
    assert np.linalg.norm(ours - theirs) <= 1e-3 * np.linalg.norm(theirs)


def test_levels_below_those_where_the_loss_is_chance_are_not_measured():
    sigma, asked = np.geomspace(80, 0.002, 24), []
    replicates = np.ones((8, 24)) * sigma**2
    replicates[1:, 13:] = 0  # one point of eight has a neighbour

    def at(part):
        asked.extend(part)
        return replicates[:, np.isin(sigma, part)]

    found = losses._from_above(at, sigma, 4)
    assert asked == sigma[:16].tolist()
    whole = losses._with_tail(sigma, replicates)
    np.testing.assert_array_equal(losses._with_tail(sigma, found), whole)
    assert np.all(np.diff(whole[0]) < 0)
