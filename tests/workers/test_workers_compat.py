"""Ray's inner parts are what `loraplug.workers.compat` expects."""

import inspect

import pytest

from loraplug.workers.compat import at_address

ray = pytest.importorskip("ray")


def test_ray_takes_the_address_under_this_name() -> None:
    """It takes any keyword, and refuses those that it does not know when it starts."""
    (name,) = at_address("127.0.0.1")
    assert f'kwargs.pop("{name}"' in inspect.getsource(ray.init)
