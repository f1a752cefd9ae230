/** Command line of a simulated VM's process: Python, and the program vmm/main.py. */
import { access, constants } from "node:fs/promises";
import { basename, join } from "node:path";

/** Debian's Python. A `python3` in PATH may be a wrapper that costs more than the program does. */
const USUAL_PYTHON = "/usr/bin/python3";
/** Beside this file, in the sources or in a release (build.ts). */
const PROGRAM = join(
  import.meta.dirname,
  basename(import.meta.filename) === "program.ts" ? "vmm" : "torpor-simulated-vmm",
  "main.py",
);
/** No site-packages: the search for them costs more than the program's own imports. */
const OPTIONS = "-S";

/** `runDir` is relative to the VM's directory, in which the process starts. */
export async function simulatedVmm(
  runDir: string,
  guestPort: number,
): Promise<{ command: string; args: string[] }> {
  return { command: await findPython(), args: [OPTIONS, PROGRAM, runDir, String(guestPort)] };
}

export async function findPython(
  usual = USUAL_PYTHON,
  path = process.env["PATH"] ?? "",
): Promise<string> {
  const directories = path.split(":").filter((directory) => directory !== "");
  for (const candidate of [usual, ...directories.map((directory) => join(directory, "python3"))]) {
    const canRun = await access(candidate, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (canRun) return candidate;
  }
  throw new Error(
    `simulated VMs need Python: no ${usual}, no python3 in PATH (apt-get install python3)`,
  );
}
