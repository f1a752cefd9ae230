"""Interrupting a cell: first the kernel alone, then what the cell has started and waits for.

How long it is given to stop is counted in what it does: its processor time, and time asleep. A
kernel that wants to run and is not let, on a busy host, loses nothing by that.
"""

import os
import signal
import time

# The kernel handles this signal as an interrupt, also while it ignores SIGINT because it waits for
# a child (os.system).
SIGNAL_INTERRUPT = signal.SIGRTMIN + 7
# Seconds, counted as `Interrupt.count` does, from the first interrupt. A kernel that waits for a
# child can be interrupted once the child is gone.
STEPS = [
    (1.0, "kernel", SIGNAL_INTERRUPT),
    (1.0, "children", signal.SIGINT),
    (2.0, "kernel", SIGNAL_INTERRUPT),
    (2.0, "children", signal.SIGKILL),
    (3.0, "kernel", SIGNAL_INTERRUPT),
]
GIVE_UP_AFTER = 5.0
# Limit by the wall clock, however slow the host is.
GIVE_UP_AFTER_WALL = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


def stat_of(pid):
    """State, parent, processor time and start time (both in ticks) of a process, or None."""
    try:
        with open(f"/proc/{pid}/task/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return {
        "state": fields[0],
        "parent": int(fields[1]),
        "used": int(fields[11]) + int(fields[12]),
        "started": int(fields[19]),
    }


def now_in_ticks():
    """On the clock that start times are told by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS


def started_since(pid, ticks):
    """The descendants of a process that were started since then."""
    found = {int(name): stat_of(name) for name in os.listdir("/proc") if name.isdigit()}
    family = {pid}
    # A child usually has a higher number than its parent, except after the numbers wrap around: a
    # few rounds find those children too.
    for _ in range(3):
        family |= {child for child, stat in found.items() if stat and stat["parent"] in family}
    # The kernel rounds a start time down to a whole tick.
    return [child for child in family - {pid} if found[child]["started"] >= int(ticks)]


def send(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Interrupt:
    def __init__(self, pid, began_ticks):
        self.pid, self.began_ticks = pid, began_ticks
        self.used = 0.0
        self.began_wall = self.seen_at = time.monotonic()
        self.seen = stat_of(pid)
        self.steps = list(STEPS)
        send(pid, signal.SIGINT)

    def step(self):
        """To be called every tenth of a second or so. False when there is no hope any more."""
        self.count()
        while self.steps and self.used >= self.steps[0][0]:
            _, who, number = self.steps.pop(0)
            for pid in [self.pid] if who == "kernel" else started_since(self.pid, self.began_ticks):
                send(pid, number)
        return self.used < GIVE_UP_AFTER and time.monotonic() - self.began_wall < GIVE_UP_AFTER_WALL

    def count(self):
        now, stat = time.monotonic(), stat_of(self.pid)
        if stat is not None and self.seen is not None:
            is_asleep = stat["state"] != "R"
            self.used += (
                now - self.seen_at if is_asleep else (stat["used"] - self.seen["used"]) / TICKS
            )
        self.seen_at, self.seen = now, stat

    def end(self):
        """Ends the kernel and what the cell has started; what earlier cells started goes on."""
        children = started_since(self.pid, self.began_ticks)
        send(self.pid, signal.SIGKILL)
        for child in children:
            send(child, signal.SIGKILL)
