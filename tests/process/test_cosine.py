import numpy as np
import pytest

from gdiff.errors import UserError
from gdiff.process.cosine import Cosine


def test_signal_is_the_cosine_of_time():
    t = np.linspace(0.01, 0.99, 50)
    cosine = Cosine()
    assert cosine.signal(cosine.sigma(t)) == pytest.approx(np.cos(np.pi * t / 2))


def test_the_ends_are_clipped():
    cosine = Cosine(clip=0.01)
    assert cosine.sigma([0.0, 1.0]) == pytest.approx(cosine.sigma([0.01, 0.99]))
    assert cosine.time([0.0, np.inf]) == pytest.approx([0.01, 0.99])


@pytest.mark.parametrize("clip", [0.0, 0.5, -1.0, np.nan])
def test_an_impossible_clip_is_refused_in_one_line(clip):
    with pytest.raises(UserError, match=r"^clip=.*$"):
        Cosine(clip=clip)
