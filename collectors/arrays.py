"""The [array.NAME] tables of the configuration file: where an array's exporter is and what it calls our
columns.

Source: docs/arrays.md describes the keys. Bad input raises ValueError with one line that names the key.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from wellfed.collectors.catalog import TABLES
from wellfed.collectors.endpoints import Array
from wellfed.collectors.fetch import target
from wellfed.collectors.flashblade_names import ALL, FLASHBLADE, SPACE
from wellfed.collectors.names import Group, Name

__all__ = ["read_arrays"]

_FILES = ("token_file", "authorization_file", "ca_file")
_KEYS = ("url", *_FILES, "protocol", "protocol_label", "columns")
_COLUMN_KEYS = ("metric", "factor", "where")
_COLUMNS = (*(column.name for column in TABLES["array"].signals), *SPACE)


def read_arrays(tables: Mapping[str, object]) -> tuple[Array, ...]:
    """Every array that is named. Raises ValueError."""
    return tuple(_array(name, _table(f"array.{name}", found)) for name, found in tables.items())


def _array(name: str, found: Mapping[str, object]) -> Array:
    where = f"array.{name}"
    _known(where, found, _KEYS)
    files = {key: _text(f"{where}.{key}", found[key]) for key in _FILES if key in found}
    if "token_file" in files and "authorization_file" in files:
        raise ValueError(f"{where}: name a token_file or an authorization_file, not both")
    if "url" not in found:
        raise ValueError(f"{where}: url is missing")
    try:
        to = target(_text(f"{where}.url", found["url"]), **files)
    except ValueError as error:
        raise ValueError(f"{where}.url: {error}") from None
    return Array(name, to, _columns(where, found))


def _columns(where: str, found: Mapping[str, object]) -> Group:
    if "columns" not in found:
        for key in ("protocol", "protocol_label"):
            if key in found:
                raise ValueError(
                    f"{where}: {key} needs [{where}.columns]; without it FlashBlade's names are read"
                )
        return FLASHBLADE
    if "protocol" in found and "protocol_label" in found:
        raise ValueError(f"{where}: name a protocol or a protocol_label, not both")
    columns = _table(f"{where}.columns", found["columns"])
    _known(f"{where}.columns", columns, _COLUMNS)
    names = tuple(_name(f"{where}.columns.{column}", column, said) for column, said in columns.items())
    if not names:
        raise ValueError(f"{where}.columns is empty")
    label = found.get("protocol_label")
    return Group(
        where,
        "array",
        {"protocol": (_text(f"{where}.protocol_label", label),)} if label is not None else {},
        names,
        {"protocol": _text(f"{where}.protocol", found.get("protocol", ALL)).lower()},
    )


def _name(where: str, column: str, said: object) -> Name:
    if isinstance(said, str):
        said = {"metric": said}
    found = _table(where, said)
    _known(where, found, _COLUMN_KEYS)
    if "metric" not in found:
        raise ValueError(f"{where}: metric is missing")
    factor = found.get("factor", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1e300:
        raise ValueError(f"{where}.factor is {factor!r}: write a number above 0")
    labels = _table(f"{where}.where", found.get("where", {}))
    patterns = {label: _text(f"{where}.where.{label}", pattern) for label, pattern in labels.items()}
    for label, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where}.where.{label} is {pattern!r}: {error}") from None
    metric = _text(f"{where}.metric", found["metric"])
    if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", metric):
        raise ValueError(f"{where}.metric is {metric!r}: write a metric's name, labels go into where")
    return Name(metric, column, factor=float(factor), where=patterns)


def _known(where: str, found: Mapping[str, object], keys: Collection[str]) -> None:
    for key in found:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            raise ValueError(
                f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )


def _table(where: str, found: object) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise ValueError(f"{where} is {found!r}: write a table")
    return found


def _text(where: str, found: object) -> str:
    if not isinstance(found, str) or not found:
        raise ValueError(f"{where} is {found!r}: write a text")
    return found
