"""What the value of an option may be, and what to write instead where it is not."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime, timedelta

__all__ = [
    "parse_boolean",
    "parse_header",
    "parse_netloc",
    "parse_networks",
    "parse_pairs",
    "parse_positive",
    "parse_size",
    "parse_time",
    "parse_url",
    "parse_urls",
    "parse_whole",
]


def parse_boolean(text: str) -> bool:
    """`true`, `yes`, `on`, `1` and their opposites. Raises ValueError."""
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("write true or false")


def parse_positive(text: str) -> float:
    """A number above 0. Raises ValueError."""
    value = float(text)
    if not value > 0:
        raise ValueError("must be above 0")
    return value


def parse_whole(text: str) -> int:
    """A whole number of 1 or more. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def parse_pairs(text: str) -> dict[str, str]:
    """`name=value,other=value`; a name given again counts last. Raises ValueError."""
    pairs = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            raise ValueError("write name=value, several separated by commas")
        pairs[name] = value
    return pairs


def parse_size(text: str) -> int:
    """`20GB`, `512 MiB` or plain bytes. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?\s*", text)
    if not match:
        raise ValueError("write a size such as 20GB or 512MiB")
    number, prefix, binary = match.groups()
    size = float(number) * (1024 if binary else 1000) ** " kMGT".index(prefix or " ")
    if size >= 2**63:
        raise ValueError("write a size that a disk can have")
    return int(size)


def parse_time(text: str) -> datetime:
    """An ISO 8601 time (UTC unless it says otherwise), `now`, or an age such as `90m`, `6h`, `7d`.

    Raises ValueError.
    """
    match = re.fullmatch(r"-?(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match:
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[match[2]]
        return datetime.now(UTC) - timedelta(**{unit: float(match[1])})
    if text.strip() == "now":
        return datetime.now(UTC)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError("write a time such as 2026-05-01T12:00 or an age such as 6h") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_url(text: str) -> str:
    """An address that can be fetched. Raises ValueError."""
    from wellfed.collectors.fetch import target

    return target(text).url


def parse_urls(text: str) -> tuple[str, ...]:
    """Several of them, separated by commas. Raises ValueError."""
    return tuple(parse_url(part) for part in text.split(",") if part.strip())


def parse_networks(text: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    """Addresses or networks, separated by commas. Raises ValueError."""
    try:
        return tuple(
            ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip()
        )
    except ValueError:
        raise ValueError("write addresses or networks such as 10.0.0.7,10.1.0.0/16") from None


def parse_header(text: str) -> str:
    """The name of an HTTP header, lower case. Raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9-]+", text):
        raise ValueError("write the name of a header, such as X-Forwarded-User")
    return text.lower()


def parse_netloc(text: str) -> str:
    """Host and port of an http(s) address without a path. Raises ValueError."""
    match = re.fullmatch(r"https?://([^/?#@\s]+)/?", text.strip())
    if not match:
        raise ValueError("write an address such as https://wellfed.example.org")
    return match[1].lower()
