"""The shell of the kernel: where its displays, results and errors go, and what `exit` means."""

import io
import sys
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


def open_outputs():
    for name in ("stdout", "stderr"):
        output = TextOutput(getattr(sys, name).detach(), encoding="utf-8", errors="surrogateescape")
        setattr(sys, name, output)
        setattr(sys, f"__{name}__", output)


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
            print(self.data["text/plain"])
        self.data = None


class Exit(ZMQExitAutocall):
    """`exit` ends the cell as `sys.exit` does, not the kernel, which holds the sandbox's state."""

    def __call__(self, code=None):
        raise SystemExit(code)


class Shell(ZMQInteractiveShell):
    display_pub_class = Type(DisplayPublisher)
    displayhook_class = Type(DisplayHook)
    # kernel_events.Events
    events_out = Any()

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
        if not issubclass(etype, SystemExit):
            print("\n".join(stb), file=sys.stderr)


def print_page(text, start=0, screen_lines=0, pager_cmd=None):
    """What `name?` and `%magic` show in a pager."""
    print(text.get("text/plain", "") if isinstance(text, dict) else text)


def written_exit_code(error):
    """The code of a SystemExit, after writing its text to standard error, as the interpreter's end
    does.
    """
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def warn(message, *args, stacklevel=1, **kwargs):
    """IPython's advice on `sys.exit` is none for a program."""
    if not str(message).startswith("To exit: use"):
        warnings.warn(message, *args, stacklevel=stacklevel + 1, **kwargs)


interactiveshell.warn = warn
