"""Colours: one place, tested for three kinds of colour blindness with the palette.

A family's colour never stands alone: its two-letter code is always beside it. Productive time is quiet, so
that loss stands out. Markup takes its colours from assets/a-tokens.css; figures, which are drawn apart, take
the same ones from a Skin. A test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["DARK", "LIGHT", "SKINS", "Skin", "mix"]


@dataclass(frozen=True, slots=True)
class Skin:
    """The colours of a theme.

    lines: of signals, neutral, because colour is for causes. ramp: from little to much of one quantity.
    families: family -> colour; the others share `other`.
    """

    name: str
    surface: str
    grid: str
    ink: str
    ink_2: str
    ink_3: str
    productive: str
    no_data: str
    cross: str
    other: str
    tip: str
    tip_edge: str
    spike: str
    good: str
    lines: Sequence[str]
    ramp: Sequence[str]
    families: Mapping[str, str]

    def colour(self, family: str) -> str:
        """The colour of a family."""
        return self.families.get(family, self.other)


DARK = Skin(
    name="dark",
    surface="#151a23",
    grid="#1f2733",
    ink="#e6ebf2",
    ink_2="#a3afbf",
    ink_3="#8391a5",
    productive="#2a3947",
    no_data="#1b212b",
    cross="#5d6b7e",
    other="#9aa5b5",
    tip="#1e2531",
    tip_edge="#3a4558",
    spike="#6b7a90",
    good="#6fe6d3",
    lines=("#e3eaf3", "#7d93ad", "#51647c"),
    ramp=("#1d2937", "#234157", "#2d6078", "#4c8694", "#86ada6", "#cfd3b0", "#f7f3cf"),
    families={
        "storage": "#f8a812",
        "cpu": "#628600",
        "pcie": "#7c6697",
        "network": "#2b86fc",
        "straggler": "#6fe6d3",
        "checkpoint": "#f2f0ac",
        "throttle": "#8d675d",
        "hardware": "#fc638c",
        "idle": "#c1bafe",
    },
)

LIGHT = Skin(
    name="light",
    surface="#ffffff",
    grid="#e6eaf0",
    ink="#141a24",
    ink_2="#465366",
    ink_3="#5b687b",
    productive="#dbe3ea",
    no_data="#f1f3f6",
    cross="#8a96a8",
    other="#6b7687",
    tip="#ffffff",
    tip_edge="#b9c4d2",
    spike="#8693a7",
    good="#02717b",
    lines=("#1f2937", "#64788f", "#9aabbf"),
    ramp=("#eef3f7", "#d3e2e8", "#a9cad3", "#72a7b4", "#43808f", "#255a69", "#123844"),
    families={
        "storage": "#d6802c",
        "cpu": "#144a01",
        "pcie": "#946dab",
        "network": "#3186f2",
        "straggler": "#02717b",
        "checkpoint": "#7f6d1e",
        "throttle": "#7b4e3d",
        "hardware": "#e54365",
        "idle": "#43309a",
    },
)

SKINS: Mapping[str, Skin] = {skin.name: skin for skin in (DARK, LIGHT)}


def mix(one: str, two: str, share: float) -> str:
    """A colour between two, share of the way from one to two."""
    pairs = ((int(one[i : i + 2], 16), int(two[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in pairs)
