"""The limits of a served model, from the environment."""

import pytest

from detreg.errors import UsageError
from detreg.serving.limits import Limits


def test_limits_are_read_and_the_others_keep_their_defaults() -> None:
    environment = {
        "DETREG_SERVE_MAX_BODY_MB": "5",
        "DETREG_SERVE_MAX_MEGAPIXELS": "7",
        "DETREG_SERVE_MAX_IMAGES": "",
    }
    limits = Limits.from_environment(environment)
    assert limits == Limits(max_body_bytes=5 * 2**20, max_pixels=7_000_000)
    assert Limits.from_environment({}) == Limits()


def test_every_wrong_limit_is_named() -> None:
    environment = {
        "DETREG_SERVE_MAX_BODY_MB": "0",
        "DETREG_SERVE_MAX_MEGAPIXELS": "-1",
        "DETREG_SERVE_MAX_IMAGES": "many",
        "DETREG_SERVE_MAX_REQUESTS": "9" * 5000,
    }
    with pytest.raises(UsageError) as caught:
        Limits.from_environment(environment)
    assert len(caught.value.problems) == 4
    assert max(map(len, caught.value.problems)) < 300
