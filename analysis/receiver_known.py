"""The layouts of known senders, within a bound of memory; nodes of a kind share what they have in common."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict

from wellfed.analysis.receiver_layout import Kind, Layout
from wellfed.analysis.receiver_learn import learn
from wellfed.analysis.receiver_wire import first_resource, head

__all__ = ["Known"]

#: Kinds of one size of request that are tried before a request is learned from its bytes: 1 ms each.
TRIED = 8

_Key = tuple[int, bytes]


class Known:
    """Layouts by sender and size of the request, the last used ones. most: bytes that they may hold.

    All methods may be called from any thread.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._layouts: OrderedDict[_Key, Layout] = OrderedDict()
        self._kinds: dict[int, list[Kind]] = {}
        self._users: Counter[Kind] = Counter()
        self.held = 0

    def find(self, data: bytes) -> Layout:
        """The layout of a request: its sender's, one after its kind, or a new one. Raises ValueError."""
        key = (len(data), first_resource(data))
        with self._lock:
            layout = self._layouts.get(key)
            if layout is not None:
                self._layouts.move_to_end(key)
        if layout is not None and layout.fits(data):
            return layout
        return self._keep(key, self._alike(data) or learn(data))

    def learn(self, data: bytes) -> Layout:
        """A new layout, where the one found could not read the request."""
        return self._keep((len(data), first_resource(data)), learn(data))

    def _alike(self, data: bytes) -> Layout | None:
        sender = head(data)
        if sender is None:
            return None
        with self._lock:
            kinds = self._kinds.get(len(data) - sender.stop, ())[-TRIED:]
        for kind in reversed(kinds):
            layout = kind.of(data, sender)
            if layout is not None:
                return layout
        return None

    def _keep(self, key: _Key, layout: Layout) -> Layout:
        """The same layout, kept in the place of the sender's earlier one."""
        with self._lock:
            if key in self._layouts:
                self._drop(self._layouts.pop(key))
            if not layout.kind.steady:
                return layout
            self._layouts[key] = layout
            self.held += layout.cost
            if layout.kind not in self._users:
                self.held += layout.kind.cost
                if layout.kind.shared:
                    self._kinds.setdefault(layout.kind.size, []).append(layout.kind)
            self._users[layout.kind] += 1
            while self.held > self._most and len(self._layouts) > 1:
                self._drop(self._layouts.popitem(last=False)[1])
        return layout

    def _drop(self, layout: Layout) -> None:
        kind = layout.kind
        self.held -= layout.cost
        self._users[kind] -= 1
        if self._users[kind]:
            return
        del self._users[kind]
        self.held -= kind.cost
        if kind.shared:
            self._kinds[kind.size].remove(kind)
            if not self._kinds[kind.size]:
                del self._kinds[kind.size]
