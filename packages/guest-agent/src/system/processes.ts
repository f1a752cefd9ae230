/**
 * /processes, /execute/processes and the calls that end a process. An id is that of a background
 * execution, or a process number of the system.
 */
import type { BackgroundExecutions } from "../execution/background.ts";
import type { GuestAgentConfig } from "../config.ts";
import { AgentError, missingParameter } from "../errors.ts";
import type { Route } from "../http/router.ts";
import { listProcesses } from "./proc.ts";
import { killProcess, userProcesses } from "./user-cgroup.ts";

export function processRoutes(config: GuestAgentConfig, background: BackgroundExecutions): Route[] {
  const end = (id: string | null | undefined) => endProcess(config, background, id);
  return [
    {
      method: "GET",
      path: "/execute/processes",
      handle: () => counted(background.list().map((execution) => execution.view())),
    },
    { method: "GET", path: "/processes", handle: () => counted(systemProcesses(background)) },
    { method: "POST", path: "/execute/kill/:id", handle: ({ params }) => end(params["id"]) },
    {
      method: "DELETE",
      path: "/execute/kill",
      handle: ({ query }) => end(query.get("process_id")),
    },
    { method: "POST", path: "/processes/:id/kill", handle: ({ params }) => end(params["id"]) },
  ];
}

const counted = (processes: unknown[]) => ({
  processes,
  count: processes.length,
  timestamp: new Date().toISOString(),
});

/**
 * All processes of the machine; those of background executions carry the details of the execution
 * too.
 */
function systemProcesses(background: BackgroundExecutions): unknown[] {
  const known = new Map(
    background.list().map((execution) => [execution.view()["pid"], execution.view()]),
  );
  return listProcesses().map((facts) => {
    const {
      stdout: _stdout,
      stderr: _stderr,
      ...execution
    } = known.get(facts.pid) ?? { process_id: String(facts.pid), stdout: "", stderr: "" };
    return { ...execution, ...facts };
  });
}

function endProcess(
  config: GuestAgentConfig,
  background: BackgroundExecutions,
  id: string | null | undefined,
) {
  if (id === null || id === undefined || id === "") throw missingParameter("process_id");
  if (background.find(id) !== undefined || !/^\d{1,10}$/.test(id)) {
    const execution = background.kill(id);
    const { process_id, execution_id, status } = execution.view();
    return {
      success: true,
      process_id,
      execution_id,
      status,
      message: execution.isRunning ? "The process is being ended" : "The process has ended",
    };
  }
  // Users may not end the agent's own processes.
  const isUsers = userProcesses(config.userCgroup).includes(Number(id));
  if (!isUsers || !killProcess(Number(id), "SIGKILL"))
    throw new AgentError(404, "PROCESS_NOT_FOUND", `there is no process ${id}`);
  return { success: true, process_id: id, status: "killed", message: "The process was ended" };
}
