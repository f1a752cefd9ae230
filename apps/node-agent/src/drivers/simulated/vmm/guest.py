"""The toy in the place of a guest and its agent: that of @torpor/simulated-guest, which says what
it knows. One suite runs the same cases against both (test/simulated-guest.it.test.ts).
"""

import json
import os
import re
import time

from connections import Wait

DISK_PATH = "disk.raw"
DISK_HEADER_BYTES = 8
PORTS_WAIT_S = 20


class Guest:
    def __init__(self):
        self.memory = {"variables": {}}
        self.is_running = False
        self.is_off = False
        self.last_request_at = time.monotonic()
        self.routes = {
            "/health": lambda _: {"status": "healthy"},
            "/info": lambda _: {"vm_id": self.memory.get("sandboxId", "")},
            "/execute": lambda given: self.execute(str(given.get("code"))),
            "/files/write": self.write_file,
            "/files/read": self.read_file,
            "/_torpor/warm": lambda _: {},
            "/_torpor/activity": lambda _: self.activity(),
            "/_torpor/ports": lambda _: self.ports(),
            "/_torpor/prepare-pause": lambda _: {"frozen": True, "synced": True},
            "/_torpor/thaw": lambda _: {},
            "/_torpor/post-restore": self.become,
            "/_torpor/post-boot": self.become,
            "/_torpor/shutdown": lambda _: self.power_off(),
        }

    async def answer(self, path, given):
        if not path.startswith("/_torpor"):
            self.last_request_at = time.monotonic()
        if path not in self.routes:
            return 404, {"error": "unknown path", "code": "NOT_FOUND"}
        if path == "/_torpor/activity":
            await Wait(limit_s=self.number("activity_delay_ms") / 1000)
        if path == "/_torpor/ports":
            before = given.get("after")
            await Wait(until=lambda: self.ports()["etag"] != before, limit_s=PORTS_WAIT_S)
        try:
            return 200, self.routes[path](given)
        except Exception as error:
            return 500, {"code": "INTERNAL_ERROR", "message": str(error)}

    def execute(self, code):
        started_at = time.monotonic()
        variables = self.memory["variables"]
        answer = {"stdout": "", "stderr": "", "exit_code": 0, "success": True}
        assigned = re.fullmatch(r"\s*(\w+)\s*=\s*(.+)", code, re.ASCII)
        printed = re.fullmatch(r"\s*print\((\w+)\)\s*", code, re.ASCII)
        if assigned:
            variables[assigned[1]] = assigned[2].strip()
        elif printed and printed[1] in variables:
            answer["stdout"] = f"{variables[printed[1]]}\n"
        else:
            name = printed[1] if printed else code
            error = f"NameError: name '{name}' is not defined\n"
            answer.update(stderr=error, exit_code=1, success=False)
        return {**answer, "execution_time": time.monotonic() - started_at}

    def number(self, name):
        value = self.memory["variables"].get(name, "")
        return int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else 0

    def loopback_port_of(self, port):
        """None: nothing listens there."""
        target = self.number(f"port_{port}")
        return target if 0 < target < 65_536 else None

    def ports(self):
        found = (re.fullmatch(r"port_(\d+)", name, re.ASCII) for name in self.memory["variables"])
        ports = sorted(int(name[1]) for name in found if name and self.loopback_port_of(name[1]))
        return {"ports": ports, "etag": ",".join(map(str, ports)) or "none"}

    def activity(self):
        return {
            "active_requests": 0,
            "active_executions": self.number("active_executions"),
            "open_streams": 0,
            "last_activity_ms_ago": round((time.monotonic() - self.last_request_at) * 1000),
        }

    def become(self, given):
        self.memory["agentKey"] = str(given.get("agentKey"))
        self.memory["sandboxId"] = str(given.get("sandboxId"))
        return {}

    def power_off(self):
        self.is_off = True
        return {}

    def read_file(self, given):
        path = given.get("path")
        return {"path": path, "content": read_disk().get(str(path))}

    def write_file(self, given):
        path = given.get("path")
        write_disk({**read_disk(), str(path): str(given.get("content"))})
        return {"path": path}


def read_disk():
    """As disk.ts has it: a length, then as much JSON, on an image that keeps its size."""
    with open(DISK_PATH, "rb") as disk:
        size = int.from_bytes(disk.read(DISK_HEADER_BYTES), "big")
        return json.loads(disk.read(size)) if size else {}


def write_disk(files):
    content = json.dumps(files).encode()
    with open(DISK_PATH, "r+b") as disk:
        disk.write(len(content).to_bytes(DISK_HEADER_BYTES, "big") + content)
        disk.flush()
        os.fsync(disk.fileno())
