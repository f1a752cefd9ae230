/** The API: the method and body of each path, the call behind it, and the text of its failures. */
import { FakeApiError, VmError } from "./errors.ts";
import type { Faults } from "./faults.ts";
import type { FakeRequest } from "./http-parser.ts";
import type { FakeAnswer, Response } from "./http-server.ts";
import type { RestoreConfig, Vmm } from "./vmm.ts";

const PREFIX = "/api/v1/";

interface Call {
  method: "GET" | "PUT";
  takesBody: boolean;
  /** Text of a failure right after "Error from API". */
  failure: string;
  /** Returns the body of a 200, or undefined for a 204. */
  run: (vmm: Vmm, body: Record<string, unknown>) => unknown;
}

const get = (failure: string, run: Call["run"]): Call => ({
  method: "GET",
  takesBody: false,
  failure,
  run,
});
const put = (failure: string, run: Call["run"]): Call => ({
  method: "PUT",
  takesBody: false,
  failure,
  run,
});
const putBody = (failure: string, run: Call["run"]): Call => ({
  method: "PUT",
  takesBody: true,
  failure,
  run,
});

const PING = { build_version: "v53.0", version: "53.0.0", pid: process.pid, features: ["kvm"] };
const EMPTY_200 = "";

const CALLS: Record<string, Call> = {
  "vmm.ping": get("", () => PING),
  "vmm.shutdown": put("", () => EMPTY_200),
  "vm.create": putBody("The VM could not be created", (vmm, body) => vmm.create(body)),
  "vm.boot": put("The VM could not boot", (vmm) => vmm.boot()),
  "vm.info": get("The VM info is not available", (vmm) => vmm.info()),
  "vm.counters": get("The VM info is not available", (vmm) => vmm.counters()),
  "vm.pause": put("The VM could not be paused", (vmm) => vmm.pause()),
  "vm.resume": put("The VM could not resume", (vmm) => vmm.resume()),
  "vm.snapshot": putBody("The VM could not be snapshotted", (vmm, body) =>
    vmm.snapshot(text(body, "destination_url")),
  ),
  "vm.restore": putBody("The VM could not be restored", (vmm, body) =>
    vmm.restore(restoreConfig(body)),
  ),
  "vm.shutdown": put("The VM could not shutdown", (vmm) => vmm.shutdown()),
  "vm.delete": put("The VM could not be deleted", (vmm) => vmm.delete()),
  "vm.reboot": put("The VM could not reboot", (vmm) => vmm.reboot()),
  "vm.power-button": put("Error triggering power button", (vmm) => vmm.nudge()),
  "vm.nmi": put("Error triggering NMI", (vmm) => vmm.nudge()),
};

/**
 * Handles one request, with the requested faults. `onVmmShutdown` runs once the response to
 * vmm.shutdown is sent.
 */
export async function handleRequest(
  request: FakeRequest,
  vmm: Vmm,
  faults: Faults,
  onVmmShutdown: () => void,
): Promise<FakeAnswer> {
  if (faults.take("busy")) return { kind: "busy" };
  const name = request.path.startsWith(PREFIX) ? request.path.slice(PREFIX.length) : "";
  const call = Object.hasOwn(CALLS, name) ? CALLS[name] : undefined;
  if (call === undefined) return failed(new FakeApiError(404, ["Not Found"]));
  await faultsBefore(name, faults);
  const response = await answer(request, call, vmm);
  if (faults.take("hang", (fault) => fault.call === name && fault.when === "after"))
    await forever();
  if (faults.take("lose-response", (fault) => fault.call === name)) return { kind: "close" };
  if (faults.take("die", (fault) => fault.call === name && fault.when === "answered"))
    return { kind: "response", response, afterwards: () => process.kill(process.pid, "SIGKILL") };
  return name === "vmm.shutdown" && response.status === 200
    ? { kind: "response", response, afterwards: onVmmShutdown }
    : { kind: "response", response };
}

async function faultsBefore(name: string, faults: Faults): Promise<void> {
  // `slow` delays a snapshot in its middle (snapshot.ts).
  const slow =
    name === "vm.snapshot" ? undefined : faults.take("slow", (fault) => fault.call === name);
  if (slow !== undefined) await new Promise((resolve) => setTimeout(resolve, slow.ms));
  if (faults.take("die", (fault) => fault.call === name && fault.when === "before"))
    process.kill(process.pid, "SIGKILL");
  if (faults.take("hang", (fault) => fault.call === name && fault.when === "before"))
    await forever();
}

async function answer({ method, body }: FakeRequest, call: Call, vmm: Vmm): Promise<Response> {
  if (method === "PATCH") return { status: 400, body: "" };
  try {
    if (method !== call.method) throw badRequest();
    if (method === "PUT" && call.takesBody !== (body !== undefined)) throw badRequest();
    const result = await call.run(vmm, call.takesBody ? parseBody(body) : {});
    if (result === undefined) return { status: 204, body: "" };
    return { status: 200, body: result === EMPTY_200 ? "" : JSON.stringify(result) };
  } catch (error) {
    if (error instanceof VmError)
      return failed(
        new FakeApiError(error.status, ["Error from API", call.failure, ...error.chain]),
      ).response;
    if (error instanceof FakeApiError) return failed(error).response;
    throw error;
  }
}

function failed(error: FakeApiError): { kind: "response"; response: Response } {
  return {
    kind: "response",
    response: { status: error.status, body: JSON.stringify(error.chain) },
  };
}

const badRequest = () => new FakeApiError(400, ["Bad Request"]);

function parseBody(body: Buffer | undefined): Record<string, unknown> {
  const given = body?.toString("utf8") ?? "";
  try {
    return JSON.parse(given) as Record<string, unknown>;
  } catch {
    throw new FakeApiError(400, [
      "Failed to deserialize JSON",
      `EOF while parsing a value at line 1 column ${given.length}`,
    ]);
  }
}

function restoreConfig(body: Record<string, unknown>): RestoreConfig {
  const mode = body["memory_restore_mode"] ?? "Copy";
  if (mode !== "Copy" && mode !== "OnDemand")
    throw fieldError(`unknown variant ${JSON.stringify(mode)}, expected \`Copy\` or \`OnDemand\``);
  return { source_url: text(body, "source_url"), resume: body["resume"] === true };
}

function text(body: Record<string, unknown>, field: string): string {
  const value = body[field];
  if (typeof value !== "string") throw fieldError(`missing field \`${field}\``);
  return value;
}

function fieldError(message: string): FakeApiError {
  return new FakeApiError(400, ["Failed to deserialize JSON", `${message} at line 1 column 1`]);
}

/** Never resolves: the call hangs until the process is killed. */
function forever(): Promise<never> {
  return new Promise<never>(() => {});
}
