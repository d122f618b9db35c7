"""The shim's loop: one thread, one epoll, no asyncio, so that the process stays small.

Work that takes time is done by `crun`, a child whose end arrives like every other event; a request is answered when
its child ended. Its own end is the end of every container of the node, so no event ends it: what goes wrong with one (no
descriptor, no memory, no room) is written to its log and told to whoever asked.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from tulle.cluster.node import linux
from tulle.cluster.node.runtime import cgroups, records
from tulle.cluster.node.runtime.records import Exit, Record, Started
from tulle.cluster.node.runtime.shim import protocol, spawn
from tulle.cluster.node.runtime.shim.connection import Connection
from tulle.cluster.node.runtime.shim.container import STDIN_LIMIT, Container

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

PAUSE = 0.05
"""Seconds after a fault of the loop itself: an event that is not dealt with comes again at once."""

LOST = Exit(exit_code=137, signal=int(signal.SIGKILL), finished_at=0.0, lost=True)


class Shim:
    """Keeps the containers of one node. `containers_dir` holds one directory per container, the OCI bundle of which
    is part.
    """

    def __init__(self, socket_path: Path, containers_dir: Path, crun_root: Path) -> None:
        self._dir = containers_dir
        self._crun_root = crun_root
        self._containers: dict[str, Container] = {}
        self._by_pid: dict[int, Container] = {}
        self._waiting: dict[int, Callable[[int], None]] = {}
        self._connections: set[Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._listener = spawn.listen(socket_path)
        self._selector.register(self._listener, _READ, self._accept)
        self._stopping = False

    def run(self) -> None:
        """Serve until a `shutdown` request; then end every container and return."""
        linux.become_subreaper()
        self._watch_children()
        self._recover()
        while not self._stopping:
            for key, events in self._selector.select():
                with self._contained():
                    key.data(key.fileobj, events)
        for container in self._containers.values():
            cgroups.kill(container.record.cgroup)

    @contextlib.contextmanager
    def _contained(
        self, connection: Connection | None = None, request: protocol.Request | None = None
    ) -> Iterator[None]:
        """What goes wrong inside ends there. Whoever asked hears of it, for they would wait for ever."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            if connection is not None and request is not None:
                self._answer(connection, request, error=str(error) or type(error).__name__)
            else:
                time.sleep(PAUSE)

    def _watch_children(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._wakeup = writer
        self._selector.register(reader, _READ, self._children_changed)

    def _recover(self) -> None:
        """Take over what a shim that crashed left: its containers lost their output pipes, so they are ended and
        reported as lost.
        """
        for directory in sorted(self._dir.iterdir()):
            record = records.read_record(directory)
            if record is not None:
                with self._contained():
                    self._recover_one(directory, record)

    def _recover_one(self, directory: Path, record: Record) -> None:
        ended = records.read_exit(directory)
        if ended is None:
            cgroups.kill(record.cgroup)
            ended = LOST._replace(finished_at=time.time())
        container = Container(directory, record)
        self._containers[record.cid] = container
        started = records.read_started(directory)
        container.started_at = started.started_at if started else 0.0
        container.ended(ended)

    # Connections

    def _accept(self, listener: object, _events: int) -> None:
        sock, _ = self._listener.accept()
        connection = Connection(sock, self._interest)
        self._connections.add(connection)
        self._selector.register(sock, _READ, lambda _sock, events: self._serve(connection, events))

    def _interest(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        events = _WRITE if connection.sending or connection.closing else 0
        if not connection.eof and not self._input_full(connection):
            events |= _READ
        if events:
            self._selector.modify(connection.sock, events, self._selector.get_key(connection.sock).data)

    def _input_full(self, connection: Connection) -> bool:
        container = self._containers.get(connection.attached_to or "")
        return container is not None and len(container.pending_stdin) > STDIN_LIMIT

    def _serve(self, connection: Connection, events: int) -> None:
        if connection not in self._connections:
            return
        if events & _READ and not connection.receive():
            connection.eof = True
        if events & _WRITE and connection.sending and not connection.flush():
            connection.closing, connection.sending = True, bytearray()
        if connection.received:
            self._handle_input(connection)
        if connection.eof or (connection.closing and not connection.sending):
            self._drop(connection)
        else:
            self._interest(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()
        container = self._containers.get(connection.attached_to or "")
        if container is not None:
            if connection in container.attached:
                container.attached.remove(connection)
            if connection.stdin and container.record.stdin_once and not container.record.tty:
                self._close_stdin(container)

    def _handle_input(self, connection: Connection) -> None:
        while connection.attached_to is None and b"\n" in connection.received:
            line, _, rest = connection.received.partition(b"\n")
            connection.received = rest
            request = protocol.parse_request(bytes(line))
            with self._contained(connection, request):
                self._request(connection, request)
        if connection.attached_to is not None:
            self._attach_input(connection)

    def _attach_input(self, connection: Connection) -> None:
        container = self._containers.get(connection.attached_to or "")
        for channel, data in protocol.parse_frames(connection.received):
            if container is None:
                continue
            if channel == protocol.STDIN and connection.stdin:
                container.write_stdin(data)
            elif channel == protocol.RESIZE:
                container.resize(*struct.unpack(">HH", data))
            elif channel == protocol.CLOSE_STDIN and container.record.stdin_once and not container.record.tty:
                container.close_stdin_when_written = True
        if container is not None:
            self._stdin_progress(container)

    def _stdin_progress(self, container: Container) -> None:
        container.flush_stdin()
        if container.stdin_fd is not None:
            self._watch_container_fd(container, container.stdin_fd)
        if not container.pending_stdin and container.close_stdin_when_written:
            self._close_stdin(container)

    # Requests

    def _request(self, connection: Connection, request: protocol.Request) -> None:
        container = self._containers.get(request.cid)
        match request.op:
            case "watch":
                connection.watching = True
                self._answer(connection, request, statuses=[c.status() for c in self._containers.values()])
            case "shutdown":
                self._stopping = True
            case "create":
                self._create(connection, request)
            case _ if container is None:
                self._answer(connection, request, error=f"no container {request.cid!r}")
            case "start":
                self._start(connection, request, container)
            case "signal" | "kill":
                self._kill(request, container)
                self._answer(connection, request, statuses=[container.status()])
            case "delete":
                self._delete(connection, request, container)
            case "attach":
                self._attach(connection, request, container)

    def _answer(
        self,
        connection: Connection,
        request: protocol.Request,
        *,
        error: str = "",
        statuses: list[records.Status] | None = None,
    ) -> None:
        connection.send(protocol.answer_line(protocol.Answer(id=request.id, error=error, statuses=statuses or [])))

    def _announce(self, container: Container) -> None:
        message = protocol.event_line(protocol.Event(container.status()))
        for connection in list(self._connections):
            if connection.watching:
                connection.send(message)

    def _crun(self, *arguments: str, log: Path, stdio: spawn.Stdio | None = None) -> int:
        return spawn.crun(self._crun_root, log, arguments, stdio)

    def _create(self, connection: Connection, request: protocol.Request) -> None:
        directory = self._dir / request.cid
        record = records.read_record(directory)
        if record is None:
            self._answer(connection, request, error=f"no record for container {request.cid!r}")
            return
        container = Container(directory, record)
        pid_file, log = directory / "pid", directory / "crun.log"
        stdio = spawn.open_stdio(record, directory)
        words = ("create", *stdio.options, "--bundle", str(directory), "--pid-file", str(pid_file), record.cid)
        try:
            pid = self._crun(*words, log=log, stdio=stdio)
        except OSError:
            stdio.close()
            raise
        self._containers[record.cid] = container

        def done(code: int) -> None:
            if code != 0:
                stdio.close()
                del self._containers[record.cid]
                self._answer(connection, request, error=spawn.last_error(log, code))
                return
            container.outputs, container.stdin_fd = stdio.take()
            for fd in container.outputs:
                self._watch_container_fd(container, fd)
            container.pid = int(pid_file.read_text())
            container.state = "created"
            self._by_pid[container.pid] = container
            self._note_started(container)
            self._answer(connection, request, statuses=[container.status()])

        self._when_done(pid, connection, request, done)

    def _when_done(
        self, pid: int, connection: Connection, request: protocol.Request, done: Callable[[int], None]
    ) -> None:
        """Call `done` with the exit code of a crun that works on a request."""

        def contained(code: int) -> None:
            with self._contained(connection, request):
                done(code)

        self._waiting[pid] = contained

    @staticmethod
    def _note_started(container: Container) -> None:
        ticks = linux.start_time(container.pid) or 0
        note = Started(pid=container.pid, start_ticks=ticks, started_at=container.started_at)
        container.note(records.STARTED_FILE, note)

    def _start(self, connection: Connection, request: protocol.Request, container: Container) -> None:
        log = container.directory / "crun.log"

        def done(code: int) -> None:
            if code != 0:
                self._answer(connection, request, error=spawn.last_error(log, code))
            else:
                self._answer(connection, request, statuses=[container.status()])

        container.state = "running"
        container.started_at = time.time()
        self._note_started(container)
        self._when_done(self._crun("start", container.record.cid, log=log), connection, request, done)

    def _kill(self, request: protocol.Request, container: Container) -> None:
        if container.exit is not None:
            return
        if request.op == "kill":
            cgroups.kill(container.record.cgroup)
        if container.pid:  # this process is its parent, so the pid cannot have been reused
            with contextlib.suppress(ProcessLookupError):
                os.kill(container.pid, request.signal if request.op == "signal" else signal.SIGKILL)

    def _delete(self, connection: Connection, request: protocol.Request, container: Container) -> None:
        if container.exit is None and container.pid:
            # crun would poll for the end; this process is told of it
            def again() -> None:
                with self._contained(connection, request):
                    self._delete(connection, request, container)

            container.when_ended = again
            self._kill(request, container)
            return
        log = container.directory / "crun.log"

        def done(_code: int) -> None:
            # crun refuses what it does not know (a crash between two steps); what matters is that nothing is left
            self._close_fds(container)
            self._containers.pop(container.record.cid, None)
            cgroups.kill(container.record.cgroup)
            removed = cgroups.remove(container.record.cgroup, patience=0.5)
            error = "" if removed else f"cgroup {container.record.cgroup} still has processes"
            self._answer(connection, request, error=error)

        self._when_done(self._crun("delete", "--force", container.record.cid, log=log), connection, request, done)

    def _attach(self, connection: Connection, request: protocol.Request, container: Container) -> None:
        self._answer(connection, request, statuses=[container.status()])
        connection.attached_to = container.record.cid
        connection.stdin = request.stdin
        connection.streams = frozenset(s for s, on in (("stdout", request.stdout), ("stderr", request.stderr)) if on)
        if container.exit is not None:
            connection.finished()
        else:
            container.attached.append(connection)

    # Containers

    def _watch_container_fd(self, container: Container, fd: int) -> None:
        events = _READ if fd in container.outputs else 0
        if fd == container.stdin_fd and container.pending_stdin:
            events |= _WRITE
        known = fd in self._selector.get_map()
        if events and known:
            self._selector.modify(fd, events, self._selector.get_key(fd).data)
        elif events:
            self._selector.register(fd, events, lambda _fd, ready: self._container_ready(container, fd, ready))
        elif known:
            self._selector.unregister(fd)

    def _container_ready(self, container: Container, fd: int, events: int) -> None:
        if fd not in container.outputs and fd != container.stdin_fd:
            return  # closed by an earlier event of the same turn
        if events & _WRITE:
            self._stdin_progress(container)
            for connection in list(self._connections):
                if connection.attached_to == container.record.cid:
                    self._interest(connection)
        if events & _READ and container.read(fd) == 0:
            self._close_fd(container, fd)

    def _close_fd(self, container: Container, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        container.outputs.pop(fd, None)
        if container.stdin_fd == fd:
            container.stdin_fd = None
        os.close(fd)

    def _close_stdin(self, container: Container) -> None:
        if container.stdin_fd is not None and container.stdin_fd not in container.outputs:
            self._close_fd(container, container.stdin_fd)

    def _close_fds(self, container: Container) -> None:
        for fd in {*container.outputs, *([] if container.stdin_fd is None else [container.stdin_fd])}:
            self._close_fd(container, fd)

    def _children_changed(self, reader: object, _events: int) -> None:
        assert isinstance(reader, socket.socket)
        with contextlib.suppress(BlockingIOError):
            reader.recv(4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            with self._contained():
                self._child_ended(pid, os.waitstatus_to_exitcode(status))

    def _child_ended(self, pid: int, code: int) -> None:
        done = self._waiting.pop(pid, None)
        if done is not None:
            done(code)
            return
        container = self._by_pid.pop(pid, None)
        if container is None or container.exit is not None:
            return
        signum = -code if code < 0 else 0
        oom = signum == signal.SIGKILL and cgroups.oom_killed(container.record.cgroup)
        # With a process namespace that is not its own the first process may leave others, which would hold the ports of the next.
        with contextlib.suppress(OSError):
            cgroups.kill(container.record.cgroup)
        container.drain(lambda fd: self._close_fd(container, fd))
        exit_code = 128 + signum if signum else code
        container.ended(Exit(exit_code=exit_code, signal=signum, oom_killed=oom, finished_at=time.time()))
        self._announce(container)
        # Taken out, because it holds the container: a cycle would wait for the collector, which so small a process seldom needs.
        when_ended, container.when_ended = container.when_ended, None
        if when_ended is not None:
            when_ended()
