"""gzip at the price that fits a scrape a second: Intel's ISA-L where it is installed, else zlib's level 1.

340 KB of /metrics: 0.15 ms and 46 KB with ISA-L, 1.0 ms and 49 KB with zlib.
"""

from __future__ import annotations

import zlib

try:
    from isal import isal_zlib
except ImportError:  # no wheel for this architecture
    _compress = zlib.compress
else:
    _compress = isal_zlib.compress

__all__ = ["gzip", "gzipped", "plain"]

#: A gzip header around deflate with the largest window.
_GZIP = 31
_MAGIC = b"\x1f\x8b"


def gzip(body: bytes) -> bytes:
    """The body as one gzip member without a time, so that equal bodies are equal when compressed."""
    return _compress(body, 1, _GZIP)


def gzipped(message: bytes) -> bytes:
    """A protobuf message, compressed unless it is: none begins like gzip (field 3 of wire type 7)."""
    return message if message.startswith(_MAGIC) else gzip(message)


def plain(message: bytes) -> bytes:
    """The opposite. Raises zlib.error."""
    return zlib.decompress(message, _GZIP) if message.startswith(_MAGIC) else message
