"""Drives the sandbox's Python kernel for the guest agent: starts it, sends it one cell at a time,
and passes on what it prints and tells.

Standard input, one JSON object per line; its end ends kernel and bridge:
{"id", "type": "execute", "code", "workdir", "sandbox", "call"} (the variables of both)
| {"id", "type": "reseed"} | {"id", "type": "stop"} | {"type": "interrupt"}
Standard output: {"type": "kernel", "pid"} | {"id", "type": "begin", "isNewKernel"}
| {"id", "type": "stdout"|"stderr", "data"} | {"id", "type": "clear", "wait"}
| {"id", "type": "rich", "data", "displayId", "isUpdate"}
| {"id", "type": "done", "ok", "exitCode", "error"?}
`ok` is the kernel's own answer. `error` says why there is none: the kernel is gone, or there was
none.
Argument: the cgroup directory that the kernel enters before its first instruction, or nothing.

B1  A cell is sent once it is this bridge's to send, and a second time only to a new kernel when the
    one before ended without having begun it (kernel_events.py).
B2  Whatever the kernel printed before it told of a cell's end is passed on before the end is.
B3  Output pipes are read as long as the bridge lives, whoever writes: a program that a cell has
    left running goes on after the cell, and after its kernel. Between cells its output is dropped.
"""

import system_modules  # noqa: F401, I001 - before all others
import codecs
import fcntl
import json
import os
import queue
import re
import struct
import sys
import termios
import threading
import time
import traceback

import zmq
from kernel_interrupt import Interrupt, now_in_ticks
from kernel_process import KernelProcess

MIME = {
    "text/plain": "text",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/svg+xml": "svg",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "application/json": "json",
    "application/vnd.torpor.dataframe+json": "dataframe",
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# An emulated guest on a busy machine takes minutes.
START_LIMIT_S = 450
START_ATTEMPTS = 2
CHUNK = 64 * 1024
MAX_DISPLAY_BYTES = 8 * 1024 * 1024
LAST_WORDS_BYTES = 4096
LOOK_EVERY_MS = 100
# Small outputs are collected for this long: each wake-up runs three processes on one processor.
GATHER_S = 0.01


def send(**message):
    data = (json.dumps(message) + "\n").encode()
    while data:
        data = data[os.write(1, data) :]


class OutputPipe:
    """Standard output or error of the kernel and of all that its cells start."""

    def __init__(self, name):
        self.name = name
        self.read_end, self.write_end = os.pipe()
        self.decoder = None
        self.renew()

    def renew(self):
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def waiting_bytes(self):
        return struct.unpack("i", fcntl.ioctl(self.read_end, termios.FIONREAD, b"\0" * 4))[0]

    def read(self, size=CHUNK):
        return self.decoder.decode(os.read(self.read_end, size))


class Cell:
    def __init__(self, request):
        self.request = request
        self.id = request["id"]
        # Id of the message to the kernel, once it is sent.
        self.message_id = None
        self.has_begun = False
        self.began_ticks = now_in_ticks()
        self.attempts = 0
        self.interrupt = None

    @property
    def is_silent(self):
        return self.request["type"] != "execute"

    def text(self, name, text):
        if text and not self.is_silent:
            send(id=self.id, type=name, data=text)

    def display(self, data, display_id, is_update):
        # A name without "/" is no MIME type, and could be mistaken for another field of the
        # response.
        data = {mime: value for mime, value in data.items() if "/" in mime}
        rich = {
            MIME.get(mime, mime): ANSI.sub("", value) if mime == "text/plain" else value
            for mime, value in data.items()
        }
        if len(json.dumps(rich)) <= MAX_DISPLAY_BYTES:
            send(id=self.id, type="rich", data=rich, displayId=display_id, isUpdate=is_update)
        else:
            self.text("stderr", f"[a display of more than {MAX_DISPLAY_BYTES} bytes was cut]\n")


class Bridge:
    def __init__(self, cgroup):
        self.cgroup = cgroup
        self.outputs = [OutputPipe("stdout"), OutputPipe("stderr")]
        self.requests = queue.SimpleQueue()
        self.wake_end, self.waker_end = os.pipe()
        self.kernel, self.cell = None, None
        self.is_new = False
        self.started_at = 0.0
        self.read_again_at = 0.0
        # The newest output of a kernel before it is ready: the reason if it fails to start.
        self.last_words = ""

    def run(self):
        threading.Thread(target=self.read_requests, daemon=True).start()
        while True:
            try:
                for source in self.wait():
                    self.handle(source)
                if self.cell is not None:
                    self.look_after(self.cell)
            except BrokenPipeError:
                self.end()
            except Exception as error:
                # Any error ends only the current cell: the next one gets a new kernel.
                traceback.print_exc()
                self.drop_kernel()
                if self.cell is not None:
                    self.finish(False, 1, repr(error))

    def read_requests(self):
        for line in sys.stdin.buffer:
            self.requests.put(json.loads(line))
            os.write(self.waker_end, b".")
        self.requests.put(None)
        os.write(self.waker_end, b".")

    def wait(self):
        poller = zmq.Poller()
        poller.register(self.wake_end, zmq.POLLIN)
        if self.kernel is not None:
            poller.register(self.kernel.events, zmq.POLLIN)
            poller.register(self.kernel.ended, zmq.POLLIN)
            if self.kernel.is_ready:
                poller.register(self.kernel.replies, zmq.POLLIN)
        gathering_s = self.read_again_at - time.monotonic()
        if gathering_s > 0:
            return dict(poller.poll(gathering_s * 1000))
        for output in self.outputs:
            poller.register(output.read_end, zmq.POLLIN)
        must_look = self.cell is not None and (self.cell.interrupt or self.cell.message_id is None)
        return dict(poller.poll(LOOK_EVERY_MS if must_look else None))

    def handle(self, source):
        output = next((output for output in self.outputs if output.read_end == source), None)
        if output is not None:
            self.take_output(output)
        elif source == self.wake_end:
            self.take_request()
        elif self.kernel is None:
            pass
        elif source == self.kernel.ended:
            self.kernel_ended()
        elif source == self.kernel.events:
            self.take_events()
        else:
            self.take_reply()

    def take_output(self, output):
        waiting = output.waiting_bytes()
        if waiting < CHUNK:
            self.read_again_at = time.monotonic() + GATHER_S
        # The output may already have been read together with an event.
        if waiting > 0:
            self.pass_text(output, output.read())

    def pass_text(self, output, text):
        if self.cell is not None and self.cell.message_id is not None:
            self.cell.text(output.name, text)
        elif self.kernel is not None and not self.kernel.is_ready:
            self.last_words = (self.last_words + text)[-LAST_WORDS_BYTES:]

    def drain(self):
        """What is in the pipes now; not what a program may add for ever."""
        for output in self.outputs:
            left = output.waiting_bytes()
            while left > 0:
                size = min(left, CHUNK)
                self.pass_text(output, output.read(size))
                left -= size

    def take_request(self):
        os.read(self.wake_end, 1)
        request = self.requests.get()
        if request is None:
            self.end()
        elif request["type"] == "interrupt":
            self.interrupt()
        elif request["type"] == "stop":
            self.drop_kernel()
            send(id=request["id"], type="done", ok=True, exitCode=0)
        else:
            self.cell = Cell(request)
            self.begin_cell()

    def begin_cell(self):
        """Sends the cell to the kernel, or starts one that it is sent to when it is ready."""
        cell = self.cell
        if self.kernel is None:
            if cell.attempts == START_ATTEMPTS:
                self.finish(False, 1, f"it could not be started: {self.last_words.strip()}")
                return
            cell.attempts += 1
            self.start_kernel(cell.request.get("sandbox", {}))
        elif self.kernel.is_ready:
            request = cell.request
            wishes = {
                name: request[name] for name in ("workdir", "sandbox", "call") if name in request
            }
            wishes["reseed"] = request["type"] == "reseed"
            cell.message_id = self.kernel.execute(request.get("code", ""), cell.is_silent, wishes)

    def start_kernel(self, environment):
        self.last_words, self.started_at = "", time.monotonic()
        self.kernel = KernelProcess(
            self.cgroup, environment, [output.write_end for output in self.outputs]
        )
        self.is_new = True

    def take_events(self):
        """False when nothing was there. What was printed before them goes first (B2)."""
        lines = self.kernel.lines()
        self.drain()
        for line in lines or []:
            self.take_event(json.loads(line))
        return lines is not None

    def take_event(self, event):
        kind, cell = event["event"], self.cell
        if kind == "ready":
            self.kernel.connect()
            send(type="kernel", pid=self.kernel.pid)
            if cell is not None:
                self.begin_cell()
        elif cell is None or cell.message_id is None:
            pass
        elif kind == "begin" and event["cell"] == cell.message_id:
            cell.has_begun = True
            cell.began_ticks = now_in_ticks()
            send(id=cell.id, type="begin", isNewKernel=self.is_new)
            self.is_new = self.is_new and cell.is_silent
        elif kind == "end" and event["cell"] == cell.message_id:
            self.finish(event["ok"], event["exitCode"])
        elif kind == "display":
            cell.display(event["data"], event["displayId"], event["isUpdate"])
        elif kind == "clear":
            send(id=cell.id, type="clear", wait=event["wait"])

    def take_reply(self):
        """The answer is in the kernel's event, but for a cell that it has refused to run."""
        try:
            reply = self.kernel.client.get_shell_msg(timeout=0)
        except queue.Empty:
            return
        cell = self.cell
        is_of_cell = cell is not None and reply["parent_header"].get("msg_id") == cell.message_id
        if is_of_cell and reply["content"].get("status") == "aborted":
            cell.text("stderr", "the kernel did not run this\n")
            self.finish(False, 1)

    def interrupt(self):
        cell = self.cell
        if cell is None or cell.interrupt is not None:
            return
        if cell.message_id is None:
            self.finish(False, 1, "it was not ready in time")
        else:
            cell.interrupt = Interrupt(self.kernel.pid, cell.began_ticks)

    def look_after(self, cell):
        if cell.message_id is None and time.monotonic() - self.started_at > START_LIMIT_S:
            self.drop_kernel()
            self.begin_cell()
        elif cell.interrupt is not None and not cell.interrupt.step():
            cell.interrupt.end()
            self.drain()
            self.drop_kernel()
            self.finish(False, 137, "it did not stop when interrupted")

    def kernel_ended(self):
        while self.take_events():
            pass
        code = self.kernel.exit_code()
        self.drop_kernel()
        if self.cell is None:
            return
        if self.cell.has_begun:
            self.finish(False, code, "the process is gone")
        else:
            self.cell.message_id = None
            self.begin_cell()

    def drop_kernel(self):
        if self.kernel is not None:
            self.kernel.close()
        self.kernel = None

    def finish(self, ok, exit_code, error=None):
        cell, self.cell = self.cell, None
        for output in self.outputs:
            cell.text(output.name, output.decoder.decode(b"", True))
            output.renew()
        send(
            id=cell.id,
            type="done",
            ok=ok,
            exitCode=exit_code,
            **({"error": error} if error else {}),
        )

    def end(self):
        if self.kernel is not None:
            self.kernel.process.kill()
        os._exit(0)


def main():
    Bridge(sys.argv[1] if len(sys.argv) > 1 else "").run()


main()
