"""Resident root helper of the guest agent: the system calls that Node.js has no binding for.

One JSON object per line on standard input, one answer per request: {"id", "type": "done", "ok": bool}.
It is started before a golden snapshot is taken, so that after a restore nothing has to be loaded first.
"""
import ctypes
import fcntl
import json
import os
import struct
import subprocess
import sys
import time

# <linux/random.h>: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
# <linux/reboot.h>
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC

libc = ctypes.CDLL(None, use_errno=True)


def reseed(request):
    """Writing to /dev/urandom credits nothing and does not reseed at once: only the two ioctls together do."""
    entropy = bytes.fromhex(request["entropy"])
    with open("/dev/urandom", "wb", buffering=0) as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy)
        fcntl.ioctl(device, RNDRESEEDCRNG)


def set_clock(request):
    time.clock_settime(time.CLOCK_REALTIME, request["wallClockMs"] / 1000)


def set_hostname(request):
    name = request["hostname"].encode()
    if libc.sethostname(name, len(name)) != 0:
        raise OSError(ctypes.get_errno(), "sethostname")


def attach_disk(request):
    subprocess.run([request["program"]], check=True, timeout=30, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def sync(_request):
    os.sync()


def power_off(_request):
    os.sync()
    for action in ("s", "u"):
        with open("/proc/sysrq-trigger", "w") as trigger:
            trigger.write(action)
        time.sleep(0.2)
    libc.reboot(ctypes.c_uint(LINUX_REBOOT_CMD_POWER_OFF))


ACTIONS = {
    "reseed": reseed,
    "set_clock": set_clock,
    "set_hostname": set_hostname,
    "attach_disk": attach_disk,
    "sync": sync,
    "power_off": power_off,
}

for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request.get("id"), "type": "done", "ok": True}
    try:
        ACTIONS[request["type"]](request)
    except Exception as error:  # the agent decides what a failure means
        answer["ok"] = False
        answer["error"] = repr(error)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
