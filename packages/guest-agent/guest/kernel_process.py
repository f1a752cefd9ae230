"""One process of the Python kernel (kernel_main.py), as the bridge sees it."""

import os
import shutil
import subprocess
import sys

from jupyter_client import BlockingKernelClient, write_connection_file

HERE = os.path.dirname(os.path.abspath(__file__))
# In memory, because the disk may be full. UNIX sockets, because the guest's TCP ports belong to its
# users.
DIRECTORY = "/dev/shm/torpor-kernel"


class KernelProcess:
    def __init__(self, cgroup, environment, outputs):
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        os.mkdir(DIRECTORY, 0o700)
        path, _ = write_connection_file(
            f"{DIRECTORY}/connection.json",
            transport="ipc",
            ip=f"{DIRECTORY}/socket",
            key=os.urandom(16).hex().encode(),
        )
        self.events, events_end = os.pipe()
        stdout, stderr = outputs
        self.process = subprocess.Popen(
            command(cgroup, path),
            # Not the work directory: no process may hold a directory below the root that is
            # replaced when the disk is attached. The first cell changes to the work directory.
            cwd="/",
            env={**environment, "TORPOR_KERNEL_EVENTS": str(events_end)},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            pass_fds=(events_end,),
            start_new_session=True,
        )
        os.close(events_end)
        os.set_blocking(self.events, False)
        self.pid = self.process.pid
        # Becomes readable when the process has ended; its children may still hold the pipes open.
        self.ended = os.pidfd_open(self.pid)
        self.connection_file, self.client = path, None
        self.unread = b""

    @property
    def is_ready(self):
        return self.client is not None

    def connect(self):
        self.client = BlockingKernelClient(connection_file=self.connection_file)
        self.client.load_connection_file()
        self.client.start_channels(shell=True, iopub=False, stdin=False, hb=False, control=False)

    @property
    def replies(self):
        return self.client.shell_channel.socket

    def execute(self, code, silent, wishes):
        """Returns the id of the cell, by which events name it."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self.client.session.msg("execute_request", content, metadata={"torpor": wishes})
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]

    def lines(self):
        """The next of what it has told; None when there is nothing now."""
        try:
            data = os.read(self.events, 1 << 20)
        except BlockingIOError:
            return None
        if not data:
            return None
        *lines, self.unread = (self.unread + data).split(b"\n")
        return lines

    def exit_code(self):
        """To be called when it has ended. As shells tell it; never that of a success."""
        code = self.process.wait()
        return 128 - code if code < 0 else code or 1

    def close(self):
        self.process.kill()
        self.process.wait()
        if self.client is not None:
            self.client.stop_channels()
            self.client.context.destroy(linger=0)
        os.close(self.events)
        os.close(self.ended)


def command(cgroup, connection_file):
    program = [sys.executable, f"{HERE}/kernel_main.py", connection_file]
    if not cgroup:
        return program
    enter = 'echo 0 > "$0/cgroup.procs" && echo 0 > /proc/self/oom_score_adj && exec "$@"'
    return ["/bin/sh", "-c", enter, cgroup, *program]
