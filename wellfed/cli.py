"""The `wellfed` command: parses options, runs one command, turns mistakes into one line.

Exit status: 0 done, 1 something failed on our side, 2 the user's input is wrong. Commands import what
they need when they run, so `wellfed agent` loads neither Polars nor Dash.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module

from wellfed import __version__
from wellfed.errors import UserError
from wellfed.options import OPTIONS, nearest, resolve

__all__ = ["COMMANDS", "Command", "main"]

Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    target: `module:function`, called with the resolved options, returns the exit status. defaults: of options
    where they differ from the usual ones.
    """

    name: str
    help: str
    options: tuple[str, ...]
    target: str
    example: str = ""
    actions: tuple[str, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)

    def run(self, values: Values) -> int:
        """Imports the target and calls it."""
        module, _, function = self.target.partition(":")
        try:
            call: Callable[[Values], int] = getattr(import_module(module), function)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("wellfed"):
                raise
            extra = "dashboard" if self.name in ("up", "hub", "demo") else "hub"
            raise UserError(
                f"wellfed {self.name} needs {error.name}: pip install 'wellfed[{extra}]'"
            ) from error
        return call(values)


_SOURCES = (
    "procfs",
    "sysfs",
    "collectors",
    "dcgm_url",
    "inference_urls",
    "kueue_url",
    "slurm_pending",
    "array",
)
_NODE = ("host", *_SOURCES)
_PAGES = (
    "address",
    "dashboard_token_file",
    "trusted_proxy",
    "identity_header",
    "external_url",
    "insecure",
    "topology",
)
_KEEP = ("data", "retention_days", "retention_bytes")
_SERVER = (
    "prometheus", "selector", "header", "bearer_token_file", "basic_auth_file", "ca_file", "cert_file",
    "key_file", "parallel",
)  # fmt: skip

#: Every command by name, in the order of the help.
COMMANDS: Mapping[str, Command] = {
    c.name: c
    for c in (
        Command(
            "up",
            "watch this machine: agent, store and dashboard in one command",
            (*_PAGES, "metrics_address", *_KEEP, *_NODE, "price"),
            "wellfed.up:up",
            "wellfed up --price 2.50",
        ),
        Command(
            "hub",
            "take OTLP from the agents of a cluster: store, verdicts and dashboard",
            (
                *_PAGES,
                "otlp_address",
                "otlp_grpc_address",
                "token_file",
                "metrics_address",
                "web_config",
                *_KEEP,
                *_SERVER,
                "price",
            ),
            "wellfed.hub:hub",
            "wellfed hub --otlp-address 0.0.0.0:4318 --token-file /etc/wellfed/token",
            defaults={"metrics_address": "127.0.0.1:9813"},
        ),
        Command(
            "demo",
            "the same dashboard over a simulated GPU cluster",
            (*_PAGES, "data", "scenario", "gpus", "seed", "price"),
            "wellfed.demo:demo",
            "wellfed demo --gpus 256",
        ),
        Command(
            "agent",
            "sample this machine and serve /metrics for Prometheus",
            (
                "metrics_address",
                "web_config",
                *_NODE,
                "otlp_endpoint",
                "spool",
                "spool_bytes",
                "spool_hours",
                "names",
                "hostname_label",
                "textfile",
                "once",
                "self_profile",
            ),
            "wellfed.collectors.agent:agent",
            "wellfed agent --once",
        ),
        Command(
            "diagnose",
            "name what starved the GPUs, with the evidence",
            ("data", "from", "to", *_SERVER, "lake", "cluster", "price", "json"),
            "wellfed.ask:diagnose",
            "wellfed diagnose --from 6h --json",
        ),
        Command(
            "report",
            "the same answer to hand on: for everything, a job or a user",
            ("data", "from", "to", *_SERVER, "lake", "cluster", "job", "user", "price", "format", "out"),
            "wellfed.ask:report",
            "wellfed report --job slurm:4711 --out report.html",
        ),
        Command(
            "doctor",
            "what this machine can and cannot measure, and the remedy",
            (*_SOURCES, "json"),
            "wellfed.collectors.doctor:doctor",
            "wellfed doctor",
        ),
        Command(
            "store",
            "check, repair or export a store",
            ("data", "out", "from", "to"),
            "wellfed.keep:store",
            "wellfed store export --out DIR --from 6h",
            ("check", "repair", "export"),
        ),
        Command(
            "alerts",
            "write the alert rules, with thresholds of your own",
            ("write", "threshold", "price", "runbooks"),
            "wellfed.rules:alerts",
            "wellfed alerts --write DIR --threshold starved_share=0.2",
        ),
    )
}


def parser() -> argparse.ArgumentParser:
    """The command line, built from COMMANDS and OPTIONS."""
    top = argparse.ArgumentParser(
        prog="wellfed",
        description="Is every GPU well fed, and if not, what is starving it?",
        epilog="Every option is also an environment variable (--metrics-address is WELLFED_METRICS_ADDRESS) "
        "and a key in the file given with --config (metrics_address).",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"wellfed {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for command in COMMANDS.values():
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=command.help[0].upper() + command.help[1:] + ".",
            epilog=f"example: {command.example}" if command.example else None,
            allow_abbrev=False,
        )
        if command.actions:
            sub.add_argument("action", choices=command.actions)
        for name in (*command.options, "config", "log_level"):
            option = OPTIONS[name]
            if option.table is not None:
                continue
            value = command.defaults.get(name, option.default)
            default = f" (default: {value})" if value not in (None, False) else ""
            if option.boolean:
                sub.add_argument(option.flag, dest=name, action="store_true", default=None, help=option.help)
            else:
                sub.add_argument(
                    option.flag,
                    dest=name,
                    metavar=option.metavar,
                    help=option.help + default,
                    action="append" if option.joined_by else "store",
                )
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    top = parser()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        return _mistake(f"unknown command {arguments[0]!r}{nearest(arguments[0], COMMANDS)}")
    namespace = top.parse_args(arguments)
    if namespace.command is None:
        top.print_help()
        return 2
    command = COMMANDS[namespace.command]
    try:
        values = resolve((*command.options, "log_level"), vars(namespace), os.environ, command.defaults)
        if command.actions:
            values["action"] = namespace.action
        _log(str(values["log_level"]))
        return command.run(values)
    except UserError as error:
        return _mistake(str(error))
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader of our output went away (wellfed ... | head); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _mistake(text: str) -> int:
    print(f"wellfed: {text}", file=sys.stderr)
    return 2


def _log(level: str) -> None:
    known = {"debug", "info", "warning", "error"}
    if level not in known:
        raise UserError(f"--log-level is {level!r}: write one of {', '.join(sorted(known))}")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Of libraries only warnings: what they say below that is noise, and not ours to keep secrets out of.
    logging.getLogger("wellfed").setLevel(level.upper())
