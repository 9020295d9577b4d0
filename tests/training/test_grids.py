import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.grids import sampling_levels

FACTS = DataFacts((3,), 0.5, 0.4, 0.4, 0, Scaling(-1, 1, "float32"), 10, 10)


def levels(**stated):
    config = default_config().sampling
    config.num_steps, config.sigma_min, config.sigma_max, config.rho = 3, 0.01, 4.0, 2.0
    return sampling_levels(config, FACTS, **stated)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, [4.0, 1.05**2, 0.01]),  # with ρ = 2 the middle is the square of the mean of the roots
        ({"truncated": True}, [4.0, ((2 + 0.4**0.5) / 2) ** 2, 0.4]),
        ({"num_steps": 2}, [4.0, 0.01]),
        ({"rho": 1.0}, [4.0, 2.005, 0.01]),
        ({"sigma_min": 0.25}, [4.0, 1.25**2, 0.25]),
        ({"sigma_max": 1.0}, [1.0, 0.55**2, 0.01]),
        ({"sigmas": (3.0, 2.0, 0.5, 0.1)}, [3.0, 2.0, 0.5, 0.1]),
        ({"sigmas": [0.7]}, [0.7]),
    ],
)
def test_what_is_stated_takes_the_place_of_the_settings(stated, expected):
    np.testing.assert_allclose(levels(**stated), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"sigmas": (1.0, 2.0)}, r"sigmas must go down and end above 0, as in 80,20,5,1,0.1 \(got 1,2\)"),
        ({"sigmas": (1.0, 1.0)}, "must go down"),
        ({"sigmas": (1.0, 0.0)}, "must go down"),
        ({"sigmas": (float("nan"), 0.5)}, "must go down"),
        ({"sigmas": (1.0, 0.5), "num_steps": 4}, "sigmas are the whole grid"),
        ({"sigmas": (1.0, 0.5), "truncated": True}, "sigmas are the whole grid"),
        ({"truncated": True, "sigma_min": 0.1}, "ends at the noise of the data: leave out sigma_min"),
        ({"sigma_min": -0.1}, "sigma_min must be > 0"),
        ({"sigma_max": float("inf")}, "sigma_max must be > 0"),
        ({"rho": float("nan")}, "rho must be > 0"),
        ({"rho": 0.01}, r"float32 cannot hold 3 levels from sigma_max=4 down to 0.01 by rho=0.01: take a rho nearer"),
        ({"sigma_max": 1e39}, "float32 cannot hold 3 levels"),
        ({"sigma_min": 1e-60}, "float32 cannot hold 3 levels"),
        ({"num_steps": 1}, "steps must be at least 2"),
        ({"sigma_min": 4.0}, r"sigma_max must exceed the last level, 4 \(got 4\)"),
        ({"truncated": True, "sigma_max": 0.3}, "sigma_max must exceed the last level, 0.4"),
    ],
)
def test_what_is_no_grid_is_refused(stated, message):
    with pytest.raises(InputError, match=message):
        levels(**stated)
