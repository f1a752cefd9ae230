"""Watches directories, with everything below them, for the guest agent: inotify, which Node.js has
no recursive form of.

Standard input: one {"path": base64 of its bytes, "shown"} per line; its end ends the watcher.
Standard output: one JSON object per line:
  {"event": "created"|"modified"|"deleted"|"renamed", "path", "old_path"?, "is_dir"}
  {"event": "watching", "path"}
  {"event": "error", "code", "path", "message"}

WT1  Every event of the kernel is told once. It joins equal ones that nobody has read yet; nothing
    else is left out.
WT2  A new directory is watched before it is looked into. What lies in it is told of by looking; an
    event for the same that came meanwhile is then no news.
WT3  A file is watched by way of its directory: it may be removed and made again, or another take its
    place.
"""
import array
import base64
import bisect
import ctypes
import errno
import json
import os
import re
import select
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
MODIFY, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
UNMOUNT, OVERFLOW, IGNORED, ONLYDIR, IS_DIR = 0x2000, 0x4000, 0x8000, 0x1000000, 0x40000000
MASK = MODIFY | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF | ONLYDIR
MAX_DIRECTORIES = 65536
FORGET_AT_ONCE = 4096
# A move is two events; this is the wait for the second one.
PAIR_LIMIT_S = 0.05
# Errors for a directory that is renamed or removed while it is read: its own events report that.
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def send(**message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


# Text of a name: src/files/names.ts has the rules.
BYTE_CHARACTERS, BYTES = re.compile("[\uf080-\uf0ff]"), re.compile("[\udc80-\udcff]")


def shown_name(directory, name):
    text = name.decode("utf-8", "surrogateescape")
    if BYTES.search(text):
        return spelled(text)
    if not BYTE_CHARACTERS.search(text):
        return text
    return spelled(text) if os.path.lexists(os.path.join(directory, meant(text))) else text


def meant(text):
    def of(character):
        is_byte = BYTE_CHARACTERS.match(character)
        return bytes([ord(character) - 0xF000]) if is_byte else character.encode()

    return b"".join(of(character) for character in text)


def spelled(text):
    def own_bytes(match):
        return "".join(chr(0xF000 + byte) for byte in match[0].encode())

    text = BYTE_CHARACTERS.sub(own_bytes, text)
    return BYTES.sub(lambda match: chr(ord(match[0]) - 0xDC00 + 0xF000), text)


class Names:
    """The names that a directory has, as eight bytes each: there may be a million."""

    __slots__ = ("hashes",)

    def __init__(self, names=()):
        self.hashes = array.array("q", sorted(map(hash, names)))

    def __contains__(self, name):
        at = bisect.bisect_left(self.hashes, hash(name))
        return at < len(self.hashes) and self.hashes[at] == hash(name)

    def add(self, name):
        if name not in self:
            bisect.insort(self.hashes, hash(name))

    def discard(self, name):
        if name in self:
            del self.hashes[bisect.bisect_left(self.hashes, hash(name))]


NONE = frozenset()


class Watch:
    """A watched directory. There may be many: what few have is made when they have it."""

    __slots__ = ("path", "shown", "is_root", "is_tree", "files", "names", "found")

    def __init__(self, path, shown):
        self.path, self.shown = path, shown
        self.is_root = False
        # True if everything in and below the directory is watched; otherwise only `files` are.
        self.is_tree = False
        self.files = NONE
        # Names in the directory according to the events read so far: another file may replace one.
        self.names = Names()
        # Names that the scan of the directory has reported, kept until all earlier events are read.
        self.found = NONE

    def child(self, name):
        shown = shown_name(self.path, name)
        return os.path.join(self.path, name), os.path.join(self.shown, shown)


class Level:
    """A directory that is being looked into."""

    def __init__(self, descriptor):
        self.descriptor, self.watch, self.todo = descriptor, None, []


def failure():
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))


class Watcher:
    def __init__(self):
        # Requested paths: (path, shown, whether it is a directory).
        self.roots = []
        self.start()

    def start(self):
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise failure()
        self.watches = {}
        # Watches with a non-empty `found`.
        self.looked = []
        # First half of a move: (cookie, path, shown, whether it is a directory).
        self.moved = None
        self.has_told_limit = False

    def watch_root(self, path, shown):
        before = set(self.watches)
        try:
            self.add_root(path, shown, os.path.isdir(path))
        except OSError as error:
            send(event="error", code="WATCH_FAILED", path=shown, message=self.reason(error))
            self.forget_slowly(set(self.watches) - before)
        else:
            send(event="watching", path=shown)

    def add_root(self, path, shown, is_dir):
        if is_dir:
            self.add_tree(path, shown, tells=False).is_root = True
        else:
            directory = os.path.dirname(path)
            watch, _ = self.add(directory, directory, os.path.dirname(shown))
            watch.files |= {os.path.basename(path)}
            if os.path.lexists(path):
                watch.names.add(os.path.basename(path))
        if (path, shown, is_dir) not in self.roots:
            self.roots.append((path, shown, is_dir))

    def reason(self, error):
        if error.errno == errno.ENOSPC:
            return f"only {len(self.watches)} directories can be watched"
        return error.strerror

    def add(self, at, path, shown):
        """The watch of the directory that is at `at`, and whether it is new."""
        number = libc.inotify_add_watch(self.descriptor, at, MASK)
        if number < 0:
            raise failure()
        watch = self.watches.get(number)
        if watch is not None:
            watch.path, watch.shown = path, shown
            return watch, False
        if len(self.watches) >= MAX_DIRECTORIES:
            libc.inotify_rm_watch(self.descriptor, number)
            raise OSError(errno.ENOSPC, "")
        self.watches[number] = Watch(path, shown)
        return self.watches[number], True

    def add_tree(self, path, shown, tells, again=True):
        """By open directories: their paths may change meanwhile, and may be longer than a path can
        be. A known one is looked into only `again`."""
        top = self.enter(path, None, path, shown, tells, again)
        levels = [top]
        try:
            while levels:
                level = levels[-1]
                if not level.todo:
                    os.close(levels.pop().descriptor)
                    continue
                name = level.todo.pop()
                try:
                    path, shown = level.watch.child(name)
                    levels.append(self.enter(name, level.descriptor, path, shown, tells, True))
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        finally:
            for level in levels:
                os.close(level.descriptor)
        return top.watch

    def enter(self, name, above, path, shown, tells, again):
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        level = Level(os.open(name, flags, dir_fd=above))
        try:
            level.watch, is_new = self.add(b"/proc/self/fd/%d" % level.descriptor, path, shown)
            level.watch.is_tree = True
            if is_new or again:
                self.look(level, tells)
        except OSError:
            os.close(level.descriptor)
            raise
        return level

    def look(self, level, tells):
        with os.scandir(level.descriptor) as entries:
            found = [(os.fsencode(one.name), one.is_dir(follow_symlinks=False)) for one in entries]
        level.watch.names = Names(name for name, _ in found)
        level.todo = [name for name, is_dir in found if is_dir]
        if not tells:
            return
        level.watch.found = {name for name, _ in found}
        self.looked.append(level.watch)
        for name, is_dir in found:
            send(event="created", path=level.watch.child(name)[1], is_dir=is_dir)

    def add_new(self, path, shown, again):
        """A directory that has appeared in a watched one."""
        try:
            self.add_tree(path, shown, tells=True, again=again)
        except OSError as error:
            # Exceeding the limit is reported once, until there is room again.
            if error.errno in GONE or self.has_told_limit:
                return
            self.has_told_limit = True
            send(event="error", code="WATCH_FAILED", path=shown, message=self.reason(error))

    def tree(self, path):
        below = path + b"/"
        return [
            number
            for number, watch in self.watches.items()
            if watch.path == path or watch.path.startswith(below)
        ]

    def forget(self, numbers):
        for number in numbers:
            libc.inotify_rm_watch(self.descriptor, number)
            del self.watches[number]

    def forget_slowly(self, numbers):
        """Each gives an event, and the kernel keeps only so many: they are read meanwhile."""
        watches = self.watches
        for count, number in enumerate(numbers):
            if count % FORGET_AT_ONCE == 0:
                self.read_waiting()
            if self.watches is not watches:
                return
            if number in watches:
                self.forget([number])

    def move_tree(self, old, shown_old, new, shown_new):
        for number in self.tree(old):
            watch = self.watches[number]
            watch.path = new + watch.path[len(old) :]
            watch.shown = shown_new + watch.shown[len(shown_old) :]

    def has_events(self):
        return bool(select.select([self.descriptor], [], [], 0)[0])

    def read_waiting(self):
        while self.has_events():
            self.read()

    def read(self):
        data = os.read(self.descriptor, 65536)
        at = 0
        while at < len(data):
            number, mask, cookie, size = struct.unpack_from("iIII", data, at)
            name = data[at + 16 : at + 16 + size].rstrip(b"\0")
            at += 16 + size
            if mask & OVERFLOW:
                self.start_again()
                return
            self.handle(number, mask, cookie, name)
        if not self.has_events():
            for watch in self.looked:
                watch.found = NONE
            self.looked = []

    def handle(self, number, mask, cookie, name):
        watch = self.watches.get(number)
        is_told = watch is not None and (watch.is_tree or name in watch.files)
        if self.moved is not None:
            is_second_half = is_told and mask & MOVED_TO and self.moved[0] == cookie
            if not is_second_half:
                self.moved_out()
        if watch is None:
            return
        if mask & IGNORED:
            del self.watches[number]
            self.has_told_limit = False
        elif mask & (DELETE_SELF | MOVE_SELF | UNMOUNT):
            self.gone(watch)
        elif is_told:
            self.changed(watch, mask, cookie, name)

    def changed(self, watch, mask, cookie, name):
        path, shown = watch.child(name)
        is_dir = bool(mask & IS_DIR)
        was_found = name in watch.found
        watch.found -= {name}
        if mask & MODIFY:
            send(event="modified", path=shown, is_dir=is_dir)
        elif mask & CREATE and not was_found:
            self.appeared("created", watch, path, shown, is_dir)
        elif mask & DELETE:
            send(event="deleted", path=shown, is_dir=is_dir)
        elif mask & MOVED_FROM:
            self.moved = (cookie, path, shown, is_dir)
        elif mask & MOVED_TO and self.moved is None:
            event = "modified" if name in watch.names else "created"
            self.appeared(event, watch, path, shown, is_dir)
        elif mask & MOVED_TO:
            self.renamed(watch, path, shown, is_dir)
        if mask & (DELETE | MOVED_FROM):
            watch.names.discard(name)
        else:
            watch.names.add(name)

    def appeared(self, event, watch, path, shown, is_dir):
        send(event=event, path=shown, is_dir=is_dir)
        if is_dir and watch.is_tree:
            self.add_new(path, shown, again=event == "created")

    def renamed(self, watch, path, shown, is_dir):
        _, old, shown_old, _ = self.moved
        self.moved = None
        if is_dir:
            self.move_tree(old, shown_old, path, shown)
        send(event="renamed", path=shown, is_dir=is_dir, old_path=shown_old)
        if is_dir and watch.is_tree:
            # The directory may have been renamed before it could be read.
            self.add_new(path, shown, again=False)

    def moved_out(self):
        _, path, shown, is_dir = self.moved
        self.moved = None
        if is_dir:
            self.forget(self.tree(path))
        send(event="deleted", path=shown, is_dir=is_dir)

    def start_again(self):
        """What appeared, moved or went meanwhile is not known. The client is told when new changes
        are seen again."""
        os.close(self.descriptor)
        self.start()
        for path, shown, is_dir in list(self.roots):
            try:
                self.add_root(path, shown, is_dir)
            except OSError:
                self.ended(shown)
        message = "more changes than could be read; look at the directory itself"
        send(event="error", code="EVENTS_LOST", path="", message=message)

    def gone(self, watch):
        """Of one in a watched directory that one's events tell."""
        if not (watch.is_root or watch.files):
            return
        above = os.path.dirname(watch.path)
        if any(other.is_tree and other.path == above for other in self.watches.values()):
            return
        if watch.is_root:
            send(event="deleted", path=watch.shown, is_dir=True)
            self.ended(watch.shown)
        for name in watch.files:
            shown = watch.child(name)[1]
            if name in watch.names and not watch.is_tree:
                send(event="deleted", path=shown, is_dir=False)
            self.ended(shown)
        self.forget(self.tree(watch.path))

    def ended(self, shown):
        self.roots = [root for root in self.roots if root[1] != shown]
        send(event="error", code="WATCH_ENDED", path=shown, message="what was watched is gone")


def main():
    try:
        watcher = Watcher()
    except OSError as error:
        message = f"no more watchers can be started: {error.strerror}"
        send(event="error", code="WATCH_FAILED", path="", message=message)
        return
    buffer = b""
    while True:
        limit = None if watcher.moved is None else PAIR_LIMIT_S
        readable, _, _ = select.select([0, watcher.descriptor], [], [], limit)
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
                message = json.loads(line)
                watcher.watch_root(base64.b64decode(message["path"]), message["shown"])


main()
