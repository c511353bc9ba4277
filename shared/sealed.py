"""JSON files that carry a checksum of their own content, so that no altered byte is taken for data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.digests import settings_digest
from shared.errors import UserError
from shared.files import write_atomically

_SEAL = "content_checksum"


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """Return JSON content with the checksum of all of it, as it will be read."""
    content = json.loads(json.dumps(content))
    return {**content, _SEAL: settings_digest(content)}


def unseal(content: Any) -> dict[str, Any]:
    """Return the content without its checksum; content without one, of earlier versions, as it is.

    Raises:
        ValueError: it is no JSON object, or has another checksum.
    """
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    content = dict(content)
    found = content.pop(_SEAL, None)
    if found is not None and found != settings_digest(content):
        raise ValueError("its content has another checksum")
    return content


def as_text(content: dict[str, Any]) -> bytes:
    """Return the text of a file with this content and its checksum."""
    content = seal(content)
    try:
        return json.dumps(content, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # names of files that are no text in this locale
        return json.dumps(content, indent=1).encode()


def write_sealed(path: Path, content: dict[str, Any], durable: bool = True) -> None:
    """Write a JSON object with its checksum, atomically."""
    write_atomically(path, as_text(content), durable)


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object, checked if it has a checksum.

    Args:
        path: of the file.
        remedy: what helps where the file is damaged, for the message.

    Raises:
        UserError: the file is damaged.
        FileNotFoundError: there is none.
    """
    try:
        return unseal(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:  # of JSON and of UTF-8 too
        raise UserError(f"{path}: damaged; {remedy} ({error})") from error
