"""Where `wellfed diagnose` and the hub read another server: the options as an open Reader."""

from __future__ import annotations

from collections.abc import Mapping

from wellfed.analysis.promql import Access, Reader, from_headers, server
from wellfed.errors import UserError

__all__ = ["reader"]


def reader(options: Mapping[str, object]) -> Reader:
    """A reader of the server that --prometheus names. Raises UserError; nothing is asked yet."""
    parallel = options["parallel"]
    assert isinstance(parallel, int)
    access = Access(
        headers=from_headers(str(options.get("header") or "")),
        bearer=_secret(options.get("bearer_token_file")),
        basic=_secret(options.get("basic_auth_file")),
        ca_file=_path(options.get("ca_file")),
        cert_file=_path(options.get("cert_file")),
        key_file=_path(options.get("key_file")),
    )
    selector = str(options.get("selector") or "").strip().removeprefix("{").removesuffix("}")
    return Reader(server(str(options["prometheus"]), access), selector=selector, parallel=parallel)


def _path(value: object) -> str | None:
    return None if value is None else str(value)


def _secret(path: object) -> str:
    if path is None:
        return ""
    try:
        with open(str(path), encoding="utf-8") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}") from error
    if not text or not text.isprintable():
        raise UserError(f"{path} holds no secret on one line")
    return text
