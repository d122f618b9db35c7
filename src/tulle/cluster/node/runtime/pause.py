"""The sandbox's process: it holds a pod's namespaces open while the pod's containers come and go.

Every pod on any Kubernetes node has one. It is a static program of a few instructions (ignore SIGCHLD, so that the
kernel reaps orphans of a shared process namespace; then sleep for ever), written out here byte by byte because the
machine may have no compiler and a pod should cost kilobytes.
"""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

_LOAD_ADDRESS = 0x400000
_HEADER_SIZE = 64 + 56  # ELF header and one program header

_SIGACTION_IGNORE = struct.pack("<QQQQ", 1, 0, 0, 0)  # SIG_IGN, no flags, no restorer, empty mask

_X86_64 = (
    b"\xb8\x0d\x00\x00\x00"  # mov eax, 13 (rt_sigaction)
    b"\xbf\x11\x00\x00\x00"  # mov edi, 17 (SIGCHLD)
    b"\x48\x8d\x35\x16\x00\x00\x00"  # lea rsi, [rip + 22] (the struct after the code)
    b"\x31\xd2"  # xor edx, edx
    b"\x41\xba\x08\x00\x00\x00"  # mov r10d, 8 (size of the mask)
    b"\x0f\x05"  # syscall
    b"\xb8\x22\x00\x00\x00"  # loop: mov eax, 34 (pause)
    b"\x0f\x05"  # syscall
    b"\xeb\xf7"  # jmp loop
    b"\x90\x90\x90"  # padding up to the struct
)

_AARCH64 = struct.pack(
    "<14I",
    0xD2800220,  # mov x0, #17 (SIGCHLD)
    0x100001A1,  # adr x1, #52 (the struct after the code)
    0xD2800002,  # mov x2, #0
    0xD2800103,  # mov x3, #8 (size of the mask)
    0xD28010C8,  # mov x8, #134 (rt_sigaction)
    0xD4000001,  # svc #0
    0xD2800000,  # loop: mov x0, #0
    0xD2800001,  # mov x1, #0
    0xD2800002,  # mov x2, #0
    0xD2800003,  # mov x3, #0
    0xD2800928,  # mov x8, #73 (ppoll without a time-out)
    0xD4000001,  # svc #0
    0x17FFFFFA,  # b loop
    0xD503201F,  # nop (padding up to the struct)
)

_MACHINES = {"x86_64": (62, _X86_64), "aarch64": (183, _AARCH64)}


class UnsupportedMachineError(Exception):
    """The processor is neither x86_64 nor aarch64."""


def program(machine: str) -> bytes:
    """The ELF file for `machine` (as `uname -m` says it). Raises UnsupportedMachineError."""
    if machine not in _MACHINES:
        raise UnsupportedMachineError(
            f"processor {machine!r} is not supported; pods can run on: {', '.join(sorted(_MACHINES))}"
        )
    number, code = _MACHINES[machine]
    body = code + _SIGACTION_IGNORE
    size = _HEADER_SIZE + len(body)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", 2, number, 1, _LOAD_ADDRESS + _HEADER_SIZE, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    return header + load + body


def install(root: Path) -> None:
    """Write the program as `/pause` of the sandbox's root directory; idempotent."""
    root.mkdir(parents=True, exist_ok=True)
    for directory in ("proc", "dev", "sys"):
        (root / directory).mkdir(exist_ok=True)
    target = root / "pause"
    wanted = program(platform.machine())
    if target.exists() and target.read_bytes() == wanted:
        return
    fresh = root / "pause.new"
    fresh.write_bytes(wanted)
    fresh.chmod(0o555)
    os.replace(fresh, target)
