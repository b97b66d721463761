"""What is computed from something else that is cached does not outlive it."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from jax.tree_util import Partial

from gdiff.budget.initialization import Noised
from gdiff.budget.losses import measure
from gdiff.dataset import Dataset
from gdiff.dataset import statistics as module
from gdiff.dataset.placed import Placed
from gdiff.denoiser import Posterior
from gdiff.parallel.mesh import make_mesh
from gdiff.prior.flow import Flow
from gdiff.prior.gmm import GMM
from gdiff.prior.standard import Standard
from gdiff.score.base import ScoreSpec
from gdiff.score.exact import Exact
from gdiff.score.golden import index
from gdiff.score.local.spec import PcaLocal
from gdiff.store import cache

SIGMA = 0.5
LEVELS = (SIGMA, 1.0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GDIFF_CACHE", str(tmp_path))
    return tmp_path


def lopsided(n, *shape):
    """Images that lie on one side of their mean in every direction."""
    rng = np.random.default_rng(0)
    d = int(np.prod(shape))
    x = 100 + (rng.exponential(size=(n, d)) - 1) * 40 / np.sqrt(np.arange(1, d + 1))
    x = x.clip(0, 255).astype(np.uint8).reshape(n, *shape)
    return Placed(Dataset("lopsided", x, shift=127.5, scale=127.5), make_mesh("batch:1"))


@pytest.fixture(scope="module")
def data():
    return lopsided(100, 6, 6, 1)


@pytest.fixture
def turn(folder, monkeypatch):
    """Loses the statistics, which come out with other signs the next time."""

    def lose():
        for path in folder.glob("statistics.*"):
            path.unlink()
        whole = module._whole

        def other(dataset):
            found = whole(dataset)
            return found._replace(eigenvectors=-found.eigenvectors)

        monkeypatch.setattr(module, "_whole", other)

    return lose


def test_an_index_has_the_coordinates_of_its_own_basis(turn):
    data = lopsided(600, 12, 12, 3)
    full = Exact().fit(data)
    for _ in range(2):
        golden = index.build(data.dataset, full, (64, 128), 0.01)
        rows = data.dataset.x.reshape(600, -1) - np.asarray(golden.mean)
        expected = rows @ np.asarray(golden.basis)
        found = np.concatenate([np.asarray(part) for part in golden.index.blocks], axis=1)
        np.testing.assert_allclose(found, expected, atol=0.01)
        turn()


def denoised(score, data):
    rng = np.random.default_rng(1)
    clean = data.dataset.rows(rng.integers(0, len(data.dataset), 8))
    z = (clean + SIGMA * rng.standard_normal(clean.shape)).astype(np.float32)
    return np.asarray(score.fit(data, LEVELS)(z, SIGMA).mean)


def log_prob(prior, data):
    return np.asarray(prior.fit(data, SIGMA).log_prob(data.dataset.rows(np.arange(8))))


@pytest.mark.parametrize(
    "answer, spec, kinds",
    [
        (log_prob, GMM(components=3, rank=4), {"gmm"}),
        pytest.param(
            *(denoised, PcaLocal(subset="golden", min_rows=8, max_rows=32)),
            {"local-mask", "local-heads"},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(log_prob, Flow(components=2, rank=4, couplings=2, width=8, steps=20)),
            {"flow", "gmm"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else "",
)
def test_another_basis_makes_anew_what_follows_from_it(answer, spec, kinds, data, folder, turn):
    before = answer(spec, data)
    names = {path.name for path in folder.glob("*.npy")}
    turn()
    np.testing.assert_allclose(answer(spec, data), before, atol=0.05)
    again = {path.name for path in folder.glob("*.npy")} - names
    assert {name.partition(".")[0] for name in again} == kinds


def test_what_statistics_are_is_told_by_their_digest(data):
    found = module.statistics(data.dataset)
    assert found.digest() == module.statistics(data.dataset).digest()
    others = (
        found._replace(eigenvectors=-found.eigenvectors),
        found._replace(tail=1.0),
        found.truncated(5),
    )
    assert len({found.digest(), *(other.digest() for other in others)}) == 4


def test_a_digest_tells_type_shape_and_order():
    x = np.arange(6.0).reshape(2, 3)
    arrays = (x, x.T, x.reshape(3, 2), x.astype(np.float32), x[:1], x[:0])
    assert len({cache.digest(array) for array in arrays}) == len(arrays)
    assert cache.digest(x.T) == cache.digest(np.ascontiguousarray(x.T))


@dataclass(frozen=True, kw_only=True)
class OwnPrior(Standard):
    """As a user may have written it."""

    std: ClassVar[float] = 1.0

    def fit(self, data, sigma):
        return Standard(data_variance=self.std).fit(data, sigma)


@dataclass(frozen=True, kw_only=True)
class OwnScore(ScoreSpec):
    """As a user may have written it."""

    factor: ClassVar[float] = 1.0

    def fit(self, data, sigmas=()):
        return Partial(lambda factor, z, sigma: Posterior(factor * z), self.factor)


def test_what_a_users_own_class_gives_is_not_kept(data, monkeypatch):
    def ask():
        curve = measure(OwnScore(), data, (2.0, 0.5), samples=8)
        return Noised.of(data, SIGMA, 16).divergence(OwnPrior()).nats, curve.loss[0]

    before = ask()
    monkeypatch.setattr(OwnPrior, "std", 3.0)
    monkeypatch.setattr(OwnScore, "factor", 0.0)
    after = ask()
    assert abs(after[0] - before[0]) > 1
    assert after[1] < 0.5 * before[1]
