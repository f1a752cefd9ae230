"""The program of the sandbox's Python kernel: ipykernel, with output, answers and variables of its
own.

Argument: the connection file. TORPOR_KERNEL_EVENTS: the descriptor of kernel_events.py.

What cells print goes to the descriptors 1 and 2 at once, as any program's output does: in order
with what native libraries and child processes print there, and read by another process, so that a
writer which holds the interpreter cannot wait for itself. What comes of a cell is told by events.
"""

from system_modules import USERS_PATH  # noqa: I001 - before all others
import asyncio
import ctypes
import os
import random
import selectors
import signal
import ssl
import sys
import tempfile
import traceback
from contextlib import contextmanager

# Without this, ipykernel would load a debugger that no client can reach, and wait for it.
sys.modules["debugpy"] = None

import ipykernel.ipkernel
from ipykernel.displayhook import ZMQDisplayHook
from ipykernel.kernelapp import IPKernelApp
from kernel_asyncio import allow_nested_runs
from kernel_environment import Environment
from kernel_events import Events
from kernel_interrupt import SIGNAL_INTERRUPT
from kernel_shell import Shell, StandardOutputs, written_exit_code
from tornado import ioloop
from traitlets import Type

del sys.modules["debugpy"]

# <linux/prctl.h>, <stdio.h>
PR_SET_PDEATHSIG = 1
IOLBF = 1

libc = ctypes.CDLL(None)
events = Events(int(os.environ.pop("TORPOR_KERNEL_EVENTS")))
environment = Environment(os.environ)
outputs = StandardOutputs()


class Kernel(ipykernel.ipkernel.IPythonKernel):
    shell_class = Type(Shell)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.process = os.getpid()
        self.answer = None
        self.result = None
        self.shell.events_out = events
        self.shell.outputs = outputs
        self.shell.events.register("post_run_cell", self.keep_result)

    def keep_result(self, result):
        self.result = result

    async def execute_request(self, stream, ident, parent):
        """Tells of its begin before the first of the user's instructions, of its end in any case."""
        cell = parent["header"]["msg_id"]
        self.answer = {"ok": False, "exitCode": 1}
        try:
            events.send("begin", cell=cell)
            await super().execute_request(stream, ident, parent)
        except BaseException:
            # An error of the user's: one without a text, or an interrupt after the end of the cell.
            outputs.streams["stderr"].write(traceback.format_exc(limit=-3))
        finally:
            events.send("end", cell=cell, **self.answer)

    async def do_execute(self, code, silent, *args, cell_id=None, **kwargs):
        wishes = self.get_parent("shell")["metadata"].get("torpor", {})
        if wishes.get("reseed"):
            reseed()
        environment.set_sandbox(wishes.get("sandbox", environment.sandbox))
        environment.enter(wishes.get("workdir", "/"))
        call = environment.begin_call(wishes.get("call", {}))
        self.result = self.shell.shown_error = None
        outputs.restore()
        try:
            reply = await super().do_execute(code, silent, *args, cell_id=cell_id, **kwargs)
            self.answer = self.answer_of(reply)
            return reply
        finally:
            outputs.restore()
            libc.fflush(None)
            if os.getpid() != self.process:
                # A child that the cell has forked ends here, where the child of a script would.
                os._exit(self.answer["exitCode"])
            environment.end_call(call)

    def answer_of(self, reply):
        """An error that was shown is one, also where a magic went on after it."""
        error = self.result and (self.result.error_in_exec or self.result.error_before_exec)
        error = error or self.shell.shown_error
        if isinstance(error, SystemExit):
            exit_code = written_exit_code(error, outputs.streams["stderr"])
        else:
            exit_code = 0 if reply["status"] == "ok" and error is None else 1
        return {"ok": exit_code == 0, "exitCode": exit_code}

    def raw_input(self, prompt=""):
        """Standard input is at its end."""
        print(prompt, end="")
        raise EOFError("standard input is empty")

    getpass = raw_input

    @contextmanager
    def _cancel_on_sigint(self, future):
        """A cell that awaits is cancelled by each interrupt; one that is at work, by the second on,
        is interrupted as any other.
        """
        with super()._cancel_on_sigint(future):
            signal.signal(signal.SIGINT, Canceller(future, self.io_loop.asyncio_loop))
            yield


class Canceller:
    def __init__(self, future, loop):
        self.future, self.loop = future, loop
        self.has_cancelled = False

    def __call__(self, number, frame):
        __tracebackhide__ = True
        if self.has_cancelled and not is_idle(frame):
            signal.default_int_handler(number, frame)
        self.has_cancelled = True
        # The loop cancels, because the call also wakes it up.
        self.loop.call_soon_threadsafe(self.future.cancel)


def is_idle(frame):
    """Whether the loop waits for something to do."""
    return frame is not None and frame.f_code.co_filename == selectors.__file__


def reseed():
    """A kernel that was warm in a golden snapshot has the same generators in every clone."""
    random.seed(os.urandom(32))
    ssl.RAND_add(os.urandom(64), 64.0)
    tempfile._name_sequence = None
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(int.from_bytes(os.urandom(4), "little"))


def interrupt(_number, frame):
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):
        handler(signal.SIGINT, frame)


class App(IPKernelApp):
    kernel_class = Type(Kernel)

    def init_io(self):
        """Standard output stays what it is; the kernel asks for a hook of its own."""
        self.displayhook = ZMQDisplayHook(self.session, self.iopub_socket)

    def init_path(self):
        """As for a script: first its directory, which is where the cell is."""
        super().init_path()
        sys.path[:] = ["", *USERS_PATH]
        sys.argv = [""]

    def start(self):
        """Whatever code of the user's raises in the loop, it is not the kernel's end."""
        allow_nested_runs(asyncio.get_event_loop())
        self.kernel.start()
        self.io_loop = ioloop.IOLoop.current()
        while not self.shell.exit_now:
            try:
                self.io_loop.start()
            except (KeyboardInterrupt, SystemExit):
                # An error of a task, reported where the task is awaited.
                pass
            except BaseException:
                outputs.streams["stderr"].write(traceback.format_exc(limit=-3))


def main():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(SIGNAL_INTERRUPT, interrupt)
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, IOLBF, 0)
    app = App.instance()
    app.initialize(
        ["-f", sys.argv[1], "--HistoryManager.enabled=False", "--colors=NoColor", "--log-level=50"]
    )
    events.send("ready")
    app.start()


main()
