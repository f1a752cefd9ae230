"""Variables and working directory of the cells: a long-lived interpreter must look to each of them
as a program that was just started with these.
"""

import os
import sys
import time


class Environment:
    """Two layers. The sandbox's own variables stay until they are changed there; those of one call
    are there for its cell alone. What the user's code has set itself is not touched by either.
    """

    def __init__(self, started_with):
        self.sandbox = dict(started_with)
        # The value of a variable before the sandbox's variables set it.
        self.before = {}
        self.workdir = None
        self.python_path = split_path(started_with.get("PYTHONPATH"))

    def set_sandbox(self, wanted):
        for name in self.sandbox.keys() | wanted.keys():
            old, new = self.sandbox.get(name), wanted.get(name)
            if old == new:
                continue
            current = os.environ.get(name)
            if new is not None:
                if name not in self.sandbox:
                    self.before[name] = current
                self.set(name, new)
            elif current == old:
                self.set(name, self.before.pop(name, None))
        self.sandbox = dict(wanted)

    def begin_call(self, variables):
        """Returns what `end_call` has to be given."""
        before = {name: os.environ.get(name) for name in variables}
        for name, value in variables.items():
            self.set(name, value)
        return variables, before

    def end_call(self, begun):
        variables, before = begun
        for name, value in variables.items():
            if os.environ.get(name) == value:
                self.set(name, before[name])

    def set(self, name, value):
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
        # The interpreter reads these only when it starts.
        if name == "TZ":
            time.tzset()
        elif name == "PYTHONPATH":
            self.set_python_path(split_path(value))

    def set_python_path(self, entries):
        """After the first entry, which stands for the cell's directory, as at a start."""
        for entry in self.python_path:
            # Removes each entry only as often as it was inserted: the user's code may have inserted
            # the same.
            if entry in sys.path:
                sys.path.remove(entry)
        at = 1 if sys.path[:1] == [""] else 0
        sys.path[at:at] = entries
        self.python_path = entries

    def enter(self, workdir):
        """Where the call wants to be, unless the code before has gone elsewhere since the last call
        with this wish. A directory that was removed is left, also when another is there under its
        name.
        """
        if workdir == self.workdir and stands_somewhere():
            return
        self.workdir = workdir
        try:
            os.chdir(workdir)
        except OSError:
            os.chdir("/")


def split_path(text):
    return [entry for entry in (text or "").split(os.pathsep) if entry]


def stands_somewhere():
    try:
        os.getcwd()
        return True
    except OSError:
        return False
