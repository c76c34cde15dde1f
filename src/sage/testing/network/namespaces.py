"""The kernel's part: namespaces that make a machine, a TUN device inside, and an end to all that runs there.

No program is called: a machine may lack ``ip``. Everything here needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

_DEVICE = "lab0"
_SHM = "/dev/shm"
_END_S = 10.0  # to die of SIGKILL
_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x200, 0x20000, 0x4000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_IFF_TUN, _IFF_NO_PI, _TUNSETIFF = 0x0001, 0x1000, 0x400454CA
_IFF_UP = 0x1
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8922, 0x8943
_QUEUED_PACKETS = 10_000  # what the device holds for a forwarder that is busy
_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Namespaces:
    """Descriptors of the namespaces of one host. They live until `close()` and the end of the last process in them."""

    mount: int
    uts: int
    net: int

    @classmethod
    def of_this_thread(cls) -> Namespaces:
        """Those in which the calling thread is."""
        return cls(
            *(os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("mnt", "uts", "net"))
        )

    def paths(self) -> tuple[str, ...]:
        """Where other processes find them, the one of the files last."""
        return tuple(f"/proc/{os.getpid()}/fd/{fd}" for fd in (self.net, self.uts, self.mount))

    def close(self) -> None:
        """Give up the descriptors."""
        for field in fields(self):
            os.close(getattr(self, field.name))

    @property
    def network_id(self) -> int:
        """What tells the network namespace from all others: its inode."""
        return os.fstat(self.net).st_ino

    def call(self, function: Callable[[], _Result]) -> _Result:
        """What `function` returns, called inside; a process that it starts stays inside."""
        folder = os.getcwd()

        def inside() -> _Result:
            _check(_libc.unshare(_CLONE_FS))  # a thread that shares its working directory may not change the mounts
            for fd, kind in ((self.net, _CLONE_NEWNET), (self.uts, _CLONE_NEWUTS), (self.mount, _CLONE_NEWNS)):
                _check(_libc.setns(fd, kind))
            os.chdir(folder)  # entering a mount namespace leads to its root
            return function()

        return _in_a_thread(inside)


def make_host(name: str, address: str, mtu: int, names: str) -> tuple[Namespaces, int]:
    """The namespaces of a new host and its TUN device, which only the caller holds open. Raises `OSError`.

    The host has a host name, /dev/shm and /etc/hosts (with the lines `names`) of its own, loopback, and one route: to
    the other hosts.
    """

    def make() -> tuple[Namespaces, int]:
        _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWNET))
        socket.sethostname(name)
        _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", _SHM, "tmpfs", 0)
        Path(_SHM, "hosts").write_text(names)
        _mount(f"{_SHM}/hosts", "/etc/hosts", None, _MS_BIND)
        _mount("tmpfs", _SHM, "tmpfs", 0)  # an empty one over the one that holds the names
        tun = _make_device(address, mtu)
        try:
            return Namespaces.of_this_thread(), tun
        except OSError:
            os.close(tun)
            raise

    return _in_a_thread(make)


def end_processes(network_ids: set[int]) -> None:
    """Kill every process whose network namespace is one of `network_ids`, and wait until all are gone.

    Raises `TimeoutError` for one that SIGKILL does not end within ten seconds.
    """
    until = time.monotonic() + _END_S
    while pids := [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _lives_in(entry, network_ids)]:
        for pid in pids:
            _end_process(pid, network_ids, until)


def _end_process(pid: int, network_ids: set[int], until: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _lives_in(str(pid), network_ids):  # again: from here on the number cannot mean another process
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            if not select.select([handle], (), (), max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"process {pid} does not end")
    finally:
        os.close(handle)


def _lives_in(pid: str, network_ids: set[int]) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino in network_ids
    except OSError:  # it ended
        return False


def _make_device(address: str, mtu: int) -> int:
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(tun, _TUNSETIFF, _request(_DEVICE, "H22x", _IFF_TUN | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for number, request in (
                (_SIOCSIFADDR, _request(_DEVICE, "16s", _sockaddr(address))),
                (_SIOCSIFNETMASK, _request(_DEVICE, "16s", _sockaddr("255.255.255.0"))),
                (_SIOCSIFMTU, _request(_DEVICE, "i", mtu)),
                (_SIOCSIFTXQLEN, _request(_DEVICE, "i", _QUEUED_PACKETS)),
                (_SIOCSIFFLAGS, _request(_DEVICE, "H", _IFF_UP)),
                (_SIOCSIFFLAGS, _request("lo", "H", _IFF_UP)),
            ):
                fcntl.ioctl(control, number, request)
    except OSError:
        os.close(tun)
        raise
    return tun


def _request(device: str, layout: str, value: int | bytes) -> bytes:
    return struct.pack(f"16s{layout}", device.encode(), value).ljust(40, b"\0")


def _sockaddr(address: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(address))


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    _check(_libc.mount(*(text and text.encode() for text in (source, target, kind)), ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_a_thread(function: Callable[[], _Result]) -> _Result:
    """What `function` returns in a thread that ends with it: only that thread changes its namespaces."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 -- raised again below, in the thread of the caller
            errors.append(error)

    thread = threading.Thread(target=call, name="sage-laboratory")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
