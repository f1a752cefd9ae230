"""What talks in the networks of a test.

peer.py serve <tcp port> [<udp port> <address>...]                      Answers each TCP connection and each datagram with the address that it came from.
peer.py hold <tcp port>                                              Takes connections, and says nothing on them.
peer.py ask tcp|udp <address> <port> <seconds> [<source address>]    Prints what the other end answered, or the error's name; `silence` when nothing came.
"""

import errno
import select
import socket
import sys


def serve(tcp_port, udp_port):
    server = socket.create_server(("0.0.0.0", tcp_port))
    sockets = [server]
    if udp_port is not None:
        # One socket per address: the response has to come from the address that was asked.
        for address in sys.argv[4:]:
            sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets[-1].bind((address, udp_port))
    print("ready", flush=True)
    while True:
        for ready in select.select(sockets, [], [])[0]:
            if ready is server:
                connection, peer = server.accept()
                connection.sendall(peer[0].encode())
                connection.close()
            else:
                _, peer = ready.recvfrom(2048)
                ready.sendto(peer[0].encode(), peer)


def hold(port):
    server = socket.create_server(("0.0.0.0", port))
    print("ready", flush=True)
    connections = []
    while True:
        connections.append(server.accept())


def ask(kind, address, port, seconds, source=None):
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    connection.settimeout(seconds)
    try:
        if source is not None:
            connection.bind((source, 0))
        connection.connect((address, port))
        if kind == "udp":
            connection.send(b"?")
        return connection.recv(2048).decode() or "nothing"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))


if sys.argv[1] == "serve":
    serve(int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
elif sys.argv[1] == "hold":
    hold(int(sys.argv[2]))
else:
    print(ask(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), *sys.argv[6:]))
