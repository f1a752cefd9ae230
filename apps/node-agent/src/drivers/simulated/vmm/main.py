"""The process of a simulated VM: `main.py <runDir> <guestPort>`, in the VM's directory.

It starts with its vCPUs paused. Control, one line per connection on `<runDir>/control.sock`:
status | run | pause | save | load <base64>. Guest: HTTP on 127.0.0.1:<guestPort>.

A fleet has hundreds of these processes: hence one thread, and no import that takes long.
"""

import binascii
import json
import os
import socket
import sys

from connections import HttpConnection, Loop, Wait, receive, send
from guest import Guest

BACKLOG = 511


async def control(connection, guest):
    line = bytearray()
    while data := await receive(connection):
        line += data
    name, _, argument = line.decode().strip().partition(" ")
    await send(connection, answer_control(guest, name, argument).encode())


def answer_control(guest, name, argument):
    if name == "status":
        return "running" if guest.is_running else "paused"
    if name == "save":
        return binascii.b2a_base64(json.dumps(guest.memory).encode(), newline=False).decode()
    if name == "load":
        guest.memory = json.loads(binascii.a2b_base64(argument))
    elif name in ("run", "pause"):
        guest.is_running = name == "run"
    else:
        return "unknown"
    return "ok"


async def exit_when_off(guest):
    await Wait(until=lambda: guest.is_off)
    sys.exit(0)


def main(run_dir, guest_port):
    loop, guest = Loop(), Guest()

    def serve_guest(connection):
        return HttpConnection(loop, connection, guest).serve()

    def serve_control(connection):
        return control(connection, guest)

    guest_door = socket.create_server(("127.0.0.1", guest_port), backlog=BACKLOG)
    loop.start(loop.listen(guest_door, serve_guest))
    # The socket gets its name once it accepts connections, and the guest's port does too.
    control_door = socket.socket(socket.AF_UNIX)
    control_door.bind(f"{run_dir}/control.sock.new")
    control_door.listen(BACKLOG)
    os.rename(f"{run_dir}/control.sock.new", f"{run_dir}/control.sock")
    loop.start(loop.listen(control_door, serve_control))
    loop.start(exit_when_off(guest))
    loop.run()


main(sys.argv[1], int(sys.argv[2]))
