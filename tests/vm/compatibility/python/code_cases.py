"""Running code and commands, files, variables, streams."""

import hashlib
import hmac
import inspect
import json
import os
import tempfile

from cases import Refused, case, error_of, expect, go, hold, items, until

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 4])\nplt.show()"
RECEIVER = """
import http.server, json, os
class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        json.dump({"headers": headers, "body": body}, open("/tmp/callback.tmp", "w"))
        os.rename("/tmp/callback.tmp", "/tmp/callback.json")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9999), Receiver).serve_forever()
"""


@case("Sandbox, code", "run_code")
async def run_code(kit):
    plot = await kit.code(PLOT, **kit.limit(110), preflight=True)
    expect((plot.success, plot.stderr), (True, ""))
    hold(any(one.type.value == "image/png" for one in plot.rich_outputs), plot.rich_outputs)
    failed = await kit.code("1 / 0")
    expect(
        (failed.success, failed.exit_code, "ZeroDivisionError" in failed.stderr), (False, 1, True)
    )
    for language, code in (("javascript", "console.log(6 * 7)"), ("bash", "echo $((6 * 7))")):
        expect((await kit.code(code, language=language)).stdout, "42\n")
    expect(
        (
            await kit.code(
                "import os; print(os.environ['A'], os.getcwd())", env={"A": "1"}, working_dir="/tmp"
            )
        ).stdout,
        "1 /tmp\n",
    )
    return "python (one IPython kernel, state persists), javascript, bash; go where it is installed"


@case("Sandbox, code", "run_code_stream")
async def run_code_stream(kit):
    frames = await items(kit.box.run_code_stream("for i in range(5): print(i)"))
    text = "".join(frame["data"] for frame in frames if frame["type"] == "stdout")
    expect((text, frames[-1]["type"], frames[-1]["success"]), ("0\n1\n2\n3\n4\n", "complete", True))


@case("Sandbox, code", "run_code_background", "list_processes", "kill_process")
async def background(kit):
    started = await go(kit.box.run_code_background("import time\ntime.sleep(600)", name="sleeper"))
    listed = await go(kit.box.list_processes())
    hold(started["process_id"] in [one["process_id"] for one in listed], listed)
    await go(kit.box.kill_process(started["process_id"]))

    async def is_gone():
        found = await go(kit.box.commands.run("pgrep -f '[t]ime.sleep.600'"))
        return found.stdout == ""

    await until("the process is gone", is_gone)
    return "lists all processes of the machine, these among them" if kit.is_async else None


@case("Sandbox, code", "run_code_async")
async def run_code_async(kit):
    await go(kit.box.run_code_background(RECEIVER, timeout=300))

    async def listens():
        return (await go(kit.box.commands.run("ss -Hltn sport = :9999"))).stdout != ""

    await until("the receiver listens", listens)
    secret = {"callback_headers": {"X-Mine": "yes"}, "callback_signature_secret": "secret"}
    started = await go(
        kit.box.run_code_async("print('later')", "http://127.0.0.1:9999/done", **secret)
    )
    hold(started["execution_id"], started)

    async def came():
        return await go(kit.box.files.exists("/tmp/callback.json"))

    await until("the callback came", came)
    got = json.loads(await go(kit.box.files.read("/tmp/callback.json")))
    result = json.loads(got["body"])
    expect((result["status"], result["stdout"]), ("completed", "later\n"))
    signature = hmac.new(b"secret", got["body"].encode(), hashlib.sha256).hexdigest()
    expect(
        (got["headers"]["x-mine"], got["headers"]["x-hopx-signature"]),
        ("yes", f"sha256={signature}"),
    )
    return "the callback is sent from inside the sandbox, signed over its raw body"


@case("sandbox.commands", "run")
async def commands_run(kit):
    result = await go(
        kit.box.commands.run(
            "echo $A; pwd; echo err >&2; exit 3", env={"A": "1"}, working_dir="/tmp"
        )
    )
    expect((result.stdout, result.stderr, result.exit_code), ("1\n/tmp\n", "err\n", 3))
    late = await go(kit.box.commands.run("sleep 60", **kit.limit(1)))
    expect(late.exit_code, 124)


@case("sandbox.commands", "run(background=True)")
async def commands_background(kit):
    started = await go(kit.box.commands.run("sleep 301", background=True))
    hold(started.stdout.startswith("Background process started: "), started)
    await go(kit.box.kill_process(started.stdout.split(": ")[1]))


@case("sandbox.files", "write", "read")
async def write_read(kit):
    await go(kit.box.files.write("/workspace/a.txt", "grüezi\n"))
    expect(await go(kit.box.files.read("/workspace/a.txt")), "grüezi\n")


@case("sandbox.files", "write_bytes", "read_bytes")
async def bytes_both_ways(kit):
    data = bytes(range(256)) * 4
    await go(kit.box.files.write_bytes("/workspace/a.bin", data))
    expect(await go(kit.box.files.read_bytes("/workspace/a.bin")), data)


@case("sandbox.files", "list")
async def list_files(kit):
    listed = {one.name: one for one in await go(kit.box.files.list("/workspace"))}
    expect(
        (listed["a.bin"].size, listed["a.bin"].is_file, listed["a.txt"].path),
        (1024, True, "/workspace/a.txt"),
    )


@case("sandbox.files", "mkdir", "exists", "remove")
async def directories(kit):
    await go(kit.box.files.mkdir("/workspace/deep/er"))
    await go(kit.box.files.mkdir("/workspace/deep/er"))
    expect(await go(kit.box.files.exists("/workspace/deep/er")), True)
    await go(kit.box.files.remove("/workspace/deep"))
    expect(await go(kit.box.files.exists("/workspace/deep")), False)


@case("sandbox.files", "upload", "download", only="sync")
async def transfers(kit):
    data = b"torpor " * 300_000
    with tempfile.TemporaryDirectory() as directory:
        local, back = os.path.join(directory, "local"), os.path.join(directory, "back")
        with open(local, "wb") as file:
            file.write(data)
        kit.box.files.upload(local, "/workspace/remote.bin")
        kit.box.files.download("/workspace/remote.bin", back)
        with open(back, "rb") as file:
            expect(hashlib.sha256(file.read()).hexdigest(), hashlib.sha256(data).hexdigest())
    return "streamed both ways"


@case("sandbox.files", "errors")
async def file_errors(kit):
    missing = await error_of(lambda: kit.box.files.read("/workspace/none"))
    expect(type(missing).__name__, "FileNotFoundError")
    if kit.is_async:
        # The async SDK passes a `path` to its FileOperationError, which takes none.
        try:
            await kit.box.files.read("/etc/shadow")
        except TypeError:
            return "what may not be touched ends in a TypeError of the SDK's own"
        raise AssertionError("it did not fail")
    error = await error_of(lambda: kit.box.files.read("/etc/shadow"))
    expect((type(error).__name__, error.code), ("FileOperationError", "PATH_NOT_ALLOWED"))
    return "/workspace, /tmp, /root and /home may be touched; everything else is PATH_NOT_ALLOWED"


@case("sandbox.files", "watch")
async def watch(kit):
    seen = []
    async for event in kit.box.files.watch("/workspace"):
        seen.append(event)
        if event["type"] == "watching":
            await go(kit.box.files.write("/workspace/watched.txt", "x"))
        if event.get("path", "").endswith("watched.txt"):
            expect(event["type"], "change")
            return None
    raise AssertionError(seen)


@case("sandbox.env", "set_all", "get_all")
async def env_all(kit):
    await go(kit.box.env.set_all({"ONE": "1"}))
    expect(await go(kit.box.env.get_all()), {"ONE": "1"})


@case("sandbox.env", "set", "get", "update", "delete")
async def env_one(kit):
    await go(kit.box.env.set("API_TOKEN", "hidden"))
    await go(kit.box.env.update({"TWO": "2"}))
    await go(kit.box.env.delete("ONE"))
    expect(
        (await go(kit.box.env.get("TWO")), await go(kit.box.env.get("ONE", "none"))), ("2", "none")
    )
    expect(await go(kit.box.env.get("API_TOKEN")), "***MASKED***")
    look = "import os; print(os.environ.get('API_TOKEN'), os.environ.get('ONE'))"
    expect((await kit.code(look)).stdout, "hidden None\n")
    return "values of names with KEY, SECRET, PASSWORD or TOKEN are masked"


@case("sandbox.cache", "stats", "clear")
async def cache(kit):
    hold("size" in (await go(kit.box.cache.stats()))["cache"], "cache")
    await go(kit.box.cache.clear())


@case("sandbox.terminal", "connect", "send_input", "resize", "iter_output")
async def terminal(kit):
    async with await open_terminal(kit) as socket:
        await kit.box.terminal.resize(socket, 120, 40)
        await kit.box.terminal.send_input(socket, "stty size; exit 7\r")
        frames = await items(
            kit.box.terminal.iter_output(socket), lambda frame: frame["type"] == "exit"
        )
    text = "".join(frame["data"] for frame in frames if frame["type"] == "output")
    hold("40 120" in text, text)
    expect(frames[-1]["code"], 7)
    return "a real PTY"


async def open_terminal(kit):
    return await kit.box.terminal.connect()


@case("sandbox.desktop", "every method", only="sync")
async def desktop(kit):
    calls = [name for name in dir(type(kit.box.desktop)) if not name.startswith("_")]
    for name in calls:
        method = getattr(kit.box.desktop, name)
        needed = [
            one for one in inspect.signature(method).parameters.values() if one.default is one.empty
        ]
        error = await error_of(
            lambda: method(*[["ctrl"] if one.name == "modifiers" else 1 for one in needed])
        )
        expect((name, type(error).__name__), (name, "DesktopNotAvailableError"))
    raise Refused(
        "DesktopNotAvailableError at once: no template has a desktop. The async class has none"
    )
