"""How a hub starts: what it says when it cannot, and when it is ready."""

from __future__ import annotations

import socket
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import fetch, free_port, until

from wellfed import hub, otlp_server
from wellfed.analysis.store import Store
from wellfed.cli import main
from wellfed.otlp_server import OtlpServer

ADDRESSES = ("--address", "--otlp-address", "--otlp-grpc-address", "--metrics-address")


@pytest.mark.parametrize("taken", ["--address", "--otlp-address", "--otlp-grpc-address", "--metrics-address"])
def test_a_taken_port_is_one_line(taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        free = [f"{flag}=127.0.0.1:0" for flag in ADDRESSES if flag != taken]
        assert main(["hub", f"--data={tmp_path / 's'}", *free, f"{taken}=127.0.0.1:{port}"]) == 2
    error = capsys.readouterr().err
    assert (f"127.0.0.1:{port} is taken" in error, error.count("\n")) == (True, 1)
    with Store(tmp_path / "s"):
        pass


def test_a_hub_that_may_open_few_files_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp_server, "allow_files", lambda _: 64)
    assert main(["hub", f"--data={tmp_path / 's'}", *(f"{flag}=127.0.0.1:0" for flag in ADDRESSES)]) == 2
    error = capsys.readouterr().err
    assert ("this process may open 64: ulimit -n" in error, error.count("\n")) == (True, 1)
    with Store(tmp_path / "s"):
        pass


def test_a_hub_is_ready_once_its_pages_are_served_and_no_longer_without_otlp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    seen: list[object] = []

    def ask() -> object:
        try:
            return fetch(f"http://127.0.0.1:{port}/-/ready")
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def prepared(*_: object, ready: Callable[[], None], **more: object) -> Callable[[], None]:
        def run() -> None:
            seen.append(until(ask))
            ready()
            seen.append(until(lambda: (said := ask()) != 503 and said))
            (server,) = servers
            server._server.should_exit = True
            server._thread.join(10)
            seen.append(ask())

        return run

    servers: list[OtlpServer] = []
    start = OtlpServer.start
    monkeypatch.setattr(OtlpServer, "start", lambda self: servers.append(self) or start(self))
    monkeypatch.setattr(hub, "prepare", prepared)
    free = [f"{flag}=127.0.0.1:{port if flag == '--metrics-address' else 0}" for flag in ADDRESSES]
    assert main(["hub", f"--data={tmp_path / 's'}", *free]) == 0
    assert seen == [503, b"ready\n", 503]
