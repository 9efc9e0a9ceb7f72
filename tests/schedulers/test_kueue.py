"""What waits in Kueue's queues is summed over them; who was not told to ask does not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfed.collectors.endpoints import Endpoints
from wellfed.collectors.fetch import target
from wellfed.collectors.kueue import Kueue, pending
from wellfed.collectors.registry import Roots, Row

PAGE = b"""# HELP kueue_pending_workloads The number of pending workloads
# TYPE kueue_pending_workloads gauge
kueue_pending_workloads{cluster_queue="team-a",status="active"} 2
kueue_pending_workloads{cluster_queue="team-a",status="inadmissible"} 1
kueue_pending_workloads{cluster_queue="team \\"b\\" }",replica_role="leader",status="active"} 4
kueue_admitted_active_workloads{cluster_queue="team-a"} 7
kueue_local_queue_pending_workloads{name="x",namespace="n",status="active"} 2
"""


class Server(ThreadingHTTPServer):
    page = PAGE
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.page)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def controller() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def roots(server: Server) -> Roots:
    return Roots(endpoints=Endpoints(kueue=target(f"127.0.0.1:{server.server_port}")))


def test_pending_workloads_of_all_queues_are_one_number(controller: Server) -> None:
    collector = Kueue()
    assert collector.read(roots(controller), 0.0) == [Row("host", (), {"jobs_pending": 7.0})]
    assert collector.reason == ""
    # A credential does not leave over a plain connection.
    assert controller.asked == [""]


def test_by_queue() -> None:
    assert pending(PAGE) == {"team-a": 3.0, 'team \\"b\\" }': 4.0}


def test_an_empty_queue_is_zero_and_another_page_is_an_error(controller: Server) -> None:
    controller.page = b'kueue_cluster_queue_status{cluster_queue="a"} 1\n'
    assert Kueue().read(roots(controller), 0.0) == [Row("host", (), {"jobs_pending": 0.0})]
    controller.page = b"node_load1 1\n"
    with pytest.raises(ValueError, match="no metrics of Kueue"):
        Kueue().read(roots(controller), 0.0)


def test_who_was_not_told_does_not_ask_and_a_wrong_address_is_refused() -> None:
    collector = Kueue()
    assert collector.read(Roots(), 0.0) == []
    assert collector.reason == "no Kueue was named"
    with pytest.raises(ValueError, match="write an address"):
        target("file:///etc/passwd")


def test_a_controller_that_is_gone_is_a_reason_and_comes_back(controller: Server) -> None:
    collector = Kueue()
    there = roots(controller)
    gone = Roots(endpoints=Endpoints(kueue=target("127.0.0.1:9")))
    assert collector.read(gone, 0.0) == []
    assert collector.reason == "nothing listens at http://127.0.0.1:9/metrics"
    collector = Kueue()
    assert collector.read(there, 0.0) == collector.read(there, 30.0) != []
    collector.close()


@given(st.binary(max_size=60))
def test_any_page_is_counts_or_a_value_error(data: bytes) -> None:
    try:
        found = pending(b'kueue_pending_workloads{cluster_queue="' + data)
    except ValueError:
        return
    assert all(value >= 0 for value in found.values())
