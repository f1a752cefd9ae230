"""What the Python kernel tells the bridge, beside what its cells print: one JSON object per line on
a pipe of its own. {"event": "ready"} | {"event": "begin"|"end", "cell", …} | {"event": "display",
…} | {"event": "clear", "wait"}. Written at once and in the program's order, so that a kernel that
dies in the next instruction has told what it did before.
"""

import contextlib
import json
import os
import signal
import threading


class Events:
    def __init__(self, descriptor):
        self.descriptor = descriptor
        # Programs that a cell starts must not hold the pipe open.
        os.set_inheritable(descriptor, False)
        self.lock = threading.Lock()
        os.register_at_fork(after_in_child=self.renew_lock)

    def renew_lock(self):
        self.lock = threading.Lock()

    def send(self, event, **fields):
        data = json.dumps({"event": event, **fields}).encode() + b"\n"
        with undisturbed(), self.lock:
            while data:
                data = data[os.write(self.descriptor, data) :]


@contextlib.contextmanager
def undisturbed():
    """Half a line would spoil the next: an interrupt that comes meanwhile is raised afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came and callable(handler):
            handler(*came[0])
