"""The shell of the kernel: where its displays, results and errors go, and what `exit` means."""

import io
import os
import sys
import traceback
import warnings

from IPython.core import interactiveshell, page
from ipykernel.zmqshell import (
    ZMQDisplayPublisher,
    ZMQExitAutocall,
    ZMQInteractiveShell,
    ZMQShellDisplayHook,
)
from kernel_values import bundle, show_tables
from traitlets import Any, Type, default


class Buffer(io.BufferedWriter):
    """Whoever wraps it anew closes it with the wrapper before; others go on with it."""

    def close(self):
        self.flush()


class TextOutput(io.TextIOWrapper):
    """Standard output or error: what is written is out at once, as on a terminal."""

    def write(self, text):
        __tracebackhide__ = True
        count = super().write(text)
        self.flush()
        return count

    def close(self):
        """As little as a terminal is closed by one of its programs: later cells print too."""
        self.flush()


class StandardOutputs:
    """Descriptors and streams, as they are to be found by every cell."""

    def __init__(self):
        # Copies that detect a replaced descriptor, and restore it.
        self.spares = {number: os.dup(number) for number in (1, 2)}
        self.streams = {
            name: self.opened(number) for number, name in ((1, "stdout"), (2, "stderr"))
        }
        for name, stream in self.streams.items():
            getattr(sys, name).detach()
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)

    def opened(self, number):
        buffer = Buffer(io.FileIO(number, "w", closefd=False))
        return TextOutput(buffer, encoding="utf-8", errors="surrogateescape")

    def restore(self):
        for number, spare in self.spares.items():
            if not is_same_file(number, spare):
                os.dup2(spare, number)
        for name, stream in self.streams.items():
            if not is_open(getattr(sys, name, None)):
                setattr(sys, name, stream)


def is_same_file(one, other):
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


def is_open(stream):
    try:
        return not stream.closed
    except (AttributeError, ValueError):
        return False


class DisplayPublisher(ZMQDisplayPublisher):
    def publish(self, data, metadata=None, source=None, *, transient=None, update=False, **_):
        self._flush_streams()
        display_id = (transient or {}).get("display_id")
        self.shell.events_out.send(
            "display", data=bundle(data), displayId=display_id, isUpdate=update
        )

    def clear_output(self, wait=False):
        self._flush_streams()
        self.shell.events_out.send("clear", wait=bool(wait))


class DisplayHook(ZMQShellDisplayHook):
    """The value of a cell's last expression: a display, and its text printed."""

    data = Any()

    def start_displayhook(self):
        self.data = None

    def write_output_prompt(self):
        pass

    def write_format_data(self, format_dict, md_dict=None):
        self.data = bundle(format_dict)

    def finish_displayhook(self):
        if self.data:
            self.shell.display_pub._flush_streams()
            self.shell.events_out.send("display", data=self.data, displayId=None, isUpdate=False)
        if self.data and "text/plain" in self.data:
            self.shell.outputs.streams["stdout"].write(self.data["text/plain"] + "\n")
        self.data = None


class Exit(ZMQExitAutocall):
    """`exit` ends the cell as `sys.exit` does, not the kernel, which holds the sandbox's state."""

    def __call__(self, code=None):
        raise SystemExit(code)


class Shell(ZMQInteractiveShell):
    display_pub_class = Type(DisplayPublisher)
    displayhook_class = Type(DisplayHook)
    # kernel_events.Events, StandardOutputs
    events_out = Any()
    outputs = Any()
    # The newest error that was shown: magics such as %time show an error and continue.
    shown_error = Any()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        show_tables(self.display_formatter)

    @default("exiter")
    def _default_exiter(self):
        return Exit(self)

    def init_hooks(self):
        super().init_hooks()
        self.set_hook("show_in_pager", page.as_hook(print_page), 0)

    def set_next_input(self, text, replace=False):
        """There is no next input to fill in: shown instead."""
        print(text)

    def _showtraceback(self, etype, evalue, stb):
        self._last_traceback = stb
        self.shown_error = evalue
        if issubclass(etype, SystemExit):
            return
        # Not sys.stderr, which the code may have redirected: the error would be lost.
        self.outputs.streams["stderr"].write("\n".join([*stb, *notes_of(evalue)]) + "\n")

    def init_environment(self):
        """No pager has anybody who turns the page."""
        os.environ.setdefault("PAGER", "cat")
        os.environ.setdefault("GIT_PAGER", "cat")

    def system_piped(self, cmd):
        """A command in the background has no terminal that it could be waited for on."""
        if cmd.rstrip().endswith("&"):
            self.user_ns["_exit_code"] = os.system(self.var_expand(cmd, depth=1))
        else:
            super().system_piped(cmd)

    system = system_piped


def notes_of(error):
    """What IPython leaves out: notes, and the errors in a group."""
    if isinstance(error, BaseExceptionGroup):
        return ["".join(traceback.format_exception(error)).rstrip()]
    return getattr(error, "__notes__", [])


def print_page(text, start=0, screen_lines=0, pager_cmd=None):
    """What `name?` and `%magic` show in a pager."""
    print(text.get("text/plain", "") if isinstance(text, dict) else text)


def written_exit_code(error, stderr):
    """The code of a SystemExit, after writing its text, as the interpreter's end does."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF if -(2**31) <= error.code < 2**31 else 0xFF
    stderr.write(f"{error.code}\n")
    return 1


def warn(message, *args, stacklevel=1, **kwargs):
    """IPython's advice on `sys.exit` is none for a program."""
    if not str(message).startswith("To exit: use"):
        warnings.warn(message, *args, stacklevel=stacklevel + 1, **kwargs)


interactiveshell.warn = warn
