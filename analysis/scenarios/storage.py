"""How long a storage server takes to answer, given what is asked of it.

A closed queueing network in its asymptotic form: an idle server answers in its service time; a saturated one
makes the requests in flight wait until its throughput has served them all. Between the two a smooth maximum.
Requests beyond the client's slots wait in the client, which is execution time that is not round-trip time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wellfed.analysis.scenarios.faults import Parameters
from wellfed.analysis.scenarios.plan import Storage

__all__ = ["Answer", "respond"]

F = NDArray[np.float64]

#: Seconds a lost TCP segment delays its request: one minimum retransmission timeout.
RETRANSMIT = 0.21
#: Share of the reads' delay that metadata operations of the same server see too.
BEHIND = 0.15
#: Bytes of one TCP segment on a jumbo-frame network.
SEGMENT = 8948.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds per request, shape (variants, hosts, 1); `busy`: the server's utilisation."""

    rtt: F
    execution: F
    metadata: F
    busy: F


def _smooth_max(a: F, b: F) -> F:
    return np.sqrt(np.sqrt(a**4 + b**4))


def respond(store: Storage, reading: F, looking: F, size: F, parameters: Parameters) -> Answer:
    """Answer times for `reading` data requests of `size` bytes and `looking` metadata operations in flight.

    reading, looking, size: (variants, hosts, 1), as the loader workers have them outstanding.
    """

    def host(name: str) -> F:
        return parameters[name][:, :, :1]

    slots = store.slots * host("slots")
    sent = np.minimum(reading, slots)
    capacity = store.capacity * host("capacity") * host("speed")
    drain = sent.sum(axis=1, keepdims=True) * size / capacity
    client = sent * size / (store.client * host("client"))
    alone = store.rtt * host("service")
    lost = 1.0 - (1.0 - host("loss")) ** (size / SEGMENT)
    rtt = _smooth_max(_smooth_max(alone, drain), client) + lost * RETRANSMIT
    queue = rtt * np.maximum(0.0, reading / slots - 1.0)
    served = store.metadata_capacity * host("metadata_capacity")
    lookups = looking.sum(axis=1, keepdims=True) / served
    metadata = _smooth_max(store.metadata_rtt * host("metadata_service"), lookups)
    metadata = metadata + host("loss") * RETRANSMIT + BEHIND * np.maximum(0.0, rtt - store.rtt)
    return Answer(rtt, rtt + queue, metadata, np.minimum(1.0, drain / rtt))
