/** Where things are in the guest. Tests run the agent on an ordinary machine and move them. */
export interface Config {
  port: number;
  version: string;
  /** The helper programs that ride beside the bundle. */
  helperDir: string;
  /** Roots that file calls may touch; everything else is PATH_NOT_ALLOWED. */
  fileRoots: string[];
  workdir: string;
  /** Global environment variables, kept over stop and start. Root-only. */
  envFile: string;
  /** cgroup v2 directory of the users' processes; undefined where there is none (tests). */
  userCgroup: string | undefined;
  /** The sandbox's disk, and where the image is mounted that belongs below it; undefined where there is none (tests). */
  disk: { device: string; image: string } | undefined;
  /** Keeps the agent key for the next agent process of the same guest. In memory only. */
  keyFile: string | undefined;
  maxBodyBytes: number;
  /** Per stream of one execution; what is over is cut, with a note. */
  maxOutputBytes: number;
}

declare const AGENT_VERSION: string;

export function configFrom(env: NodeJS.ProcessEnv): Config {
  const root = env["TORPOR_GUEST_ROOT"] ?? "";
  return {
    port: Number(env["TORPOR_GUEST_PORT"] ?? 7777),
    version: typeof AGENT_VERSION === "string" ? AGENT_VERSION : "0.0.0-dev",
    helperDir: env["TORPOR_GUEST_HELPERS"] ?? "/run/torpor",
    fileRoots: [`${root}/workspace`, root === "" ? "/tmp" : `${root}/tmp`, `${root}/root`, `${root}/home`],
    workdir: `${root}/workspace`,
    envFile: `${root}/var/lib/torpor/env.json`,
    userCgroup: root === "" ? "/sys/fs/cgroup/user" : undefined,
    disk: root === "" ? { device: "/dev/vdb", image: "/run/base" } : undefined,
    keyFile: root === "" ? "/run/torpor/agent-key" : undefined,
    maxBodyBytes: Number(env["TORPOR_GUEST_MAX_BODY"] ?? 100 * 1024 * 1024),
    maxOutputBytes: 10 * 1024 * 1024,
  };
}
