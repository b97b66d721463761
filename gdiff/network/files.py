"""The file of a trained network: a line of JSON that says what it is, then its arrays."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gdiff.errors import UserError, require
from gdiff.network.base import NetworkSpec
from gdiff.network.denoising import Denoising
from gdiff.network.mlp import MLP
from gdiff.network.unet import UNet
from gdiff.store.files import DamagedError, read_bytes, replacing

NETWORK = "network.eqx"
# Networks that a file may hold, by their names there.
_KINDS: dict[str, type[NetworkSpec]] = {"mlp": MLP, "unet": UNet}
# To be raised when a network of the same options becomes another one.
_VERSION = 1


class Facts(NamedTuple):
    """What a file says of its network.

    Attributes:
        event_shape: of a point.
        sigma_max: the largest noise level that it has seen; None where they were not bounded.
        dataset: name of the data.
        fingerprint: of the data.
        step: of training, after which it is as it is.
    """

    event_shape: tuple[int, ...]
    sigma_max: float | None
    dataset: str
    fingerprint: str
    step: int


def empty(spec: NetworkSpec, event_shape: tuple[int, ...], seed: int = 0) -> Denoising:
    """A denoiser that is not trained, with mean 0 and standard deviation 1, in float32."""
    with jax.enable_x64(False):
        network = spec.build(event_shape, np.random.default_rng(seed))
        return Denoising(network, jnp.zeros(event_shape), jnp.ones(()))


def kind_of(spec: NetworkSpec) -> str:
    """What a network is called in a file.

    Raises:
        UserError: files know no such networks.
    """
    for name, kind in _KINDS.items():
        if type(spec) is kind:
            return name
    raise UserError(
        f"a network of {type(spec).__name__} cannot be read back from a file: use network="
        f"{' or network='.join(_KINDS)}"
    )


def write(path: Path, spec: NetworkSpec, denoiser: Denoising, facts: Facts) -> None:
    """Keep a denoiser, in float32; its file appears whole or not at all."""
    head = {
        "gdiff_network": _VERSION,
        "kind": kind_of(spec),
        "options": asdict(spec),
        **facts._asdict(),
    }
    arrays, rest = eqx.partition(denoiser, eqx.is_array)
    with jax.enable_x64(False):
        arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), arrays)
        with replacing(path) as file:
            file.write(json.dumps(head).encode() + b"\n")
            eqx.tree_serialise_leaves(file, eqx.combine(arrays, rest))


def read(path: Path, key: str) -> tuple[Denoising, Facts]:
    """A denoiser, in float32, and what its file says.

    Args:
        path: of a file, or of the folder of a training run.
        key: of the configuration, that names it.

    Raises:
        UserError: there is none, or the file is damaged.
    """
    named = f"{key}={path}"
    if path.is_dir():
        require(
            (path / NETWORK).is_file(),
            f"{named} is not the folder of a training run that has come to its first checkpoint: "
            f"it holds no {NETWORK}; gdiff train makes one",
        )
        path = path / NETWORK
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{named} does not exist: give the folder of gdiff train") from None
    try:
        return _parsed(content)
    except Exception as error:  # equinox and NumPy raise many kinds on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path} is not a network of gdiff train, or is damaged ({reason}): restore it, or "
            "train again"
        ) from error


def _parsed(content: bytes) -> tuple[Denoising, Facts]:
    head, _, rest = content.partition(b"\n")
    try:
        told: dict[str, Any] = json.loads(head)
        version = told["gdiff_network"]
    except (ValueError, TypeError, KeyError):
        raise DamagedError("its first line does not say what it is") from None
    if version != _VERSION:
        raise DamagedError(f"it is of version {version} and not {_VERSION}")
    spec = _KINDS[told["kind"]](**told["options"])
    facts = Facts(*(told[name] for name in Facts._fields))
    facts = facts._replace(event_shape=tuple(facts.event_shape))
    # The arrays need not be drawn, only their shapes.
    like = eqx.filter_eval_shape(empty, spec, facts.event_shape)
    size = len(head) + 1 + _bytes_of(like)
    if len(content) != size:
        raise DamagedError(f"it has {len(content)} bytes of {size}")
    with jax.enable_x64(False):
        denoiser = eqx.tree_deserialise_leaves(io.BytesIO(rest), like)
    return denoiser, facts


def _bytes_of(like: Denoising) -> int:
    """Length of its arrays in a file: of each a header of 128 bytes, and the numbers."""
    leaves: list[Array] = [x for x in jax.tree.leaves(like) if hasattr(x, "shape")]
    return sum(128 + 4 * x.size for x in leaves)
