"""Drives one real IPython kernel for the guest agent, through jupyter_client.

Standard input: one JSON object per line. {"id", "type": "execute", "code", "workdir", "env"} | {"id", "type": "ready"} | {"id", "type": "reseed"} | {"type": "interrupt"}; its end ends kernel and bridge.
Standard output: {"type": "kernel", "pid"} | {"id", "type": "stdout"|"stderr", "data"} | {"id", "type": "rich", "data": {kind: value}} | {"id", "type": "done", "ok", "error"?}
`error` is there only when the kernel itself is gone. Argument: the cgroup directory that the kernel enters before its first instruction, or nothing.
"""
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
from queue import Empty

from jupyter_client.manager import KernelManager

DATAFRAME = "application/vnd.torpor.dataframe+json"
MIME = {
    "text/plain": "text",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/svg+xml": "svg",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "application/json": "json",
    DATAFRAME: "dataframe",
}
ANSI = re.compile(r"\x1b\[[0-9;]*m")
START_LIMIT_S = 450
MAX_TEXT = 64 * 1024
MAX_DISPLAY_BYTES = 8 * 1024 * 1024
# Unsent output above which the kernel is stopped, and below which it goes on.
STOP_ABOVE, GO_BELOW = 2 * 1024 * 1024, 256 * 1024

# <linux/sched.h>, and the bit of SIGKILL.
PF_EXITING = 0x4
KILL_PENDING = 1 << (signal.SIGKILL - 1)

RESEED = """
import os as _o, random as _r, ssl as _s, sys as _y
_r.seed(_o.urandom(32)); _s.RAND_add(_o.urandom(64), 64.0)
if "numpy" in _y.modules: _y.modules["numpy"].random.seed(int.from_bytes(_o.urandom(4), "little"))
del _o, _r, _s, _y
"""
DISPLAY_CODE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel_display.py")


class Output:
    """Sends to the agent in order. Where the agent does not read on, the kernel is stopped, so that nothing is lost and nothing grows without end."""

    def __init__(self):
        self.messages = queue.SimpleQueue()
        self.waiting = 0
        self.kernel_pid = None
        self.is_stopped = False
        self.lock = threading.Lock()
        threading.Thread(target=self.write, daemon=True).start()

    def send(self, message):
        line = json.dumps(message) + "\n"
        with self.lock:
            self.waiting += len(line)
            if self.waiting > STOP_ABOVE and not self.is_stopped:
                self.signal(signal.SIGSTOP)
        self.messages.put(line)

    def write(self):
        while True:
            line = self.messages.get()
            sys.stdout.write(line)
            sys.stdout.flush()
            with self.lock:
                self.waiting -= len(line)
                if self.waiting < GO_BELOW and self.is_stopped:
                    self.signal(signal.SIGCONT)

    def resume(self):
        with self.lock:
            if self.is_stopped:
                self.signal(signal.SIGCONT)

    def signal(self, number):
        self.is_stopped = number == signal.SIGSTOP
        try:
            if self.kernel_pid is not None:
                os.kill(self.kernel_pid, number)
        except ProcessLookupError:
            pass


output = Output()


def start_kernel(cgroup):
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]
    if cgroup:
        enter = 'echo 0 > "$0/cgroup.procs" && echo 0 > /proc/self/oom_score_adj && exec "$@"'
        command = ["/bin/sh", "-c", enter, cgroup, *command]
    # A kernel specification of our own: to find the stock one, jupyter_client would load the whole of IPython into this process too.
    specs = tempfile.mkdtemp(prefix="torpor-jupyter-", dir="/dev/shm")
    os.makedirs(f"{specs}/kernels/torpor")
    with open(f"{specs}/kernels/torpor/kernel.json", "w") as file:
        json.dump({"argv": command, "display_name": "Python", "language": "python"}, file)
    os.environ["JUPYTER_PATH"] = specs
    # Not on the disk, which may be full; by UNIX sockets, since the guest's TCP ports are its users' own (previews).
    manager = KernelManager(kernel_name="torpor", connection_file=f"{specs}/connection.json", transport="ipc", ip=f"{specs}/socket")
    # Not in the work directory: nothing may hold on to a directory below the root that is replaced when the disk is attached. The first cell goes there.
    manager.start_kernel(cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    wait_until_ready(client)
    output.kernel_pid = manager.provisioner.pid
    output.send({"type": "kernel", "pid": output.kernel_pid})
    return manager, client


def wait_until_ready(client):
    """jupyter_client counts by the wall clock, which is set anew when a paused machine goes on: so once more."""
    try:
        client.wait_for_ready(timeout=START_LIMIT_S)
    except RuntimeError:
        client.wait_for_ready(timeout=START_LIMIT_S)


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
                self.forget_replies()
                return ok, None
            ok = self.publish(kind, content) and ok

    def forget_replies(self):
        """Everything of use is published; the replies on the other channel would pile up."""
        try:
            while True:
                self.client.get_shell_msg(timeout=0)
        except Empty:
            pass

    def publish(self, kind, content):
        if kind == "stream":
            self.text(content["name"], content["text"])
        elif kind in ("display_data", "execute_result"):
            self.display(content["data"])
            if kind == "execute_result" and "text/plain" in content["data"]:
                self.text("stdout", content["data"]["text/plain"] + "\n")
        elif kind == "error":
            self.text("stderr", ANSI.sub("", "\n".join(content["traceback"])) + "\n")
            return False
        return True

    def text(self, name, text):
        for start in range(0, len(text), MAX_TEXT):
            output.send({"id": self.request_id, "type": name, "data": text[start : start + MAX_TEXT]})

    def display(self, data):
        rich = {MIME[mime]: value for mime, value in data.items() if mime in MIME}
        if len(json.dumps(rich)) <= MAX_DISPLAY_BYTES:
            output.send({"id": self.request_id, "type": "rich", "data": rich})
        else:
            self.text("stderr", f"[a display of more than {MAX_DISPLAY_BYTES} bytes was cut]\n")


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


def execute(cell, request, state):
    before = prologue(request, state)
    if before:
        cell.run(before, silent=True)
    return cell.run(request["code"])


def lives(manager):
    """A kernel that was just killed counts as dead, though it may take a while to be gone: nothing may be sent to it that it would not run."""
    if not manager.is_alive():
        return False
    with open(f"/proc/{manager.provisioner.pid}/status") as file:
        facts = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    pending = int(facts.get("SigPnd", "0"), 16) | int(facts.get("ShdPnd", "0"), 16)
    with open(f"/proc/{manager.provisioner.pid}/stat") as file:
        flags = int(file.read().rpartition(")")[2].split()[6])
    return not pending & KILL_PENDING and not flags & PF_EXITING


def work(requests, manager, client):
    state = {}
    while True:
        request = requests.get()
        cell = Cell(manager, client, request["id"])
        if not lives(manager):
            ok, gone = False, "the process is gone"
        elif request["type"] == "ready":
            ok, gone = True, None
        elif request["type"] == "reseed":
            ok, gone = cell.run(RESEED, silent=True)
        else:
            ok, gone = execute(cell, request, state)
        output.send({"id": request["id"], "type": "done", "ok": ok, **({"error": gone} if gone else {})})


def end_kernel(pid):
    """With everything that it has started and that has not made itself a session of its own."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def main():
    manager, client = start_kernel(sys.argv[1] if len(sys.argv) > 1 else "")
    with open(DISPLAY_CODE) as file:
        setup = f"exec(compile({file.read()!r}, 'kernel_display.py', 'exec'), {{'get_ipython': get_ipython, '__name__': 'kernel_display'}})"
    Cell(manager, client, None).run(setup, silent=True)
    requests = queue.Queue()
    threading.Thread(target=work, args=(requests, manager, client), daemon=True).start()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if request["type"] == "interrupt":
                output.resume()
                manager.interrupt_kernel()
            else:
                requests.put(request)
    finally:
        end_kernel(output.kernel_pid)
        os._exit(0)


main()
