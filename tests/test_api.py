"""The package in a notebook: `import gdiff`."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import gdiff as command

import gdiff
from gdiff import config
from gdiff.dataset.placed import Placed
from gdiff.errors import UserError

DDIM, EDM = gdiff.samplers.DDIM(), gdiff.schedules.EDM(steps=4)
GROUPS = {
    "score": gdiff.scores,
    "sampler": gdiff.samplers,
    "schedule": gdiff.schedules,
    "prior": gdiff.priors,
    "process": gdiff.processes,
}


@pytest.fixture(scope="module")
def data():
    return gdiff.load("digits", subset=64)


@pytest.fixture(scope="module")
def denoise(data):
    return gdiff.scores.Exact().fit(data)


@pytest.fixture(scope="module")
def samples(denoise):
    return gdiff.sample(denoise, DDIM, EDM, num=10)


def shrinking(z, sigma):
    """The denoiser of N(0, I)."""
    return z / (1 + sigma[:, None] ** 2)


def test_six_lines_lead_to_a_picture():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import gdiff\n.*?)```", readme, flags=re.DOTALL)
    lines = example.strip().splitlines()
    assert len([line for line in lines if line]) <= 6
    space = {}
    exec(example.replace("steps=32", "steps=4"), space)
    assert space["x"].shape == (16, 8, 8, 1)
    assert np.abs(space["x"]).max() <= 1 + 1e-5
    assert space["picture"].size == (586, 586)


def test_a_denoiser_tells_of_any_batch_at_any_level(denoise, data):
    z = np.random.default_rng(0).normal(size=(5, 8, 8, 1))
    whole = denoise(z, 0.5)
    shapes = [field.shape for field in (whole.mean, whole.trace_cov, whole.log_density)]
    assert shapes == [(5, 8, 8, 1), (5,), (5,)]
    for part in (denoise(z[:2], 0.5), denoise(jnp.asarray(z[:2]), np.full(2, 0.5))):
        for got, want in zip(part[:3], whole[:3], strict=True):
            np.testing.assert_allclose(got, want[:2], rtol=1e-5, atol=1e-5)
    rising = denoise(z, np.array([0.5, 1, 1, 3, 4]))
    np.testing.assert_allclose(denoise(z[1:3], 1).mean, rising.mean[1:3], atol=1e-6)
    np.testing.assert_array_equal(rising.mean[0], whole.mean[0])


@pytest.mark.parametrize("score", [gdiff.scores.Exact(), gdiff.scores.Wiener()])
def test_a_denoiser_is_compiled_once_for_a_batch(data, score):
    programs, z = [], np.ones((2, 8, 8, 1), np.float32)
    denoise = score.fit(data)
    denoise(z, 1.0)

    def listen(event, duration, **_):
        programs.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        denoise(z, 1.0)
        denoise(z + 1, np.array([0.3, 2]))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert "/jax/core/compile/backend_compile_duration" not in programs


def test_importing_is_instant():
    code = (
        "import sys, gdiff; assert dir(gdiff); "
        "assert not {'jax', 'numpy', 'hydra', 'omegaconf', 'typer'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_are_there():
    for name in gdiff.__all__:
        assert getattr(gdiff, name).__doc__
        assert name in dir(gdiff)
    assert "Exact" in dir(gdiff.scores)
    with pytest.raises(AttributeError, match="has no attribute 'smaple'"):
        _ = gdiff.smaple


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_has_its_class(group):
    files = (config.config_dir() / group).glob("*.yaml")
    targets = {re.search(r"^_target_: \S+\.(\w+)$", f.read_text(), flags=re.M)[1] for f in files}
    assert targets == set(GROUPS[group].__all__)
    for name in targets:
        assert not inspect.isabstract(getattr(GROUPS[group], name))


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_samples_are_those_of_the_command_line(tmp_path, denoise, samples, sampler):
    words = ("dataset.subset=64", "schedule.steps=4", f"sampler={sampler}", "num_samples=10")
    run = command("sample", "-q", *words, "metrics=none", f"hydra.run.dir={tmp_path}")
    assert run.code == 0, run.err
    ours = samples
    if sampler == "ancestral":
        ours = gdiff.sample(denoise, gdiff.samplers.Ancestral(), EDM, num=10)
    assert np.load(tmp_path / "samples.npz")["samples"].tobytes() == ours.tobytes()


def test_a_score_that_is_not_fitted_is_fitted(data, samples):
    found = gdiff.sample(gdiff.scores.Exact(), DDIM, EDM, num=10, data=data)
    assert found.tobytes() == samples.tobytes()


def test_samples_do_not_depend_on_the_batch(denoise, samples):
    np.testing.assert_allclose(
        gdiff.sample(denoise, DDIM, EDM, num=10, batch_size=8), samples, atol=1e-5
    )
    other = gdiff.sample(denoise, DDIM, EDM, num=10, seed=1)
    assert np.abs(other - samples).max() > 0.1


def test_levels_may_be_an_array(denoise, samples):
    grid = EDM.grid(gdiff.processes.VPLinear())
    np.testing.assert_array_equal(gdiff.sample(denoise, DDIM, list(grid), num=10), samples)


def test_a_grid_that_starts_far_below_the_top_is_remarked_upon(denoise, caplog):
    spec, process = gdiff.schedules.DDPMIndices(steps=2), gdiff.processes.DDPM()
    gdiff.sample(denoise, DDIM, spec, num=10, process=process)
    assert "starts at sigma = 3.4" in caplog.text


def test_priors_are_fitted_or_to_be_fitted(denoise, data):
    spec, grid = gdiff.priors.Gaussian(), EDM.grid(gdiff.processes.VPLinear())
    fitted = spec.fit(data, grid[0])
    first = gdiff.sample(denoise, DDIM, EDM, num=3, prior=spec, data=data)
    np.testing.assert_array_equal(gdiff.sample(denoise, DDIM, EDM, num=3, prior=fitted), first)


def test_schedules_follow_the_data():
    spec = gdiff.schedules.LAS(steps=4, loss_samples=8)
    data = gdiff.load("two_points")
    found = gdiff.sample(gdiff.scores.Exact(), DDIM, spec, num=3, data=data)
    np.testing.assert_allclose(np.abs(found), 1, atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        shrinking,
        lambda z, sigma: gdiff.Posterior(shrinking(z, sigma)),
        gdiff.from_numpy(lambda z, sigma: np.asarray(z) / (1 + np.asarray(sigma)[:, None] ** 2)),
    ],
    ids=["mean", "posterior", "numpy"],
)
def test_any_function_is_a_denoiser(function):
    x = gdiff.sample(function, DDIM, EDM, num=300, shape=(2,))
    assert x.shape == (300, 2)
    # The probability flow of N(0, I) maps z_T to z_T / √(1 + σ²), which has variance 1; these
    # coarse steps keep the law normal.
    half = gdiff.sample(jax.jit(shrinking), DDIM, EDM, num=300, shape=(2,), batch_size=150)
    np.testing.assert_allclose(x, half, atol=1e-6)


def test_a_part_of_ones_own_around_a_denoiser(denoise, samples):
    own = lambda z, sigma: 1.0 * denoise(z, sigma).mean  # noqa: E731
    found = gdiff.sample(own, DDIM, EDM, num=10, shape=(8, 8, 1))
    np.testing.assert_allclose(found, samples, atol=1e-5)


def test_denoisers_tell_their_shape(data):
    for score in (gdiff.scores.Wiener(), gdiff.scores.Smoothed(perturbations=2)):
        x = gdiff.sample(score.fit(data), DDIM, EDM, num=2)
        assert x.shape == (2, 8, 8, 1)


def test_blocks_in_parallel(denoise, data, samples):
    blocks = gdiff.samplers.DDIM(block_size="all", tolerance=1e-6)
    found = gdiff.sample(denoise, blocks, EDM, num=10, data=data)
    np.testing.assert_allclose(found, samples, atol=1e-4)


@pytest.mark.parametrize(
    "x, shape, dtype, ends",
    [
        (np.arange(48, dtype=np.uint8).reshape(3, 4, 4), (4, 4, 1), np.uint8, (-1, -0.62)),
        ([[0.0, 1.0], [3.0, 2.0]], (2,), np.float32, (-1, 1)),
        (np.array([-5, 0, 15]), (1,), np.float32, (-1, 1)),
        (jnp.ones((2, 2, 2, 3)), (2, 2, 3), np.float32, (0, 0)),
    ],
)
def test_any_array_is_a_data_set(x, shape, dtype, ends):
    found = gdiff.Dataset("mine", x)
    assert (found.name, found.event_shape, found.x.dtype) == ("mine", shape, dtype)
    rows = found.rows(slice(None))
    np.testing.assert_allclose((rows.min(), rows.max()), ends, atol=0.02)
    as_it_is = gdiff.Dataset("mine", x, scale="none")
    np.testing.assert_array_equal(as_it_is.rows(slice(None)).ravel(), np.ravel(x))


def test_labels_of_an_array():
    found = gdiff.Dataset("mine", [[1.0], [2.0]], [0, 1])
    np.testing.assert_array_equal(found.labels, [0, 1])


def test_data_sets_take_the_keys_of_their_group(tmp_path, monkeypatch):
    np.save(tmp_path / "mine.npy", np.arange(6.0).reshape(3, 2))
    for path in (tmp_path / "mine.npy", str(tmp_path / "mine.npy"), "~/mine.npy"):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert len(gdiff.load("array", path=path, scale="none", subset=2)) == 2
    assert len(gdiff.load("digits", classes=(3, 8))) == 357


def test_data_may_be_placed_by_the_user(denoise, data, samples):
    placed = Placed(data)
    found = gdiff.sample(gdiff.scores.Exact().fit(placed), DDIM, EDM, num=10, data=placed)
    assert found.tobytes() == samples.tobytes()


def test_pictures(samples, data):
    assert gdiff.picture(samples[:4]).size == gdiff.picture(samples[:4], data).size


def with_function(function=shrinking, sampler=DDIM, schedule=EDM, num=2, **options):
    return lambda: gdiff.sample(function, sampler, schedule, num=num, **options)


@pytest.mark.parametrize(
    "mistake, message",
    [
        (lambda: gdiff.load("digit"), r"dataset=digit: no such option. Did you mean 'digits'\?"),
        (lambda: gdiff.load("digits", subst=3), r"no key 'subst'. Did you mean 'subset'\?"),
        (lambda: gdiff.load("digits", subset="x"), "subset=x is not a whole number"),
        (lambda: gdiff.load("digits", subset=1), "^subset=1 must be at least 2"),
        (lambda: gdiff.load("digits", subset=object()), "object"),
        (lambda: gdiff.Dataset("mine", [[1, 2], [3]]), "mine is not an array"),
        (lambda: gdiff.Dataset("mine", [["a"]]), "mine holds <U1 values"),
        (lambda: gdiff.Dataset("mine", [[1.0]]), "mine has only one point"),
        (lambda: gdiff.Dataset("mine", [1.0, np.nan]), "mine holds NaN .* row 1"),
        (lambda: gdiff.Dataset("mine", [1, 2], scale="max"), "scale='max' is not one of: auto"),
        (lambda: gdiff.scores.Golden(tolerance=-1), "^tolerance=-1 must be positive$"),
        (lambda: gdiff.samplers.DDIM(eta=2), "^eta=2 must be between 0 and 1$"),
        (with_function(), "does not tell the shape of a sample: give shape=$"),
        (with_function(num=0, shape=(2,)), "^num=0 must be at least 1"),
        (with_function(seed=-1, shape=(2,)), "seed=-1 must be between"),
        (with_function(sampler=gdiff.samplers.DDIM), r"is not a sampler: give .*DDIM\(\)"),
        (with_function(schedule=gdiff.schedules.EDM), r"is not a schedule: give .*EDM\(\)"),
        (with_function(schedule=[1, 2, 0]), "noise levels must decrease"),
        (with_function(schedule=[1.0]), "two or more"),
        (with_function(gdiff.scores.Exact), "is not a denoiser"),
        (with_function(gdiff.scores.Exact()), "the score Exact is fitted to the data: give data="),
        (with_function(prior=gdiff.priors.PPCA(), shape=(2,)), "the prior PPCA is fitted to the"),
        (with_function(schedule=gdiff.schedules.LAS(), shape=(2,)), "the schedule LAS is fitted"),
        (with_function(lambda z, s: z[:1], shape=(2,)), r"\(64, 2\) with an array \(1, 2\)|array"),
        (with_function(lambda z, s: np.array(z), shape=(2,)), "use gdiff.from_numpy"),
        (lambda: gdiff.picture(np.zeros((3, 2))), "give data"),
    ],
)
def test_mistakes_are_answered_by_one_line(mistake, message):
    with pytest.raises(UserError, match=message) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_a_schedule_that_follows_a_score_wants_the_score(denoise, data):
    with pytest.raises(UserError, match="LAS follows the loss of a score: give the score itself"):
        gdiff.sample(denoise, DDIM, gdiff.schedules.LAS(), num=2, data=data)
