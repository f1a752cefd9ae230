/**
 * A resume breaks the sandbox's outgoing connections, also for a program that only reads. On real
 * virtual machines, whose host is in a network of its own with a server.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";
import {
  type HostNetwork,
  hostNetworkProblem,
  makeHostNetwork,
  python,
  startVmFleet,
  type TestFleet,
  until,
} from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const run = promisify(execFile);
const whyNot = await hostNetworkProblem();
if (whyNot !== undefined) process.stderr.write(`connections.test.ts is skipped: ${whyNot}\n`);

/** Address for documentation (RFC 5737); not private, so a guest may reach it. */
const SERVER = "203.0.113.10";
const PORT = 8080;
/** Accepts connections, and sends nothing. */
const SILENT = `
import socket
server = socket.create_server(("${SERVER}", ${PORT}))
print("ready", flush=True)
connections = []
while True: connections.append(server.accept())
`;
/** Opens connections, and reads from each until its outcome is known. */
const READERS = `
import json, socket, threading
outcomes = {}
def read(name, connection):
    try:
        outcomes[name] = connection.recv(100).decode() or "end"
    except OSError as error:
        outcomes[name] = type(error).__name__
def reader(name, family, address, half=False):
    connection = socket.socket(family, socket.SOCK_STREAM)
    connection.connect(address)
    if half: connection.shutdown(socket.SHUT_WR)
    threading.Thread(target=read, args=(name, connection), daemon=True).start()
server = socket.create_server(("127.0.0.1", 9000))
six = socket.create_server(("::1", 9000), family=socket.AF_INET6)
reader("out", socket.AF_INET, ("${SERVER}", ${PORT}))
reader("mapped", socket.AF_INET6, ("::ffff:${SERVER}", ${PORT}))
reader("half", socket.AF_INET, ("${SERVER}", ${PORT}), half=True)
reader("inside", socket.AF_INET, ("127.0.0.1", 9000))
reader("inside6", socket.AF_INET6, ("::1", 9000))
accepted = [server.accept()[0], six.accept()[0]]
`;

describe.skipIf(whyNot !== undefined)("a resume", () => {
  let network: HostNetwork;
  let server: ChildProcess | undefined;
  let fleet: TestFleet;
  beforeAll(async () => {
    network = await makeHostNetwork(2);
    server = await serve(network);
    fleet = await startVmFleet({ hosts: 1, serverAddresses: [network.outside] });
    await moveHost(fleet, network);
  });
  afterAll(async () => {
    server?.kill("SIGKILL");
    await fleet?.[Symbol.asyncDispose]();
    await network?.[Symbol.asyncDispose]();
  });

  test("breaks what went outside, and nothing inside", async () => {
    const sandbox = await fleet.createSandbox({ internet_access: true });
    await python(sandbox, READERS);
    expect(await python(sandbox, "print(outcomes)")).toBe("{}");
    await fleet.client.sandboxes.pause(sandbox.id);
    await fleet.client.sandboxes.resume(sandbox.id);
    await until(
      "they are broken",
      async () => (await python(sandbox, "print(len(outcomes))")) === "3",
    );
    await python(sandbox, "for connection in accepted: connection.send(b'alive')");
    await until(
      "those inside are read",
      async () => (await python(sandbox, "print(len(outcomes))")) === "5",
    );
    expect(JSON.parse(await python(sandbox, "print(json.dumps(outcomes))"))).toEqual({
      half: "ConnectionAbortedError",
      inside: "alive",
      inside6: "alive",
      mapped: "ConnectionAbortedError",
      out: "ConnectionAbortedError",
    });
  });
});

const inside = ({ hosts }: HostNetwork, at: number): string[] => {
  const namespace = hosts[at]?.prefix.at(-1) ?? "";
  return ["nsenter", `--net=/run/netns/${namespace}`];
};

/** Starts the server in the network of the second host, which is the first host's internet. */
async function serve(network: HostNetwork): Promise<ChildProcess> {
  const command = async (at: number, line: string) => {
    const [program = "", ...args] = inside(network, at);
    await run(program, [...args, "sh", "-euc", line]);
  };
  await command(1, `ip addr add ${SERVER}/32 dev lo`);
  await command(
    0,
    `ip route add default via ${network.hosts[1]?.address}; echo 1 > /proc/sys/net/ipv4/ip_forward`,
  );
  const [program = "", ...args] = inside(network, 1);
  const child = spawn(program, [...args, "python3", "-c", SILENT], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  return child;
}

/**
 * Restarts the host's agent in a network of its own, with all other programs at the other end of a
 * cable.
 */
async function moveHost({ fleet }: TestFleet, network: HostNetwork): Promise<void> {
  const component = fleet.component("host-1");
  const address = network.hosts[0]?.address ?? "";
  await network.carry(Number(new URL(fleet.state.natsUrl).port));
  await fleet.kill(component.name);
  const [program = "", ...args] = inside(network, 0);
  component.args = [...args, component.command, ...component.args];
  component.command = program;
  component.healthUrl = (component.healthUrl ?? "").replace("127.0.0.1", address);
  const natsUrl = component.env["NATS_URL"]?.replaceAll("127.0.0.1", network.outside) ?? "";
  Object.assign(component.env, {
    NATS_URL: natsUrl,
    HEALTH_HOST: address,
    DATA_PLANE_HOST: address,
    ISOLATION: "namespaces",
  });
  await fleet.startComponent(component.name);
}
