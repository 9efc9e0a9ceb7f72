"""What people said about a finding: its mark in a list, the buttons, and who said what and when.

The buttons are answered by assets/notes.js, which asks the API as any other program does.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dash import html

from wellfed.analysis.notes import ACKNOWLEDGE, COMMENT, MUTE, Note, Standing
from wellfed.analysis.trouble import key
from wellfed.dashboard.view import Component, View
from wellfed.dashboard.words import ago

__all__ = ["MUTE_FOR", "actions", "dialog", "mark", "said", "standing_pills"]

#: How long a finding may be muted, as the API and a person say it; the first but one is the button's.
MUTE_FOR = (("1h", "1 hour"), ("4h", "4 hours"), ("1d", "1 day"), ("7d", "7 days"))
_BUTTON = MUTE_FOR[1]
_DID = {ACKNOWLEDGE: "Acknowledged", MUTE: "Muted", COMMENT: "Comment"}


def mark(standing: Standing) -> Component:
    """A mark for a list, None when nobody said anything that holds."""
    if standing.muted is not None:
        return html.Span("muted", className="pill", title=_told(standing.muted))
    if standing.acknowledged is not None:
        text = _told(standing.acknowledged)
        return html.Span("✓", className="mk y", title=text, role="img", **{"aria-label": text})
    return None


def standing_pills(standing: Standing) -> list[Component]:
    """What holds, in words."""
    held = (standing.acknowledged, standing.muted)
    return [html.Span(_told(note), className="pill said") for note in held if note is not None]


def actions(view: View, finding: Mapping[str, Any]) -> Component:
    """Acknowledge or take it back, mute, say something, copy a link."""
    holds, name = view.standing(finding), key(finding)
    first = (
        _button("Acknowledge", "Acknowledge (a)", "btn pri", say=ACKNOWLEDGE, of=name)
        if holds.acknowledged is None
        else _button("Take back", "No longer acknowledged", "btn", undo=holds.acknowledged.id)
    )
    long, words = _BUTTON
    second = (
        _button(
            f"Mute {long[:-1]} {long[-1]}",
            f"Hide from the lists for {words} (m)",
            "btn",
            say=MUTE,
            of=name,
            for_=long,
        )
        if holds.muted is None
        else _button("Unmute", "Back in the lists", "btn", undo=holds.muted.id)
    )
    return html.Div(
        [
            first,
            second,
            _button("Note", "Comment, or mute for another time (n)", "btn", say="ask", of=name),
            _button("Copy link", "Copy a link that stays as it is (c)", "btn", press="copy"),
        ],
        className="acts",
    )


def said(view: View, finding: Mapping[str, Any]) -> list[Component]:
    """Who said what and when, the newest first; empty when nobody did."""
    notes = view.standing(finding).said[::-1]
    if not notes:
        return []
    return [
        html.H3("What was said"),
        html.Ul([_line(note, view.answer.now) for note in notes], className="said"),
    ]


def dialog() -> Component:
    """Where one writes a note; it stays while pages are brought up to date beneath."""
    kinds = [html.Option("Comment", value=COMMENT), html.Option("Acknowledge", value=ACKNOWLEDGE)]
    kinds += [html.Option(f"Mute for {words}", value=f"{MUTE} {long}") for long, words in MUTE_FOR]
    return html.Dialog(
        [
            html.H2("Note on a finding", id="say-title"),
            html.Label("What", htmlFor="say-kind"),
            html.Select(kinds, id="say-kind"),
            html.Label("Text", htmlFor="say-text"),
            html.Textarea(id="say-text", rows=4, maxLength=2000),
            html.P("Everybody who sees this finding sees it, with your name and the time."),
            html.Div(
                [
                    html.Button("Save", id="say-save", className="btn pri", type="button"),
                    html.Button("Cancel", id="say-cancel", className="btn", type="button"),
                ],
                className="acts",
            ),
        ],
        id="say",
        **{"aria-labelledby": "say-title"},
    )


def _line(note: Note, now: datetime) -> Component:
    until = "" if note.until is None else f" until {note.until:%Y-%m-%d %H:%M}"
    what = f"{_DID[note.kind]}{until}"
    when = html.Time(
        f"{note.at:%Y-%m-%d %H:%M} UTC",
        dateTime=note.at.isoformat(timespec="seconds"),
        title=f"{ago(note.at, now)} ago",
    )
    parts: list[Component] = [html.Div([html.B(what), " · ", note.who, " · ", when], className="dim")]
    if note.text:
        parts.append(html.P(note.text))
    name = f"Take back: {what} by {note.who}"
    return html.Li([html.Div(parts), _button("✕", name, "btn tiny", undo=note.id)])


def _told(note: Note) -> str:
    """`acknowledged by ada, 12:03 UTC`."""
    if note.until is not None:
        return f"muted by {note.who} until {note.until:%Y-%m-%d %H:%M} UTC"
    return f"{_DID[note.kind].lower()} by {note.who}, {note.at:%Y-%m-%d %H:%M} UTC"


def _button(text: str, title: str, classes: str, **data: str) -> Component:
    named = {f"data-{name.rstrip('_')}": value for name, value in data.items()}
    label = {"aria-label": title} if len(text) == 1 else {}
    return html.Button(text, className=classes, title=title, type="button", **named, **label)
