"""Where a training run is, on disk: everything that the next step follows from."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gdiff.errors import UserError
from gdiff.store.files import DamagedError, Member, read_arrays, replacing
from gdiff.train.step import State

CHECKPOINT = "checkpoint.npz"


def write(folder: Path, state: State) -> None:
    """Keep a state; the last one is there until this one is whole."""
    with replacing(folder / CHECKPOINT) as file:
        np.savez(file, **{name: np.asarray(x) for name, x in state._asdict().items()})


def read(folder: Path, start: State) -> State:
    """The last state that was kept; `start` where there is none.

    Raises:
        UserError: the file is damaged, or of another network.
    """
    arrays = start._asdict()
    members = {name: Member(np.dtype(x.dtype).type, x.shape) for name, x in arrays.items()}
    try:
        found = read_arrays(folder / CHECKPOINT, members)
        return State(**{name: jnp.array(x) for name, x in found.items()})
    except FileNotFoundError:
        return start
    except DamagedError as error:
        raise UserError(
            f"{folder / CHECKPOINT} is damaged ({error}): remove it, and training begins again"
        ) from error
