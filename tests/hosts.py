"""Hosts that are network namespaces of this machine, with names, and shared memory of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["Hosts", "hosts"]


class Hosts:
    """Two hosts, gta and gtb, which are connected by one cable."""

    names = ("gta", "gtb")
    address = "10.79.0.1"  # of the first

    def __init__(self, folder: Path) -> None:
        self._names_file = folder / "hosts"
        lines = [f"10.79.0.{i} {name}" for i, name in enumerate(self.names, 1)]
        self._names_file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def on(self, host: str, command: Sequence[str | Path]) -> list[str | Path]:
        """Return the command that runs `command` on a host."""
        script = (
            f"hostname {host}; mount -t tmpfs none /dev/shm; "
            f'mount --bind {self._names_file} /etc/hosts; exec "$@"'
        )
        inside = ["unshare", "-u", "-i", "-m", "bash", "-c", script, "_", *command]
        return ["ip", "netns", "exec", f"{host}{os.getpid()}", *inside]

    def cut(self, host: str) -> None:
        """Cut the cable of a host."""
        _ip("-n", f"{host}{os.getpid()}", "link", "set", "eth0", "down")


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Make two hosts; skip the test if this user or this machine cannot."""
    if os.getuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("hosts are network namespaces, which need root, ip and unshare")
    first, second = (f"{name}{os.getpid()}" for name in Hosts.names)
    try:
        for name in (first, second):
            if _ip("netns", "add", name):
                pytest.skip("this machine cannot make network namespaces")
        cable = ("type", "veth", "peer", "name", "eth0", "netns", second)
        if _ip("link", "add", "eth0", "netns", first, *cable):
            pytest.skip("this machine cannot connect network namespaces")
        for i, name in enumerate((first, second), 1):
            _ip("-n", name, "addr", "add", f"10.79.0.{i}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield Hosts(folder)
    finally:
        _ip("netns", "del", first)
        _ip("netns", "del", second)


def _ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode
