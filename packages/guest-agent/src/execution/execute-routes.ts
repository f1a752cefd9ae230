/**
 * /execute*, /commands/*, /jupyter/sessions: a program that fails is a normal response (200,
 * success false), not an error of the API.
 */
import type { GuestAgentConfig } from "../config.ts";
import type { Environment } from "../environment.ts";
import { type Body, optionalString } from "../fields.ts";
import type { RoutedRequest, Route } from "../http/router.ts";
import type { BackgroundExecutions, Finished } from "./background.ts";
import { callbackOf, sendCallback } from "./callback.ts";
import type { IdempotencyMemory } from "./idempotency.ts";
import type { Display } from "./output.ts";
import type { PythonKernel } from "./python-kernel.ts";
import { codeJob, commandJob, type Job, type JobDefaults, timeoutOf } from "./request.ts";
import type { CollectedRun, Runner } from "./runner.ts";

export interface ExecuteDeps {
  config: GuestAgentConfig;
  environment: Environment;
  kernel: PythonKernel;
  runner: Runner;
  background: BackgroundExecutions;
  idempotency: IdempotencyMemory;
}

const DEFAULTS = {
  execute: { timeoutS: 120 },
  ipython: { timeoutS: 60, language: "python" },
  command: { timeoutS: 120 },
  background: { timeoutS: undefined, isDetached: true },
} satisfies Record<string, JobDefaults>;

/**
 * Background work has no limit unless the caller requests one. The SDKs send these values with
 * every call whose caller named no limit, so from the SDKs these values count as none.
 */
const SDK_TIMEOUT_S = { command: 120, execute: 300, async: 1800 };
const SDK = /^(axios|hopx)/;

export function executeRoutes(deps: ExecuteDeps): Route[] {
  const post = (path: string, handle: (request: RoutedRequest) => unknown): Route => ({
    method: "POST",
    path,
    handle: deps.idempotency.once(path, handle),
  });
  return [
    post("/execute", (request) => execute(deps, request, DEFAULTS.execute)),
    post("/execute/rich", (request) => execute(deps, request, DEFAULTS.execute)),
    post("/execute/ipython", (request) => execute(deps, request, DEFAULTS.ipython)),
    post("/execute/background", (request) => executeInBackground(deps, request)),
    post("/execute/async", (request) => executeAsync(deps, request)),
    post("/commands/run", (request) => runCommand(deps, request)),
    post("/commands/background", (request) => commandInBackground(deps, request)),
    {
      method: "GET",
      path: "/jupyter/sessions",
      handle: () => ({ sessions: deps.kernel.sessions() }),
    },
  ];
}

async function execute(deps: ExecuteDeps, request: RoutedRequest, defaults: JobDefaults) {
  const job = codeJob(deps.config, deps.environment, request.body, defaults);
  const run = await deps.runner.collect(job, request.signal);
  return { ...resultOf(job, run), language: job.language, ...richFields(run.displays) };
}

async function runCommand(deps: ExecuteDeps, request: RoutedRequest) {
  const job = commandJob(deps.config, request.body, DEFAULTS.command);
  const run = await deps.runner.collect(job, request.signal);
  return {
    ...resultOf(job, run),
    command: request.body["command"],
    ...(run.pid === undefined ? {} : { pid: run.pid }),
  };
}

function executeInBackground(deps: ExecuteDeps, request: RoutedRequest) {
  const name = optionalString(request.body, "name");
  const body = withoutSdkTimeout(request, SDK_TIMEOUT_S.execute);
  const job = codeJob(deps.config, deps.environment, body, DEFAULTS.background);
  return { ...deps.background.start(job, name).view(), message: "Execution started" };
}

function commandInBackground(deps: ExecuteDeps, request: RoutedRequest) {
  const name = optionalString(request.body, "name");
  const body = withoutSdkTimeout(request, SDK_TIMEOUT_S.command);
  const job = commandJob(deps.config, body, DEFAULTS.background);
  return { ...deps.background.start(job, name).view(), message: "Command started" };
}

function executeAsync(deps: ExecuteDeps, request: RoutedRequest) {
  const callback = callbackOf(request.body);
  const body = withoutSdkTimeout(request, SDK_TIMEOUT_S.async);
  const job = codeJob(deps.config, deps.environment, body, DEFAULTS.background);
  const execution = deps.background.start(job, undefined, (finished) => {
    void sendCallback(callback, callbackPayload(execution.executionId, job, finished));
  });
  const { processId, executionId } = execution;
  const ids = { execution_id: executionId, process_id: processId };
  return {
    ...ids,
    status: "queued",
    timeout: timeoutOf(job),
    callback_url: callback.url,
    message: "Execution queued",
  };
}

function withoutSdkTimeout({ body, headers }: RoutedRequest, sdkTimeoutS: number): Body {
  const isNoWish = body["timeout"] === sdkTimeoutS && SDK.test(headers["user-agent"] ?? "");
  return isNoWish ? { ...body, timeout: undefined } : body;
}

function callbackPayload(executionId: string, job: Job, finished: Finished) {
  const status =
    finished.status === "completed" || finished.status === "timeout" ? finished.status : "failed";
  const error =
    finished.status === "completed"
      ? {}
      : {
          error:
            finished.status === "timeout"
              ? "the time limit was reached"
              : `the program was ${finished.status}`,
        };
  return { execution_id: executionId, status, ...resultOf(job, finished), ...error };
}

function resultOf(job: Job, run: Omit<CollectedRun, "displays">) {
  return {
    success: run.exitCode === 0,
    stdout: run.stdout,
    stderr: run.stderr,
    exit_code: run.exitCode,
    execution_time: run.durationMs / 1000,
    timed_out: run.timedOut,
    timeout: timeoutOf(job),
    timestamp: new Date().toISOString(),
  };
}

/**
 * The newest display of each kind in its own field, as the SDKs read them, and all displays in
 * their order.
 */
function richFields(displays: Display["data"][]): Record<string, unknown> {
  if (displays.length === 0) return {};
  const { text, ...others } = Object.assign({}, ...displays) as Display["data"];
  return { ...others, ...(text === undefined ? {} : { result: text }), rich_outputs: displays };
}
