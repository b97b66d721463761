"""Fixtures of the tests of samplers."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def _compiled_quickly() -> Iterator[None]:
    """Most of the time of these tests is the compiler's: it leaves most optimizations out."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _slow_tests_run_as_users_do(request: pytest.FixtureRequest) -> None:
    """With all optimizations, from a first slow test of a module on."""
    if request.node.get_closest_marker("slow"):
        if jax.config.jax_disable_most_optimizations:
            jax.clear_caches()  # what is compiled already would be taken as it is
        jax.config.update("jax_disable_most_optimizations", False)
