"""What a process that works for strangers may open and connect to, held by an audit hook that cannot be taken off.

Who may read a path or ask a host is decided where names are read: a confined process takes no name for a path on this
machine (`takes_local_paths`). The hook is the second wall, for what libraries do with text that they are given: Python
asks it before it opens a file, lists a directory, resolves a name or connects (PEP 578), and it raises PermissionError,
which libraries know.

Not covered: files that C code opens by itself; where a process may ask some hosts, a connection to an address by its
number that nothing resolves, as no HTTP library makes it; whether a path exists, for which nothing is opened; other
processes that this one starts, but for those that it forks.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["confine", "list_code_folders", "list_hub_hosts", "takes_local_paths"]

# What Python, torch and TLS read of a system, and nothing that is anybody's own.
_OF_THE_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/proc", "/sys", "/dev", "/System", "/Library"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/localtime", "/etc/timezone", "/etc/mime.types"),
    *("/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/os-release", "/etc/apache2/mime.types"),
)
# Where a Hub keeps the files that its answers lead to, beside its own host.
_OF_THE_HUB = (".hf.co",)
# Environments hold tokens.
_ENVIRONMENT = f"{os.sep}environ"
_OPENING = frozenset({"open", "os.listdir", "os.scandir"})
_RESOLVING = frozenset({"socket.getaddrinfo", "socket.gethostbyname"})
_SENDING = frozenset({"socket.connect", "socket.sendto"})
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

_confined = False


def takes_local_paths() -> bool:
    """Tell whether a name that a user gives may be a path on this machine."""
    return not _confined


def confine(*, folders: Iterable[str | os.PathLike[str]], hosts: Iterable[str]) -> None:
    """Keep this process, until it ends, from opening files elsewhere and from connecting to other hosts.

    `folders` may be read beside what the system's libraries need; `hosts` are names, ".hf.co" for all below one.
    """
    global _confined
    roots = tuple({os.path.realpath(folder) for folder in (*_OF_THE_SYSTEM, *folders)})
    allowed = frozenset(host.lower() for host in hosts)

    def check(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPENING:
            _check_path(arguments[0], roots)
        elif event in _RESOLVING:
            _check_host(arguments[0], allowed)
        elif event in _SENDING and arguments[0].family in (socket.AF_INET, socket.AF_INET6) and not allowed:
            raise PermissionError("this process makes no connections")

    _confined = True
    sys.addaudithook(check)


def list_code_folders() -> list[Path]:
    """Return where this process's code lies: Python, what is installed, and this package with its catalogues."""
    package = Path(__file__).parents[1]
    found = [Path(sys.prefix), Path(sys.base_prefix), package, package.parent / "fixtures"]
    # Other entries of the path may be anything: `python -m` puts the working directory there.
    return [*found, *(Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages"))]


def list_hub_hosts(endpoint: str, environment: Mapping[str, str]) -> list[str]:
    """Return the hosts that answer for the Hub at an address: its own, those of its files, and proxies before it."""
    addresses = [endpoint, *(environment.get(name) or environment.get(name.lower()) or "" for name in _PROXIES)]
    return [*_OF_THE_HUB, *(host for address in addresses if (host := urlsplit(address).hostname))]


def _check_path(path: object, roots: tuple[str, ...]) -> None:
    """Raise PermissionError for a path that is below none of the roots; an open file has no path."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return
    real = os.path.realpath(os.fsdecode(path))
    if real.endswith(_ENVIRONMENT) or not any(real == root or real.startswith(root + os.sep) for root in roots):
        raise PermissionError("this process reads no such file")


def _check_host(host: object, allowed: Collection[str]) -> None:
    """Raise PermissionError for a host that is none of the allowed ones."""
    name = os.fsdecode(host).lower().rstrip(".") if isinstance(host, (str, bytes)) else ""
    if name not in allowed and not any(item.startswith(".") and name.endswith(item) for item in allowed):
        raise PermissionError("this process asks no such host")
