"""The pause of garbage collection ends, whatever happens."""

import gc

import pytest

from detreg.data.garbage_collection import pause_garbage_collection


def test_garbage_collection_is_on_again_after_a_pause() -> None:
    assert gc.isenabled()
    with pause_garbage_collection():
        with pause_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()

    with pytest.raises(KeyError), pause_garbage_collection():
        raise KeyError
    assert gc.isenabled()


def test_garbage_collection_stays_off_where_it_was_off() -> None:
    gc.disable()
    try:
        with pause_garbage_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
