"""A confined process opens and asks nothing but what it may, and takes no name for a path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from inspector.runtime.confinement import list_hub_hosts, takes_local_paths

PROGRAM = """
import os, socket, sys
from pathlib import Path
from inspector.runtime.confinement import confine, list_code_folders
confine(folders=[*list_code_folders(), sys.argv[1]], hosts=sys.argv[2:])
def tell(what):
    try:
        eval(what)
        return "done"
    except PermissionError:
        return "refused"
    except OSError as error:
        return type(error).__name__
import json
print(json.dumps({line: tell(line) for line in sys.stdin.read().splitlines()}))
"""


def run_confined(folder: Path, lines: list[str], *hosts: str) -> dict[str, str]:
    """Return what each line came to in a process that may read a folder and ask hosts."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), *hosts], input="\n".join(lines), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_files_elsewhere_are_not_opened_and_folders_not_listed(tmp_path: Path) -> None:
    """Nor by a link out of its own folder, nor what other processes have in their environment."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "file").write_text("x")
    (tmp_path / "secret").write_text("x")
    (own / "link").symlink_to(tmp_path / "secret")
    told = run_confined(
        own,
        [
            f"open({str(own / 'file')!r})",
            f"os.listdir({str(own)!r})",
            "__import__('sqlite3')",
            "open('/proc/self/status')",
            f"open({str(tmp_path / 'secret')!r})",
            f"open({str(tmp_path / 'new')!r}, 'w')",
            f"open({str(own / 'link')!r})",
            f"os.open({str(own / '..' / 'secret')!r}, os.O_RDONLY)",
            f"list(os.scandir({str(tmp_path)!r}))",
            "open('/etc/passwd')",
            "os.listdir('/etc')",
            "open('/proc/self/root/etc/passwd')",
            "open('/proc/self/environ')",
            "Path('/etc/passwd').read_text()",
        ],
    )
    assert list(told.values()) == ["done"] * 4 + ["refused"] * 10


def test_other_hosts_are_neither_resolved_nor_connected_to(tmp_path: Path) -> None:
    """A name that begins with a dot is for all below it."""
    told = run_confined(
        tmp_path,
        [
            "socket.getaddrinfo('localhost', 80)",
            "socket.create_connection(('localhost', 1), 0.1)",
            "socket.getaddrinfo('127.0.0.1', 80)",
            "socket.gethostbyname('example.com')",
            "socket.create_connection(('example.com', 80))",
            "socket.getaddrinfo('evil-hf.co', 80)",
            "socket.getaddrinfo('localhost.evil', 80)",
            "socket.getaddrinfo('cas.hf.co', 80)",
        ],
        *("localhost", ".hf.co"),
    )
    *told_first, last = told.values()
    assert told_first == ["done", "ConnectionRefusedError", *["refused"] * 5]
    assert last != "refused"


def test_a_process_that_may_ask_nobody_connects_to_no_address(tmp_path: Path) -> None:
    lines = [
        "socket.socket().connect(('127.0.0.1', 1))",
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 1))",
    ]
    assert list(run_confined(tmp_path, lines).values()) == ["refused", "refused"]


PATHS = """
import sys
from pathlib import Path
from inspector.errors import InspectorError
from inspector.runtime.confinement import confine, list_code_folders
from inspector.source.locate import locate
from inspector.training_files.names import is_missing_path
from inspector.training_files.read import read_training_file
folder = Path(sys.argv[1])
def tell(call):
    try:
        return call()
    except InspectorError as error:
        return str(error)
read = lambda: read_training_file(str(folder / "train.yaml")).settings.get("sharding")
before = (tell(lambda: locate(str(folder), offline=True).id), is_missing_path(str(folder)), tell(read))
confine(folders=[*list_code_folders(), folder], hosts=())
after = (tell(lambda: locate(str(folder), offline=True)), is_missing_path(str(folder)), tell(read))
for value in (*before, *after):
    print(value)
"""


def test_no_name_is_taken_for_a_path_even_where_it_may_be_read(tmp_path: Path) -> None:
    """A model's folder, the model of a training file, and the DeepSpeed file beside one."""
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    (tmp_path / "train.yaml").write_text("base_model: org/model\nadapter: lora\nlora_r: 8\ndeepspeed: zero.json\n")
    done = subprocess.run([sys.executable, "-c", PATHS, str(tmp_path)], capture_output=True, text=True, check=True)
    found, missing, sharding, refused, missing_then, sharding_then = done.stdout.splitlines()
    assert (found, missing, sharding) == (str(tmp_path), "False", "zero2")
    assert refused.startswith("The path ")
    assert (missing_then, sharding_then) == ("True", "None")


@pytest.mark.parametrize(
    ("endpoint", "environment", "hosts"),
    [
        ("https://huggingface.co", {}, [".hf.co", "huggingface.co"]),
        ("http://user:word@127.0.0.1:8080/hub", {}, [".hf.co", "127.0.0.1"]),
        ("https://h", {"https_proxy": "http://proxy:3128"}, [".hf.co", "h", "proxy"]),
    ],
)
def test_the_hosts_of_the_hub_are_those_of_its_address_its_files_and_a_proxy(
    endpoint: str, environment: dict[str, str], hosts: list[str]
) -> None:
    assert list_hub_hosts(endpoint, environment) == hosts


def test_this_process_takes_paths() -> None:
    assert takes_local_paths()
