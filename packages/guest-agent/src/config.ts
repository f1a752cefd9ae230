/**
 * The agent's paths in the guest, and its limits. Tests run the agent on an ordinary machine and
 * move the paths.
 */
export interface GuestAgentConfig {
  port: number;
  version: string;
  /** Directory of the helper programs that are installed beside the bundle. */
  helperDir: string;
  /**
   * The interpreter of the helpers and the kernel: a full path, so that no search path that a user
   * sets applies.
   */
  python: string;
  /** Roots that file calls may touch; everything else is PATH_NOT_ALLOWED. */
  fileRoots: string[];
  workdir: string;
  /** Directory of unfinished uploads. */
  uploadDir: string;
  /** File of the global environment variables; survives stop and start. Only root can read it. */
  envFile: string;
  /**
   * Directory of the system files with the sandbox's names, and the record of what its last start
   * wrote there.
   */
  etcDir: string;
  namesFile: string;
  /** cgroup v2 directory of the users' processes; undefined in tests. */
  userCgroup: string | undefined;
  /**
   * The sandbox's disk, and the mount point of the image that belongs below it; undefined in tests.
   */
  disk: { device: string; image: string } | undefined;
  /**
   * File, in memory only, that keeps the agent key for the next agent process of the same guest.
   */
  keyFile: string;
  /** The host may connect by vsock. False on an ordinary machine (tests). */
  hasVsock: boolean;
  limits: GuestLimits;
}

export interface GuestLimits {
  /** Size of one JSON body, and of all bodies that are being read at the same time. */
  bodyBytes: number;
  bodiesBytes: number;
  /** Largest file that /files/read returns; larger files need /files/download. */
  readBytes: number;
  /** Output per stream of one execution; the excess is cut, with a note. */
  outputBytes: number;
  /** All outputs that are being collected at the same time. */
  outputsBytes: number;
  /** Programs that run at the same time: foreground, background and streamed ones together. */
  executions: number;
  /** Ended background executions that the agent remembers. */
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
