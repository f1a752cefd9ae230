/**
 * Where things are in the guest, and how much of each there may be. Tests run the agent on an
 * ordinary machine and move them.
 */
export interface GuestAgentConfig {
  port: number;
  version: string;
  /** The helper programs that ride beside the bundle. */
  helperDir: string;
  /**
   * The interpreter of helpers and kernel: not to be found by a search path that the user may set.
   */
  python: string;
  /** Roots that file calls may touch; everything else is PATH_NOT_ALLOWED. */
  fileRoots: string[];
  workdir: string;
  /** Uploads are written here until they are whole. */
  uploadDir: string;
  /** Global environment variables, kept over stop and start. Root-only. */
  envFile: string;
  /** System files with the sandbox's names, and what its last start wrote there. */
  etcDir: string;
  namesFile: string;
  /** cgroup v2 directory of the users' processes; undefined where there is none (tests). */
  userCgroup: string | undefined;
  /**
   * The sandbox's disk, and where the image is mounted that belongs below it; undefined where there
   * is none (tests).
   */
  disk: { device: string; image: string } | undefined;
  /** Keeps the agent key for the next agent process of the same guest. In memory only. */
  keyFile: string;
  /** The host may come by vsock. Not on an ordinary machine (tests). */
  hasVsock: boolean;
  limits: GuestLimits;
}

export interface GuestLimits {
  /** One JSON body, and all that are being read together. */
  bodyBytes: number;
  bodiesBytes: number;
  /** A file that /files/read answers with; larger ones are for /files/download. */
  readBytes: number;
  /** Per stream of one execution; what is over is cut, with a note. */
  outputBytes: number;
  /** All outputs that are being collected together. */
  outputsBytes: number;
  /** Programs that run at the same time: foreground, background and streamed together. */
  executions: number;
  /** Background executions that are remembered after their end. */
  finishedExecutions: number;
  /** Open WebSockets and tunnels. */
  streams: number;
  idempotency: { results: number; resultsBytes: number; keptMs: number };
}

const MIB = 1024 ** 2;
const HOUR_MS = 3_600_000;

declare const AGENT_VERSION: string;

export function configFrom(env: NodeJS.ProcessEnv): GuestAgentConfig {
  const inGuest = env["TORPOR_GUEST_ROOT"] === undefined;
  const root = (env["TORPOR_GUEST_ROOT"] ?? "").replace(/\/$/, "");
  return {
    port: Number(env["TORPOR_GUEST_PORT"] ?? 7777),
    version: typeof AGENT_VERSION === "string" ? AGENT_VERSION : "0.0.0-dev",
    helperDir: env["TORPOR_GUEST_HELPERS"] ?? "/run/torpor",
    python: inGuest ? "/usr/bin/python3" : "python3",
    fileRoots: ["workspace", "tmp", "root", "home"].map((name) => `${root}/${name}`),
    workdir: `${root}/workspace`,
    uploadDir: `${root}/var/lib/torpor/uploads`,
    envFile: `${root}/var/lib/torpor/env.json`,
    etcDir: `${root}/etc`,
    namesFile: `${root}/var/lib/torpor/names.json`,
    userCgroup: inGuest ? "/sys/fs/cgroup/user" : undefined,
    disk: inGuest ? { device: "/dev/vdb", image: "/run/base" } : undefined,
    keyFile: `${root}/run/torpor/agent-key`,
    hasVsock: inGuest,
    limits: {
      bodyBytes: Number(env["TORPOR_GUEST_MAX_BODY"] ?? 32 * MIB),
      bodiesBytes: 64 * MIB,
      readBytes: 16 * MIB,
      outputBytes: 10 * MIB,
      outputsBytes: 48 * MIB,
      executions: 128,
      finishedExecutions: 100,
      streams: 128,
      idempotency: { results: 256, resultsBytes: 16 * MIB, keptMs: HOUR_MS },
    },
  };
}
