"""Watches directories, with everything below them, for the guest agent: inotify, which Node.js has no recursive form of.

Standard input: one path per line; its end ends the watcher. Standard output: one JSON object per line:
{"event": "created"|"modified"|"deleted"|"renamed", "path", "old_path"?, "is_dir"} | {"event": "watching", "path"} | {"event": "error", "code", "path", "message"}
"""
import ctypes
import json
import os
import select
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x2, 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
OVERFLOW, IGNORED, ONLYDIR, DONT_FOLLOW, IS_DIR = 0x4000, 0x8000, 0x1000000, 0x2000000, 0x40000000
MASK = MODIFY | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
MAX_DIRECTORIES = 8192
# A move comes as two events; the second is waited for this long.
PAIR_LIMIT_S = 0.05


def send(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


class Watcher:
    def __init__(self):
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.paths = {}
        self.roots = set()
        self.moved = None
        self.last = None

    def watch_root(self, path):
        if os.path.isdir(path):
            error = self.add_tree(path, tells=False)
        else:
            error = self.add(path)
        if error:
            send(event="error", code="WATCH_FAILED", path=path, message=error)
        else:
            self.roots.add(path)
            send(event="watching", path=path)

    def add(self, path):
        if len(self.paths) >= MAX_DIRECTORIES:
            return f"more than {MAX_DIRECTORIES} directories"
        watch = libc.inotify_add_watch(self.descriptor, os.fsencode(path), MASK | DONT_FOLLOW)
        if watch < 0:
            return os.strerror(ctypes.get_errno())
        self.paths[watch] = path
        return None

    def add_tree(self, path, tells):
        """What appears in a new directory before it is watched is told of by looking."""
        for directory, subdirectories, files in os.walk(path):
            error = self.add(directory)
            if error:
                return error
            for name in subdirectories + files if tells else ():
                self.tell("created", os.path.join(directory, name), name in subdirectories)
        return None

    def forget_tree(self, path):
        for watch, watched in list(self.paths.items()):
            if watched == path or watched.startswith(path + "/"):
                libc.inotify_rm_watch(self.descriptor, watch)
                del self.paths[watch]

    def move_tree(self, old, new):
        for watch, watched in self.paths.items():
            if watched == old or watched.startswith(old + "/"):
                self.paths[watch] = new + watched[len(old) :]

    def tell(self, event, path, is_dir, **more):
        """The same once more, with nothing between, says nothing new."""
        if event in ("modified", "created") and self.last == (event, path):
            return
        self.last = (event, path)
        send(event=event, path=path, is_dir=is_dir, **more)

    def read(self):
        data = os.read(self.descriptor, 65536)
        at = 0
        while at < len(data):
            watch, mask, cookie, size = struct.unpack_from("iIII", data, at)
            name = os.fsdecode(data[at + 16 : at + 16 + size].rstrip(b"\0"))
            at += 16 + size
            self.handle(watch, mask, cookie, name)

    def handle(self, watch, mask, cookie, name):
        if mask & OVERFLOW:
            send(event="error", code="EVENTS_LOST", path="", message="more changes than could be read; look at the directory itself")
            return
        directory = self.paths.get(watch)
        if directory is None:
            return
        path, is_dir = (os.path.join(directory, name) if name else directory), bool(mask & IS_DIR)
        if self.moved is not None and not (mask & MOVED_TO and self.moved[0] == cookie):
            self.moved_out()
        if mask & (DELETE_SELF | MOVE_SELF | IGNORED):
            self.gone(watch, mask, path)
        elif mask & MOVED_FROM:
            self.moved = (cookie, path, is_dir)
        elif mask & MOVED_TO:
            self.moved_in(path, is_dir)
        elif mask & CREATE:
            self.tell("created", path, is_dir)
            if is_dir and not os.path.islink(path):
                self.add_tree(path, tells=True)
        elif mask & DELETE:
            self.tell("deleted", path, is_dir)
        elif mask & MODIFY:
            self.tell("modified", path, is_dir)

    def gone(self, watch, mask, path):
        if mask & IGNORED:
            self.paths.pop(watch, None)
        elif path in self.roots:
            self.roots.discard(path)
            self.tell("deleted", path, True)
            send(event="error", code="WATCH_ENDED", path=path, message="what was watched is gone")

    def moved_in(self, path, is_dir):
        if self.moved is None:
            self.tell("created", path, is_dir)
            if is_dir:
                self.add_tree(path, tells=True)
            return
        old = self.moved[1]
        self.moved = None
        self.move_tree(old, path)
        self.tell("renamed", path, is_dir, old_path=old)

    def moved_out(self):
        _, path, is_dir = self.moved
        self.moved = None
        self.forget_tree(path)
        self.tell("deleted", path, is_dir)


def main():
    watcher, buffer = Watcher(), b""
    while True:
        readable, _, _ = select.select([0, watcher.descriptor], [], [], None if watcher.moved is None else PAIR_LIMIT_S)
        if watcher.descriptor in readable:
            watcher.read()
        elif watcher.moved is not None:
            watcher.moved_out()
        if 0 in readable:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                watcher.watch_root(os.fsdecode(line))


main()
