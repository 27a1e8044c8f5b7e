"""Imports among which nobody looks for garbage."""

import gc

from cluster.imports import importing


def test_garbage_is_looked_for_again_after_imports_but_not_in_what_they_hold() -> None:
    before = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
