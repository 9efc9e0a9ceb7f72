"""Tables to answer: the store, windows, lost GPU-seconds with a cause, findings, reports.

May import: wellfed.collectors.catalog and .names (data, no collector), wellfed.errors, Polars. Never the
dashboard, never another collector module. One set of stateless Polars expressions serves stream and batch:
LazyFrame in, LazyFrame out.
"""
