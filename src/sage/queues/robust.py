"""What processes share beside memory: locks that survive the death of their holder, and a bell. Linux, glibc."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable
from typing import Any

LOCK_BYTES = 64
_SHARED, _ROBUST = 1, 1
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_SYS_FUTEX = {"x86_64": 202, "aarch64": 98}
_ALL = 2**31 - 1

_quick = ctypes.PyDLL(None)  # keeps the interpreter's lock: for calls that never wait
_slow = ctypes.CDLL(None, use_errno=True)
let_others_run = _slow.pthread_self
"""Does nothing, without the interpreter's lock: other threads of the process may have it meanwhile."""
_try_lock, _unlock, _mend = _quick.pthread_mutex_trylock, _quick.pthread_mutex_unlock, _quick.pthread_mutex_consistent


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))

    @classmethod
    def of(cls, seconds: float) -> _Timespec:
        return cls(int(seconds), int(seconds % 1 * 1e9))


class RobustLock:
    """A lock in shared memory, held by a thread. Where its holder dies, the next one gets it, and calls `repair` first.

    The lock does not say how far its holder came: what it protects must be whole after each single store, but for what
    `repair` puts right.
    """

    def __init__(self, memory: Any, offset: int, repair: Callable[[], None] = lambda: None) -> None:
        self._memory = (ctypes.c_char * LOCK_BYTES).from_buffer(memory, offset)
        self._address = ctypes.c_void_p(ctypes.addressof(self._memory))
        self._repair = repair

    def set_up(self) -> None:
        """Make the lock, once, before anybody uses it."""
        kind = ctypes.create_string_buffer(LOCK_BYTES)
        _quick.pthread_mutexattr_init(kind)
        _quick.pthread_mutexattr_setpshared(kind, _SHARED)
        _quick.pthread_mutexattr_setrobust(kind, _ROBUST)
        _quick.pthread_mutex_init(self._address, kind)

    def acquire(self, timeout_s: float) -> bool:
        """False if another thread, perhaps of a stopped process, holds it all that time."""
        result = _try_lock(self._address)
        if not result:
            return True
        if result == errno.EBUSY:
            until = _Timespec.of(time.monotonic() + timeout_s)
            result = _slow.pthread_mutex_clocklock(self._address, time.CLOCK_MONOTONIC, ctypes.byref(until))
        if result == errno.EOWNERDEAD:
            self._repair()
            _mend(self._address)
            return True
        if result not in (0, errno.ETIMEDOUT):
            raise OSError(result, "a lock in shared memory cannot be taken")
        return bool(result == 0)

    def release(self) -> None:
        """Does nothing where this thread does not hold it: may be called in any `finally`."""
        _unlock(self._address)


class Bell:
    """A word of shared memory that is 1 while somebody waits, or is about to."""

    def __init__(self, memory: Any, offset: int) -> None:
        self._memory = ctypes.c_uint32.from_buffer(memory, offset)
        self._address = ctypes.c_void_p(ctypes.addressof(self._memory))
        self._futex = _SYS_FUTEX[os.uname().machine]

    def expect(self) -> None:
        """From now on it must be rung for what `wait` waits for."""
        self._memory.value = 1

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until somebody rings; not at all if somebody rang since `expect`. Whether somebody did."""
        limit = None if timeout_s is None else ctypes.byref(_Timespec.of(timeout_s))
        _slow.syscall(self._futex, self._address, _FUTEX_WAIT, 1, limit, None, 0)
        return self._memory.value == 0

    def nap(self, timeout_s: float) -> None:
        """Sleep without asking to be woken."""
        limit = ctypes.byref(_Timespec.of(timeout_s))
        _slow.syscall(self._futex, self._address, _FUTEX_WAIT, 0, limit, None, 0)

    def ring(self) -> None:
        """Wake everybody. Only needed where the word is 1."""
        self._memory.value = 0
        _quick.syscall(self._futex, self._address, _FUTEX_WAKE, _ALL, None, None, 0)
