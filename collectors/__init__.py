"""What runs on each node: one flat module a source, and the parts that sample and publish.

May import: the standard library, psutil, pynvml, pyroute2, prometheus-client, opentelemetry. Never Polars,
Dash, wellfed.analysis or wellfed.dashboard: the agent installs and runs without them (tested).
`catalog` is the contract that everything else reads; analysis imports it and nothing else here.
"""
