"""Resident root helper of the guest agent: the system calls that Node.js has no binding for.

One JSON object per line on standard input, one answer per request: {"id", "type": "done", "ok": bool}.
It is started before a golden snapshot is taken, so that after a restore nothing has to be loaded first.
"""
import ctypes
import fcntl
import json
import os
import shutil
import struct
import sys
import time

from connections import break_connections

# <linux/random.h>: _IOW('R', 0x03, int[2]) and _IO('R', 0x07).
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
# <linux/reboot.h>
LINUX_REBOOT_CMD_POWER_OFF = 0x4321FEDC
# <linux/fs.h>, <sys/mount.h>, and the number of the system call, for which libc has no name.
BLKFLSBUF = 0x1261
MS_NOATIME, MS_BIND, MS_REC, MNT_DETACH = 1024, 4096, 16384, 2
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
ATTACHED = "/run/torpor/attached"

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


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source, target, kind=None, flags=0, options=None):
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    check(libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() if options else None), f"mount {target}")


def copy_resolver(target):
    """A disk that is full must not keep its sandbox from starting."""
    try:
        if not os.path.exists(target) or os.path.getsize(target) == 0:
            shutil.copyfile("/etc/resolv.conf", target)
    except OSError as error:
        sys.stderr.write(f"{target} could not be written: {error}\n")


def make_open_directory(path):
    """Where nothing is. What users have put there is theirs, whatever it is: a link to elsewhere, say."""
    if not os.path.lexists(path):
        os.mkdir(path)
        os.chmod(path, 0o1777)


def attach_disk(request):
    """Puts the sandbox's disk under the running system: image below, disk above, by overlayfs.

    Everything that runs moves along: pivot_root changes the root of every process that has the old one. Done a second time it does nothing.
    """
    if os.path.exists(ATTACHED):
        return
    device, image = request["device"], request["image"]
    with open(device, "rb") as disk:
        # The kernel's cache is about the disk that was attached when this memory was saved.
        fcntl.ioctl(disk, BLKFLSBUF)
    for path in ("/run/disk", "/run/root"):
        os.makedirs(path, exist_ok=True)
    mount(device, "/run/disk", "ext4", MS_NOATIME, "discard")
    for path in ("/run/disk/upper", "/run/disk/work"):
        os.makedirs(path, exist_ok=True)
    mount("overlay", "/run/root", "overlay", 0, f"lowerdir={image},upperdir=/run/disk/upper,workdir=/run/disk/work")
    for name in ("proc", "sys", "dev"):
        os.makedirs(f"/run/root/{name}", exist_ok=True)
        mount(f"/{name}", f"/run/root/{name}", None, MS_BIND | MS_REC)
    mount("/run", "/run/root/run", None, MS_BIND)
    for name in ("workspace", "tmp"):
        make_open_directory(f"/run/root/{name}")
    copy_resolver("/run/root/etc/resolv.conf")
    os.makedirs("/run/old", exist_ok=True)
    os.chdir("/run/root")
    check(libc.syscall(ctypes.c_long(SYS_PIVOT_ROOT[os.uname().machine]), b".", b"run/old"), "pivot_root")
    os.chdir("/")
    check(libc.umount2(b"/run/old", MNT_DETACH), "umount /run/old")
    with open(ATTACHED, "w"):
        pass


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
    "break_connections": lambda request: break_connections(request["agentPort"]),
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
