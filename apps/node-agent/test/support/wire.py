"""One end of a wire between two taps in two network namespaces: frames go over a UNIX socket.

wire.py <tap> <socket path> listen|connect     The connecting end stands for a VMM, the listening one for its guest.
"""

import fcntl
import os
import select
import socket
import struct
import sys

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000

name, path, role = sys.argv[1:]
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
wire = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if role == "listen":
    wire.bind(path)
    os.chmod(path, 0o777)
    wire.listen(1)
    print("ready", flush=True)
    wire, _ = wire.accept()
else:
    wire.connect(path)
    print("ready", flush=True)
while True:
    for ready in select.select([tap, wire], [], [])[0]:
        if ready is wire:
            try:
                frame = wire.recv(65536)
            except ConnectionError:
                frame = b""
            if not frame:
                sys.exit(0)
            try:
                os.write(tap, frame)
            except OSError:
                pass  # The device is not up yet.
        else:
            wire.send(os.read(tap, 65536))
