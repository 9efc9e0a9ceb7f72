"""Wellfed's collectors in somebody else's exporter: `python examples/embed.py [PORT]`, then scrape it."""

import sys

from prometheus_client import REGISTRY, start_http_server

from wellfed.collectors.embed import Wellfed

REGISTRY.register(Wellfed(collectors="cpu,memory,pressure,disk"))
server, thread = start_http_server(int(sys.argv[1]) if len(sys.argv) > 1 else 9999, addr="127.0.0.1")
thread.join()
