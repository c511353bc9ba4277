"""Content digests of files and of settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

_CHUNK_BYTES = 1 << 20


def file_digest(path: Path) -> str:
    """Return the XXH3 digest (128 bits, hex) of a file's bytes, read in chunks.

    It finds damage and need not withstand an attacker; BLAKE2b takes longer than writing a shard does.
    """
    digest = xxhash.xxh3_128()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def array_digest(values: np.ndarray) -> str:
    """Return the XXH3 digest (128 bits, hex) of an array's bytes in memory."""
    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).tobytes())


def settings_digest(settings: dict[str, Any]) -> str:
    """Return the BLAKE2b digest (hex) of JSON-serialisable settings, independent of key order."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
