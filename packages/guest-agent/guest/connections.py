"""Breaks the guest's TCP connections to outside, by the kernel's sock_diag.

Their peers, and whatever stood between, have long forgotten them when a sandbox is resumed. A program
that sends finds out; one that only reads would wait for ever.
"""
import ipaddress
import os
import socket
import struct

# <linux/netlink.h>, <linux/sock_diag.h>
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
# <net/tcp_states.h>: the states of a connection whose peer has responded. A connection that is
# still being opened is retried by the kernel.
ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 4, 5, 8, 9, 11
STATES = sum(1 << state for state in (ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING))
# struct nlmsghdr; struct inet_diag_req_v2 up to its id; struct inet_diag_sockid.
HEADER, REQUEST, SOCKET_ID = struct.Struct("=IHHII"), struct.Struct("=BBBxI"), struct.Struct("!HH16s16s12s")
BUFFER_BYTES = 65536


def ask(netlink, kind, flags, family, socket_id):
    body = REQUEST.pack(family, socket.IPPROTO_TCP, 0, STATES) + socket_id
    netlink.send(HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 0, 0) + body)


def messages(netlink):
    """Those that answer a dump, without their headers. Raises what the kernel refuses it with."""
    while True:
        data = netlink.recv(BUFFER_BYTES)
        while data:
            length, kind = HEADER.unpack_from(data)[:2]
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                number = -struct.unpack_from("=i", data, HEADER.size)[0]
                raise OSError(number, f"sock_diag: {os.strerror(number)}")
            yield data[HEADER.size : length]
            data = data[(length + 3) & ~3 :]


def is_outside(family, socket_id, agent_port):
    port, _, source, target, _ = SOCKET_ID.unpack(socket_id)
    if port == agent_port:
        return False
    size = 4 if family == socket.AF_INET else 16
    address = ipaddress.ip_address(target[:size])
    address = getattr(address, "ipv4_mapped", None) or address
    return source != target and not address.is_loopback


def destroy(netlink, family, socket_id):
    ask(netlink, SOCK_DESTROY, NLM_F_ACK, family, socket_id)
    # The result is not checked: the connection may have closed by now, and a kernel without support
    # has already refused the dump.
    netlink.recv(BUFFER_BYTES)


def break_connections(agent_port):
    """All but those to the agent's own port, and those that stay inside."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_SOCK_DIAG) as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            ask(netlink, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, bytes(SOCKET_ID.size))
            # struct inet_diag_msg: family, state, timer, retransmits, then the id.
            found = [message[4 : 4 + SOCKET_ID.size] for message in messages(netlink)]
            for socket_id in found:
                if is_outside(family, socket_id, agent_port):
                    destroy(netlink, family, socket_id)
