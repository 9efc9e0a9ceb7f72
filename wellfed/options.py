"""Every option once: its flag, its environment variable, its key in the configuration file.

An option `metrics_address` is `--metrics-address` on the command line, `WELLFED_METRICS_ADDRESS` in the
environment and `metrics_address` in the TOML file; that order wins. Unknown keys are refused.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from wellfed.errors import UserError
from wellfed.prices import Prices
from wellfed.values import (
    parse_boolean,
    parse_header,
    parse_netloc,
    parse_networks,
    parse_pairs,
    parse_positive,
    parse_size,
    parse_time,
    parse_url,
    parse_urls,
    parse_whole,
)

__all__ = ["OPTIONS", "Option", "read_config", "resolve"]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. parse raises ValueError with what to write instead. default: None = not set. table: reads
    a setting that is a table of the configuration file, and that alone; raises ValueError too.
    """

    name: str
    help: str
    parse: Callable[[str], object] = str
    default: object = None
    metavar: str = "TEXT"
    table: Callable[[Mapping[str, object]], object] | None = None
    #: The flag may be given again; what it was given is joined by this.
    joined_by: str = ""

    @property
    def flag(self) -> str:
        """`--metrics-address`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """`WELLFED_METRICS_ADDRESS`."""
        return "WELLFED_" + self.name.upper()

    @property
    def boolean(self) -> bool:
        """Whether it is a switch: the flag takes no value."""
        return self.parse is parse_boolean


def _arrays(tables: Mapping[str, object]) -> object:
    from wellfed.collectors.arrays import read_arrays

    return read_arrays(tables)


def _data_home() -> str:
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(home, "wellfed")


def _options(*options: Option) -> Mapping[str, Option]:
    return {option.name: option for option in options}


#: Every option by name, in the order of help and docs.
OPTIONS: Mapping[str, Option] = _options(
    Option("config", "configuration file (TOML)", metavar="FILE"),
    Option("address", "where the dashboard listens", default="127.0.0.1:8050", metavar="HOST:PORT"),
    Option(
        "dashboard_token_file",
        "token wanted by the dashboard and its API, on the first line of this file",
        metavar="FILE",
    ),
    Option(
        "trusted_proxy",
        "proxies that say who somebody is, addresses or networks separated by commas",
        parse_networks,
        metavar="NETWORKS",
    ),
    Option(
        "identity_header",
        "header in which a trusted proxy says who somebody is",
        parse_header,
        "x-forwarded-user",
        "NAME",
    ),
    Option("external_url", "address under which a proxy offers the dashboard", parse_netloc, metavar="URL"),
    Option("topology", "leaves and spines: Slurm's topology.conf or ibnetdiscover's output", metavar="FILE"),
    Option("insecure", "let everybody see the dashboard beyond loopback", parse_boolean, False),
    Option("otlp_address", "where OTLP over HTTP is taken", default="127.0.0.1:4318", metavar="HOST:PORT"),
    Option(
        "otlp_grpc_address",
        "where OTLP over gRPC is taken, empty for nowhere",
        default="127.0.0.1:4317",
        metavar="HOST:PORT",
    ),
    Option("token_file", "bearer tokens that OTLP senders must show, one a line", metavar="FILE"),
    Option("metrics_address", "where /metrics listens", default="127.0.0.1:9812", metavar="HOST:PORT"),
    Option("web_config", "TLS and basic auth of /metrics, an exporter-toolkit web.yml", metavar="FILE"),
    Option(
        "data",
        "store, or a folder of <table>.parquet files, also s3:// gs:// az:// (default: the local store)",
        metavar="DIR",
    ),
    Option("host", "name of this machine in every row (default: its hostname)", metavar="NAME"),
    Option("procfs", "where procfs is mounted", default="/proc", metavar="DIR"),
    Option("sysfs", "where sysfs is mounted", default="/sys", metavar="DIR"),
    Option("collectors", "collectors to run, separated by commas (default: all)", metavar="NAMES"),
    Option(
        "dcgm_url",
        "dcgm-exporter that looks into GPUs without GPM",
        parse_url,
        "http://127.0.0.1:9400/metrics",
        "URL",
    ),
    Option(
        "inference_urls",
        "metrics pages of inference servers, separated by commas (default: their usual ports here)",
        parse_urls,
        metavar="URLS",
    ),
    Option("kueue_url", "metrics page of Kueue's controller, for work that waits", parse_url, metavar="URL"),
    Option(
        "slurm_pending",
        "ask Slurm for its pending jobs; one agent of a cluster is enough",
        parse_boolean,
        False,
    ),
    Option("array", "storage arrays: tables [array.NAME], see [arrays](arrays.md)", table=_arrays),
    Option("once", "read everything once, print the exposition and exit", parse_boolean, False),
    Option(
        "self_profile", "run for ten seconds, print what each collector costs and exit", parse_boolean, False
    ),
    Option(
        "hostname_label",
        "put this machine's name on every sample as the label hostname",
        parse_boolean,
        False,
    ),
    Option(
        "names",
        "publish the same facts under other exporters' names too, scraped or pushed: dcgm,node_exporter",
        metavar="NAMES",
    ),
    Option(
        "textfile", "write the metrics into this folder for node_exporter's textfile collector", metavar="DIR"
    ),
    Option("otlp_endpoint", "send windows by OTLP to this address, http://host:4318", metavar="URL"),
    Option("spool", "folder for windows that were not acknowledged (default: memory, 32 MiB)", metavar="DIR"),
    Option(
        "spool_bytes",
        "size of the spool above which the oldest windows are dropped",
        parse_size,
        10**9,
        "SIZE",
    ),
    Option("spool_hours", "age above which spooled windows are dropped", parse_positive, 48.0, "HOURS"),
    Option("retention_days", "age after which history is removed", parse_positive, 30.0, "DAYS"),
    Option(
        "retention_bytes", "size above which the oldest history is removed", parse_size, 20 * 10**9, "SIZE"
    ),
    Option(
        "from", "start of the range: a time, or an age such as 6h (default: all)", parse_time, None, "TIME"
    ),
    Option("to", "end of the range: a time, or an age such as 10m", parse_time, None, "TIME"),
    Option(
        "prometheus",
        "read this server (Prometheus, Thanos, Mimir, VictoriaMetrics) instead of files",
        metavar="URL",
    ),
    Option(
        "selector", 'label matchers for every series of the server, such as cluster="a"', metavar="LABELS"
    ),
    Option(
        "header", "header for the server, 'Name: value'; may be given again", metavar="HEADER", joined_by="\n"
    ),
    Option("bearer_token_file", "file with the bearer token for the server", metavar="FILE"),
    Option("basic_auth_file", "file with user:password for the server", metavar="FILE"),
    Option("ca_file", "certificates that the server's is checked against (PEM)", metavar="FILE"),
    Option("cert_file", "client certificate for the server (PEM)", metavar="FILE"),
    Option("key_file", "key of the client certificate (PEM)", metavar="FILE"),
    Option(
        "lake",
        "read the sealed hours of a store, folder or s3://bucket/path, file by file; again for more hubs",
        metavar="URL",
        joined_by="\n",
    ),
    Option(
        "cluster",
        "run --lake on Ray (local, or an address such as ray://head:10001) or Dask (tcp://head:8786)",
        metavar="ADDRESS",
    ),
    Option("parallel", "queries that the server gets at a time", parse_whole, 4, "N"),
    Option(
        "price",
        "price of one GPU for one hour: 2.50, or by model: H100=2.98,A100=1.29,2.50",
        Prices.parse,
        None,
        "MONEY",
    ),
    Option("job", "only this job, by its id or name", metavar="JOB"),
    Option("user", "only the jobs of this user", metavar="NAME"),
    Option("format", "text, html, markdown, csv or json (default: as --out ends)", metavar="FORMAT"),
    Option("out", "folder or file to write to; a store's history also to s3:// gs:// az://", metavar="PATH"),
    Option("json", "print JSON", parse_boolean, False),
    Option("scenario", "scenario to simulate, or list to see them (default: a mixed fleet)", metavar="NAME"),
    Option("gpus", "GPUs to simulate", parse_whole, None, "N"),
    Option("seed", "seed of the simulation", int, 1, "N"),
    Option("write", "folder to write the rules to (default: print the thresholds)", metavar="DIR"),
    Option(
        "threshold",
        "another value for a threshold of docs/alerts.md; may be given again",
        parse_pairs,
        None,
        "NAME=VALUE",
        joined_by=",",
    ),
    Option("runbooks", "where runbook links point to (default: the runbooks written)", metavar="URL"),
    Option("log_level", "debug, info, warning or error", default="warning", metavar="LEVEL"),
)

#: Where the store is unless --data names another folder.
DEFAULT_DATA = _data_home()


def nearest(word: str, known: Mapping[str, object]) -> str:
    """`; did you mean 'address'?`, or "" when nothing is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def read_config(path: str) -> dict[str, object]:
    """Keys and values of a TOML file, values as text, tables as they are. Raises UserError for what is not an
    option.
    """
    import tomllib  # 1 MiB that an agent without a file does without

    try:
        with open(path, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    known = {name: option for name, option in OPTIONS.items() if name not in ("config", "once")}
    values: dict[str, object] = {}
    for key, value in found.items():
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{nearest(key, known)}")
        if known[key].table is not None:
            if not isinstance(value, dict):
                raise UserError(f"{path}: {key} is {value!r}: write a table [{key}.NAME]")
            values[key] = value
            continue
        if isinstance(value, dict | list):
            raise UserError(f"{path}: {key} takes one value, not {type(value).__name__}")
        values[key] = str(value)
    return values


def resolve(
    names: tuple[str, ...],
    flags: Mapping[str, str | list[str] | bool | None],
    environ: Mapping[str, str],
    defaults: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:
    """Values of the named options: flag, else environment, else file, else default. Raises UserError.

    defaults: those that differ from the option's own.
    """
    path = flags.get("config") or environ.get(OPTIONS["config"].variable)
    config = read_config(str(path)) if path else {}
    values: dict[str, object] = {}
    for name in names:
        option = OPTIONS[name]
        given = flags.get(name)
        if given is not None and given is not False:
            text = option.joined_by.join(given) if isinstance(given, list) else str(given)
            values[name] = True if given is True else _parse(option, text, option.flag)
        elif environ.get(option.variable, "") != "":
            values[name] = _parse(option, environ[option.variable], option.variable)
        elif name in config:
            values[name] = _configured(option, config[name], str(path))
        else:
            values[name] = defaults.get(name, option.default)
    return values


def _configured(option: Option, value: object, path: str) -> object:
    if option.table is None:
        return _parse(option, str(value), f"{path}: {option.name}")
    assert isinstance(value, dict)
    try:
        return option.table(value)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(option: Option, text: str, where: str) -> object:
    try:
        return option.parse(text)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where} is {text!r}: {error}") from error
