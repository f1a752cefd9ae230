/** VMM user, secrets, units and the connection to the fleet. */
import { messageOf } from "@torpor/service";
import { once } from "node:events";
import { readFile, stat } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { serversIn } from "@torpor/bus";
import { advised, type Check, type Finding, type CheckedMachine, missing, ok } from "./finding.ts";

const UNIT = "torpor-node-agent.service";
const FENCE_UNIT = "torpor-fence.service";
const CONNECT_LIMIT_MS = 3_000;
const DEFAULT_NATS_PORT = 4222;

export const SERVICE_CHECKS: Check[] = [
  { name: "VMM user", look: vmmUser },
  { name: "secrets", look: secrets },
  { name: "systemd unit", look: unit },
  { name: "fence", look: fence },
  { name: "NATS", look: nats },
];

async function vmmUser(machine: CheckedMachine): Promise<Finding> {
  const { vmmUid } = machine.settings;
  const lines = (await readFile(join(machine.root, "/etc/passwd"), "utf8").catch(() => "")).split(
    "\n",
  );
  const name = lines.find((line) => line.split(":")[2] === String(vmmUid))?.split(":")[0];
  return name === undefined
    ? missing(`nobody has uid ${vmmUid}`, "run infra/host/install.sh, which adds torpor-vmm")
    : ok(`${name}, uid ${vmmUid}`);
}

async function secrets(machine: CheckedMachine): Promise<Finding> {
  for (const file of machine.settings.secretFiles) {
    const facts = await stat(join(machine.root, file)).catch(() => undefined);
    if (facts === undefined)
      return missing(
        `${file} is not there`,
        "get it from the operator of the fleet (docs/operate/hosts.md), mode 600",
      );
    if ((facts.mode & 0o077) !== 0)
      return missing(`${file} has mode ${(facts.mode & 0o777).toString(8)}`, `chmod 600 ${file}`);
  }
  if (machine.settings.secretFiles.length === 0)
    return missing(
      "none is configured",
      "let this host join: torpor-node-agent join (docs/operate/hosts.md)",
    );
  return ok(machine.settings.secretFiles.join(", "));
}

async function unitState(
  machine: CheckedMachine,
  unitName: string,
): Promise<{ enabled: string; active: string }> {
  const enabled = (await machine.run("systemctl", ["is-enabled", unitName])).output.trim();
  const active = (await machine.run("systemctl", ["is-active", unitName])).output.trim();
  return { enabled, active };
}

/**
 * Advised: without the fence the host takes all sandboxes except those with `on_host_loss:
 * restore`.
 */
async function fence(machine: CheckedMachine): Promise<Finding> {
  const { enabled, active } = await unitState(machine, FENCE_UNIT);
  if (enabled === "enabled" && active === "active") return ok("enabled, active");
  return advised(
    `${FENCE_UNIT} does not run: no sandbox with on_host_loss: restore comes here`,
    `run infra/host/install.sh; then systemctl enable --now ${FENCE_UNIT}`,
  );
}

async function unit(machine: CheckedMachine): Promise<Finding> {
  const { enabled, active } = await unitState(machine, UNIT);
  if (enabled === "enabled" && active === "active") return ok("enabled, active");
  if (enabled !== "enabled")
    return missing(
      `${UNIT} is ${enabled.split("\n").at(-1) || "not there"}`,
      `run infra/host/install.sh; then systemctl enable --now ${UNIT}`,
    );
  return missing(
    `enabled, but ${active}`,
    `systemctl start ${UNIT}; journalctl -u ${UNIT} says why it ended`,
  );
}

async function nats(machine: CheckedMachine): Promise<Finding> {
  const { natsUrl } = machine.settings;
  if (natsUrl === undefined)
    return advised("NATS_URL is not set", "set it in /etc/torpor/node-agent.env");
  const written = serversIn(natsUrl);
  const servers = written.map((server) => URL.parse(server)).filter((url) => url !== null);
  if (servers.length < Math.max(1, written.length))
    return missing(
      "NATS_URL is no URL",
      "write it as nats://host:4222 or tls://host:4222, several with commas between them",
    );
  const problems = await Promise.all(servers.map(unreachable));
  const seen = problems.filter((problem) => problem !== undefined);
  const names = servers.map(({ host }) => host).join(", ");
  if (seen.length === 0)
    return ok(servers.length === 1 ? `${names} takes connections` : `${names} take connections`);
  const toDo = "correct NATS_URL, or let the private network's firewall pass this host";
  // The other servers take connections, for now.
  return seen.length < servers.length
    ? advised(seen.join("; "), toDo)
    : missing(seen.join("; "), toDo);
}

/** Reason why the server cannot be reached; undefined if it can. */
async function unreachable(url: URL): Promise<string | undefined> {
  const socket = connect(Number(url.port || DEFAULT_NATS_PORT), url.hostname);
  try {
    await once(socket, "connect", { signal: AbortSignal.timeout(CONNECT_LIMIT_MS) });
    return undefined;
  } catch (error) {
    return `${url.host} cannot be reached: ${messageOf(error)}`;
  } finally {
    socket.destroy();
  }
}
