"""One terminal: a program on a pseudo-terminal of its own, for the guest agent.

Arguments: columns, rows, cgroup directory or "", command... Working directory and environment are the program's.
Standard input: frames of one byte kind, four bytes length (big endian), payload. `i`: input. `r`: "columns rows". Its end hangs up.
Standard output: what the terminal shows, as it is; where nobody reads on, the program waits. Exit status: the program's.
"""
import fcntl
import os
import select
import signal
import struct
import sys
import termios
import time

CHUNK = 65536
MAX_PENDING = 1024 * 1024
HANG_UP_GRACE_S = 2.0


def set_size(descriptor, columns, rows):
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def start(columns, rows, cgroup, command):
    master, slave = os.openpty()
    # Before any program runs in the terminal, so that no later size is overwritten.
    set_size(master, columns, rows)
    pid = os.fork()
    if pid != 0:
        os.close(slave)
        return pid, master
    try:
        os.close(master)
        os.login_tty(slave)
        if cgroup:
            for path, value in ((f"{cgroup}/cgroup.procs", "0"), ("/proc/self/oom_score_adj", "200")):
                with open(path, "w") as file:
                    file.write(value)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\r\n".encode())
    os._exit(127)


class Frames:
    """Takes frames out of a stream of bytes."""

    def __init__(self):
        self.buffer = bytearray()

    def add(self, data):
        self.buffer += data
        while len(self.buffer) >= 5:
            size = struct.unpack(">I", self.buffer[1:5])[0]
            if len(self.buffer) < 5 + size:
                return
            yield chr(self.buffer[0]), bytes(self.buffer[5 : 5 + size])
            del self.buffer[: 5 + size]


def show(master):
    """False at the end of what there is to show."""
    try:
        data = os.read(master, CHUNK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    while data:
        data = data[os.write(1, data) :]
    return True


def run(pid, master):
    """Carries both ways until the program ends or the agent hangs up. True when the program has ended."""
    ended = os.pidfd_open(pid)
    os.set_blocking(master, False)
    frames, pending = Frames(), bytearray()
    while True:
        sources = [master, ended] + ([0] if len(pending) < MAX_PENDING else [])
        readable, writable, _ = select.select(sources, [master] if pending else [], [])
        if master in readable and not show(master):
            return True
        if 0 in readable:
            data = os.read(0, CHUNK)
            if not data:
                return False
            for kind, payload in frames.add(data):
                if kind == "r":
                    set_size(master, *map(int, payload.split()))
                else:
                    pending += payload
        if writable:
            try:
                del pending[: os.write(master, pending[:CHUNK])]
            except BlockingIOError:
                pass
        if ended in readable and master not in readable:
            return True


def end_session(session):
    """A shell gives each job a group of its own: one that is killed takes none of them with it."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


def hang_up(pid, master):
    """Closing the terminal hangs up its session; who holds on is ended, with all that it has started here.

    No signal beside the kernel's own: a shell that gets a second SIGHUP ends at once, and passes neither on to its jobs.
    """
    os.close(master)
    deadline = time.monotonic() + HANG_UP_GRACE_S
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return
        time.sleep(0.02)
    end_session(pid)


def main():
    columns, rows, cgroup = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    pid, master = start(columns, rows, cgroup, sys.argv[4:])
    if not run(pid, master):
        hang_up(pid, master)
        os._exit(129)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    # Reports a signal as shells do.
    os._exit(128 - code if code < 0 else code)


main()
