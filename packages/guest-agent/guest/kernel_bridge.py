"""Drives one real IPython kernel for the guest agent, through jupyter_client.

Standard input: one JSON object per line. {"id", "type": "execute", "code", "workdir", "env"} | {"id", "type": "reseed"} | {"type": "interrupt"} | {"type": "quit"}
Standard output: {"id", "type": "stdout"|"stderr", "data"} | {"id", "type": "rich", "data": {kind: value}} | {"id", "type": "done", "ok", "error"?}
`error` is there only when the kernel itself is gone. Argument: the cgroup directory that the kernel enters before its first instruction, or nothing.
"""
import json
import os
import queue
import re
import sys
import tempfile
import threading
from queue import Empty

from jupyter_client.manager import KernelManager

MIME = {
    "text/plain": "text",
    "image/png": "png",
    "image/svg+xml": "svg",
    "text/html": "html",
    "text/markdown": "markdown",
    "application/json": "json",
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
START_LIMIT_S = 120

RESEED = """
import os as _o, random as _r, ssl as _s, sys as _y
_r.seed(_o.urandom(32)); _s.RAND_add(_o.urandom(64), 64.0)
if "numpy" in _y.modules: _y.modules["numpy"].random.seed(int.from_bytes(_o.urandom(4), "little"))
del _o, _r, _s, _y
"""

output_lock = threading.Lock()


def send(message):
    with output_lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def start_kernel(cgroup):
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]
    if cgroup:
        command = ["/bin/sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', cgroup, *command]
    # A kernel specification of our own: to find the stock one, jupyter_client would load the whole of IPython into this process too.
    specs = tempfile.mkdtemp(prefix="torpor-jupyter-")
    os.makedirs(f"{specs}/kernels/torpor")
    with open(f"{specs}/kernels/torpor/kernel.json", "w") as file:
        json.dump({"argv": command, "display_name": "Python", "language": "python"}, file)
    os.environ["JUPYTER_PATH"] = specs
    manager = KernelManager(kernel_name="torpor")
    # Not in the work directory: nothing may hold on to a directory below the root that is replaced when the disk is attached. The first cell goes there.
    manager.start_kernel(cwd="/")
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=START_LIMIT_S)
    return manager, client


class Cell:
    """One execution: sends the code and passes on what the kernel publishes until it is idle again."""

    def __init__(self, manager, client, request_id):
        self.manager, self.client, self.request_id = manager, client, request_id

    def run(self, code, silent=False):
        message_id = self.client.execute(code, silent=silent, store_history=not silent, allow_stdin=False)
        ok = True
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=0.5)
            except Empty:
                if not self.manager.is_alive():
                    return False, "the process is gone"
                continue
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return ok, None
            ok = self.publish(kind, content) and ok

    def publish(self, kind, content):
        if kind == "stream":
            send({"id": self.request_id, "type": content["name"], "data": content["text"]})
        elif kind in ("display_data", "execute_result"):
            rich = {MIME[mime]: value for mime, value in content["data"].items() if mime in MIME}
            send({"id": self.request_id, "type": "rich", "data": rich})
            if kind == "execute_result" and "text" in rich:
                send({"id": self.request_id, "type": "stdout", "data": rich["text"] + "\n"})
        elif kind == "error":
            send({"id": self.request_id, "type": "stderr", "data": ANSI.sub("", "\n".join(content["traceback"])) + "\n"})
            return False
        return True


def prologue(request, state):
    """Environment and working directory for the cell, only where they differ from the last one's."""
    lines = []
    if request["env"] != state.get("env", {}):
        gone = [name for name in state.get("env", {}) if name not in request["env"]]
        lines.append(f"import os as _o; _o.environ.update({request['env']!r}); [_o.environ.pop(_n, None) for _n in {gone!r}]; del _o")
        state["env"] = request["env"]
    if request["workdir"] != state.get("workdir"):
        lines.append(f"import os as _o; _o.chdir({request['workdir']!r}); del _o")
        state["workdir"] = request["workdir"]
    return "\n".join(lines)


def work(requests, manager, client):
    state = {}
    while True:
        request = requests.get()
        cell = Cell(manager, client, request["id"])
        if request["type"] == "reseed":
            ok, gone = cell.run(RESEED, silent=True)
        else:
            before = prologue(request, state)
            if before:
                cell.run(before, silent=True)
            ok, gone = cell.run(request["code"])
        send({"id": request["id"], "type": "done", "ok": ok, **({"error": gone} if gone else {})})


def main():
    manager, client = start_kernel(sys.argv[1] if len(sys.argv) > 1 else "")
    requests = queue.Queue()
    threading.Thread(target=work, args=(requests, manager, client), daemon=True).start()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["type"] == "interrupt":
                manager.interrupt_kernel()
            elif request["type"] == "quit":
                break
            else:
                requests.put(request)
    finally:
        manager.shutdown_kernel(now=True)


main()
