"""Where other programs answer, by the options: a dcgm-exporter, inference servers, storage arrays."""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wellfed.collectors.fetch import Target
    from wellfed.collectors.names import Group

__all__ = ["Array", "Endpoints"]


@dataclass(frozen=True, slots=True)
class Array:
    """A storage array's exporter. name: the key of its rows. columns: what its metrics are called."""

    name: str
    target: Target
    columns: Group


@dataclass(frozen=True, slots=True)
class Endpoints:
    """dcgm: None where it must not be asked for. inference: beside those found on this machine.
    kueue: its controller. slurm_pending: whether Slurm is asked for the jobs that wait.
    """

    dcgm: Target | None = None
    inference: tuple[Target, ...] = ()
    arrays: tuple[Array, ...] = ()
    kueue: Target | None = None
    slurm_pending: bool = False
