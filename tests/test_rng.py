"""The same numbers whatever JAX's switches say."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gdiff
from gdiff import rng
from gdiff.runtime import Runtime, environment

# As the environment may set them; the first three change every random number.
SWITCHES = {
    "jax_default_prng_impl": "rbg",
    "jax_threefry_partitionable": False,
    "jax_random_seed_offset": 5,
    "jax_high_dynamic_range_gumbel": True,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "bfloat16",
}


@pytest.fixture
def set_switch():
    """A function that sets a switch for a test."""
    before = {name: getattr(jax.config, name) for name in SWITCHES}
    yield lambda name: jax.config.update(name, SWITCHES[name])
    for name, value in before.items():
        jax.config.update(name, value)


@jax.jit
def numbers(index):
    keys = rng.at_step(rng.sample_keys(7, rng.Role.STEP, index), 3)
    choice = jax.vmap(lambda key: jax.random.categorical(key, jnp.zeros(1000, jnp.float32)))(keys)
    return rng.normal(keys, jnp.zeros((4, 3), jnp.float32)), choice


def drawn():
    return [np.asarray(each).tolist() for each in numbers(jnp.arange(4))]


def test_numbers_are_those_of_the_first_version():
    """So that samples of older run folders can be drawn again."""
    normal = jax.random.normal(
        jax.random.fold_in(
            jax.random.fold_in(jax.random.fold_in(jax.random.key(7), rng.Role.STEP), 2), 3
        ),
        (3,),
        jnp.float32,
    )
    np.testing.assert_array_equal(drawn()[0][2], normal)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_run_fixes_the_switches_of_its_random_numbers(set_switch, name):
    expected = drawn()
    set_switch(name)
    Runtime(mesh="batch:1").start()
    assert drawn() == expected


@pytest.mark.parametrize("name", SWITCHES)
def test_samples_in_a_notebook_do_not_depend_on_switches_which_stay_as_they_are(set_switch, name):
    def samples():
        def denoise(z, sigma):
            return z / (1 + sigma[:, None] ** 2)

        options = {"num": 3, "shape": (2,), "seed": 1, "mesh": "batch:1"}
        sampler = gdiff.samplers.Ancestral()
        return gdiff.sample(denoise, sampler, [9.0, 1.0, 0.1], **options).tolist()

    expected = samples()
    set_switch(name)
    value = getattr(jax.config, name)
    assert samples() == expected
    assert getattr(jax.config, name) == value


def test_the_rest_of_the_environment_is_recorded(monkeypatch):
    for name in ("JAX_DEFAULT_MATMUL_PRECISION", "XLA_FLAGS", "OMP_NUM_THREADS", "HOME_SECRET"):
        monkeypatch.setenv(name, "x")
    found = environment()
    assert found["JAX_DEFAULT_MATMUL_PRECISION"] == found["XLA_FLAGS"] == "x"
    assert "OMP_NUM_THREADS" in found
    assert "HOME_SECRET" not in found


def test_every_key_is_of_one_generator():
    for path in Path(gdiff.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "jax.random.key",
                "jax.random.PRNGKey",
            ):
                assert "impl" in {keyword.arg for keyword in node.keywords}, path
