"""The alert rules that ship with Wellfed: reading their thresholds, rendering them with others.

A threshold is a value of a rule file with its name beside it (`0.3 # starved_share`): a comment to
Prometheus, a handle to us. What the names mean stands in alerts/thresholds.yml. `wellfed alerts --write DIR`
writes the rule files, the routing of Alertmanager and the runbooks, so that a checkout is not needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import yaml

from wellfed.errors import UserError
from wellfed.options import nearest
from wellfed.prices import Prices

__all__ = ["RULES", "Alert", "Threshold", "alerts", "catalogue", "render", "thresholds"]

#: Files of rules, in the order of the documentation.
RULES = ("wellfed.rules.yml", "dcgm_node.rules.yml")
_RUNBOOKS = "alerts/runbooks"
_MARK = re.compile(r"(?P<value>[^\s#]+)(?P<gap> +# )(?P<name>[a-z][a-z0-9_]*)$", re.MULTILINE)
_NUMBER = re.compile(r"\d+(\.\d+)?")
_DURATION = re.compile(r"\d+(ms|[smhdwy])")


@dataclass(frozen=True, slots=True)
class Threshold:
    """A value that a user may set. value: a number, or a duration of Prometheus such as 5m."""

    name: str
    value: str
    help: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert of a rule file, as documentation needs it. wait: its `for`, "" for at once."""

    name: str
    severity: str
    area: str
    wait: str
    summary: str
    thresholds: tuple[str, ...]


def _folder() -> Traversable:
    return files("wellfed") / "alerts"


def thresholds() -> Mapping[str, Threshold]:
    """Every threshold by name, with the value that the rule files ship."""
    helps: dict[str, str] = yaml.safe_load((_folder() / "thresholds.yml").read_text("utf-8"))
    values = {m["name"]: m["value"] for name in RULES for m in _MARK.finditer(_text(name))}
    return {name: Threshold(name, value, helps[name]) for name, value in sorted(values.items())}


def catalogue(name: str) -> list[Alert]:
    """The alerts of a rule file."""
    text = _text(name)
    parts = re.split(r"^ +- (?:alert|record): (\S+)$", text, flags=re.MULTILINE)
    marks = {part: _MARK.findall(body) for part, body in zip(parts[1::2], parts[2::2], strict=True)}
    return [
        Alert(
            rule["alert"],
            rule["labels"]["severity"],
            rule["labels"]["area"],
            rule.get("for", ""),
            rule["annotations"]["summary"],
            tuple(dict.fromkeys(found[2] for found in marks[rule["alert"]])),
        )
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]


def render(text: str, values: Mapping[str, str]) -> str:
    """The text of a rule file with the named thresholds replaced.

    Raises UserError for a name that does not exist and for a value of another kind than the one it replaces.
    """
    known = thresholds()
    for name, value in values.items():
        if name not in known:
            raise UserError(f"--threshold: no threshold is called {name!r}{nearest(name, known)}")
        kind, example = (_NUMBER, "a number") if _NUMBER.fullmatch(known[name].value) else (_DURATION, "5m")
        if not kind.fullmatch(value):
            raise UserError(
                f"--threshold {name} is {value!r}: write {example}, as in {name}={known[name].value}"
            )
    return _MARK.sub(lambda m: values.get(m["name"], m["value"]) + m["gap"] + m["name"], text)


def alerts(options: Mapping[str, object]) -> int:
    """`wellfed alerts`: writes the rules to --write DIR, or prints the thresholds. Raises UserError."""
    values = options.get("threshold") or {}
    assert isinstance(values, dict)
    price = options.get("price")
    if isinstance(price, Prices):
        if price.models:
            raise UserError("--price: the verdicts do not tell models apart; give one price, such as 2.50")
        values = {**values, "price": f"{price.default:.10g}"}
    rendered = {name: render(_text(name), values) for name in RULES}
    folder = options.get("write")
    if not folder:
        for threshold in thresholds().values():
            value = values.get(threshold.name, threshold.value)
            print(f"{threshold.name + '=' + value:28} {threshold.help}")
        return 0
    pages = {page.name: page.read_text("utf-8") for page in (_folder() / "runbooks").iterdir()}
    base = str(options.get("runbooks") or os.path.join(os.path.abspath(str(folder)), "runbooks")).rstrip("/")
    out = {
        name: text.replace(f"runbook_url: {_RUNBOOKS}/", f"runbook_url: {base}/")
        for name, text in rendered.items()
    }
    out["alertmanager.yml"] = _text("alertmanager.yml")
    out |= {os.path.join("runbooks", name): text for name, text in pages.items()}
    _write(str(folder), out)
    print(f"wrote {', '.join((*RULES, 'alertmanager.yml'))} and {len(pages)} runbooks to {folder}")
    return 0


def _text(name: str) -> str:
    return (_folder() / name).read_text("utf-8")


def _write(folder: str, texts: Mapping[str, str]) -> None:
    try:
        os.makedirs(os.path.join(folder, "runbooks"), exist_ok=True)
        for name, text in texts.items():
            path = os.path.join(folder, name)
            with open(path + ".tmp", "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(path + ".tmp", path)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}") from error
