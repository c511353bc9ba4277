"""Fixture of the tests that compute reference data."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Molecules so small are computed faster by one."""
    from pyscf import lib

    with lib.with_omp_threads(1):
        yield
