import { availableParallelism, hostname } from "node:os";
import { NATS_CREDENTIALS } from "@torpor/bus";
import {
  dataPlaneUrlProblem,
  HOST_LABELS_PATTERN,
  HostId,
  MAX_STARTS_AT_ONCE,
} from "@torpor/contracts";
import { TLS_SETTINGS, tlsFilesIn } from "@torpor/identity";
import { ConfigurationError, loadConfig, LogLevel } from "@torpor/service";
import { type Static, Type } from "typebox";

const Environment = Type.Object({
  LOG_LEVEL: LogLevel,
  HOST_ID: Type.Unsafe<HostId>(Type.String({ ...HostId, default: hostIdFrom(hostname()) })),
  REGION: Type.String({ default: "local" }),
  /** Labels that sandboxes may require of their host: `name=value,name=value`. */
  HOST_LABELS: Type.String({ default: "" }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://", default: "nats://127.0.0.1:4222" }),
  ...NATS_CREDENTIALS,
  HEALTH_HOST: Type.String({ default: "127.0.0.1" }),
  HEALTH_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9400 }),
  DATA_PLANE_HOST: Type.String({ default: "127.0.0.1" }),
  DATA_PLANE_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 9401 }),
  /**
   * URL of the data plane for gateways, if it differs from the listening address: behind a
   * forwarded port, or bound to every address.
   */
  DATA_PLANE_URL: Type.Optional(Type.String({ pattern: "^https?://" })),
  /** Shared key of fleets with programs of 0.1.0: accepted, and shown, in place of tickets. */
  HOST_DATA_KEY_FILE: Type.Optional(Type.String()),
  ...TLS_SETTINGS,
  DATA_DIR: Type.String({ default: "/var/lib/torpor" }),
  IMAGES_DIR: Type.String({ default: "/var/lib/torpor/images" }),
  /**
   * Second place of snapshots, besides the host that took them: none, a directory that hosts share,
   * or a bucket (docs/snapshots.md).
   */
  SNAPSHOT_STORE: Type.Enum(["none", "file", "s3"], { default: "none" }),
  SNAPSHOT_STORE_DIR: Type.Optional(Type.String({ pattern: "^/" })),
  /** URL of a server that speaks S3; default: AWS. */
  S3_ENDPOINT: Type.Optional(Type.String({ pattern: "^https?://" })),
  S3_REGION: Type.String({ default: "us-east-1" }),
  S3_BUCKET: Type.Optional(Type.String({ minLength: 1 })),
  /** Prefix of every key: one for each fleet that uses the bucket. */
  S3_PREFIX: Type.String({ default: "torpor/", pattern: "^([A-Za-z0-9!_.*'()-]+/)*$" }),
  /** JSON: {"accessKeyId": "…", "secretAccessKey": "…"}; default: what the AWS SDK finds. */
  S3_CREDENTIALS_FILE: Type.Optional(Type.String()),
  SNAPSHOT_SWEEP_SECONDS: Type.Integer({ minimum: 1, default: 600 }),
  /** Unreferenced objects stay in the store for at least this long. */
  SNAPSHOT_GRACE_SECONDS: Type.Integer({ minimum: 1, default: 3_600 }),
  DRIVER: Type.Enum(["qemu", "cloud-hypervisor", "simulated"], { default: "qemu" }),
  QEMU_ACCELERATOR: Type.Enum(["auto", "kvm", "tcg"], { default: "auto" }),
  QEMU_BIN: Type.String({ default: "qemu-system-x86_64" }),
  /**
   * One binary, or a directory of <version>/cloud-hypervisor: snapshots restore with the version
   * that wrote them.
   */
  CLOUD_HYPERVISOR_BIN: Type.Optional(Type.String()),
  CLOUD_HYPERVISOR_DIR: Type.Optional(Type.String()),
  /** Confines Cloud Hypervisor to the files of its VM, by Landlock. */
  CLOUD_HYPERVISOR_LANDLOCK: Type.Enum(["auto", "on", "off"], { default: "auto" }),
  /** VMMs run as this user where the agent is root. */
  VMM_UID: Type.Integer({ minimum: 1, default: 64_055 }),
  /**
   * Isolation of VMs (host/isolation). auto: namespaces where the machine has what they need, else
   * plain.
   */
  ISOLATION: Type.Enum(["auto", "namespaces", "plain"], { default: "auto" }),
  /** Addresses between VMs' namespaces and the host, two per VM. */
  VM_NETWORK_CIDR: Type.String({ default: "10.213.0.0/16" }),
  /** Namespaces that are kept ready for the next VMs. */
  VM_NETWORK_POOL: Type.Integer({ minimum: 0, maximum: 64, default: 2 }),
  /** off: no guest reaches the internet, even if its sandbox may. */
  EGRESS: Type.Enum(["on", "off"], { default: "on" }),
  /** Name servers of guests, with commas between them; default: the machine's. */
  EGRESS_DNS: Type.Optional(Type.String()),
  /** Network namespace (of `ip netns`) that VMs are connected to, instead of the agent's own. */
  UPLINK_NETNS: Type.Optional(Type.String({ pattern: "^[A-Za-z0-9][A-Za-z0-9._-]*$" })),
  CAPACITY_VCPU: Type.Integer({ minimum: 1, default: 8 }),
  CAPACITY_MEMORY_MIB: Type.Integer({ minimum: 128, default: 4096 }),
  CAPACITY_DISK_MIB: Type.Integer({ minimum: 128, default: 65_536 }),
  /**
   * Creates, starts and resumes that run at the same time; the others wait in their order. One
   * start keeps a processor busy.
   */
  STARTS_AT_ONCE: Type.Integer({
    minimum: 1,
    maximum: MAX_STARTS_AT_ONCE,
    default: Math.min(availableParallelism(), MAX_STARTS_AT_ONCE),
  }),
  /** VMs that are kept warm for future creates, at most; 0: none. */
  WARM_POOL_MAX: Type.Integer({ minimum: 0, maximum: 64, default: 0 }),
  SHUTDOWN_GRACE_MS: Type.Integer({ minimum: 100, default: 10_000 }),
});
export type NodeAgentConfig = Static<typeof Environment>;

/**
 * Host id from a machine's name: its first label, with the characters and length that an id may
 * have.
 */
export function hostIdFrom(machineName: string): string {
  const [label = ""] = machineName.toLowerCase().split(".");
  return (
    label
      .replaceAll(/[^a-z0-9-]/g, "-")
      .replace(/^-+/, "")
      .slice(0, 63) || "host"
  );
}

export function configFrom(env: NodeJS.ProcessEnv): NodeAgentConfig {
  const config = loadConfig(Environment, env);
  labelsOf(config);
  const { DATA_PLANE_URL: url } = config;
  const scheme = tlsFilesIn(config) === undefined ? "http:" : "https:";
  const problem =
    url === undefined
      ? undefined
      : (dataPlaneUrlProblem(url) ??
        (url.startsWith(scheme) ? undefined : `must begin with ${scheme}, as TLS_CERT_FILE says`));
  if (problem !== undefined)
    throw new ConfigurationError(`invalid configuration: DATA_PLANE_URL ${problem}`);
  return config;
}

const SHAPE =
  "must be name=value pairs with commas between them; names and values are 1 to 63 letters, digits, dots, dashes and underscores, names may have slashes too";

/**
 * Labels of HOST_LABELS; if a name is repeated, the later value counts. Throws ConfigurationError.
 */
export function labelsOf({
  HOST_LABELS: text,
}: Pick<NodeAgentConfig, "HOST_LABELS">): Record<string, string> {
  if (!new RegExp(HOST_LABELS_PATTERN).test(text))
    throw new ConfigurationError(`invalid configuration: HOST_LABELS ${SHAPE}`);
  const pairs = text.split(",").filter((pair) => pair !== "");
  return Object.fromEntries(
    pairs.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)]),
  );
}
