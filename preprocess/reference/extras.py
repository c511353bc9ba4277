"""Libraries that only some of the reference data need, and that are installed on demand."""

from __future__ import annotations

from importlib import import_module

from shared.errors import UserError


def installed_version(library: str, use: str, make: str, extra: str) -> str:
    """Return the version of a library.

    Args:
        library: its name, in lower case that of its package.
        use: what it is needed for, the words before its name.
        make: the target of make that installs it.
        extra: the extra of this project that it belongs to.

    Raises:
        UserError: it is not installed.
    """
    try:
        return str(import_module(library.lower()).__version__)
    except ModuleNotFoundError as error:
        raise UserError(
            f'{use} {library}, which is not installed here: make {make} installs it, or pip install -e ".[{extra}]"'
        ) from error
