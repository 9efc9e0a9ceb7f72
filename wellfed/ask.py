"""`wellfed diagnose` and `wellfed report`: read the tables, diagnose them, write the answer out."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping

from wellfed.analysis.report import content, markdown, page, rows, terminal
from wellfed.errors import UserError
from wellfed.source import answer

__all__ = ["diagnose", "report"]

#: What --format may say, and the ends of file names that mean it.
FORMATS = {"text": ".txt", "html": ".html", "markdown": ".md", "csv": ".csv", "json": ".json"}


def diagnose(options: Mapping[str, object]) -> int:
    """Prints the diagnosis as text, or as the JSON document with --json. Returns the exit status."""
    document = answer(options).document
    if options.get("json"):
        sys.stdout.write(_json(document))
    else:
        terminal.write(content.build(document), sys.stdout, _width())
    return 0


def report(options: Mapping[str, object]) -> int:
    """Writes the report of everything, a job or a user in one format. Returns the exit status."""
    out = str(options["out"]) if options.get("out") else None
    kind = _format(options.get("format"), out)
    job, user = (str(options[name]) if options.get(name) else None for name in ("job", "user"))
    if job and user:
        raise UserError("--job and --user do not go together: a job has one user")
    document = content.narrow(answer(options).document, job, user)
    told = content.build(document, job, user)
    if kind == "text" and out is None:
        terminal.write(told, sys.stdout, _width())
        return 0
    text = {
        "text": lambda: terminal.render(told),
        "html": lambda: page.render(told),
        "markdown": lambda: markdown.render(told),
        "csv": lambda: rows.render(document),
        "json": lambda: _json(document),
    }[kind]()
    if out is None:
        sys.stdout.write(text)
    else:
        _write(out, text)
    return 0


def _format(wanted: object, out: str | None) -> str:
    if wanted:
        if wanted not in FORMATS:
            raise UserError(f"--format is {wanted!r}: write one of {', '.join(FORMATS)}")
        return str(wanted)
    end = os.path.splitext(out or "")[1].lower()
    return next((kind for kind, suffix in FORMATS.items() if suffix == end), "text")


def _write(path: str, text: str) -> None:
    """The file, whole or not at all. Raises UserError."""
    fresh = f"{path}.{os.getpid()}.part"
    try:
        with open(fresh, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.replace(fresh, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def _json(document: Mapping[str, object]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _width() -> int:
    return min(120, shutil.get_terminal_size((100, 24)).columns)
