/**
 * Composition root of the guest agent: the process that serves the in-sandbox API and the host's
 * control calls.
 */
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { GuestActivity } from "./activity.ts";
import { Budget } from "./budget.ts";
import { configFrom } from "./config.ts";
import { Environment } from "./environment.ts";
import { environmentRoutes } from "./environment-routes.ts";
import { BackgroundExecutions } from "./execution/background.ts";
import { executeRoutes } from "./execution/execute-routes.ts";
import { Gate } from "./execution/gate.ts";
import { IdempotencyMemory } from "./execution/idempotency.ts";
import { PythonKernel } from "./execution/python-kernel.ts";
import { Runner } from "./execution/runner.ts";
import { fileRoutes } from "./files/file-routes.ts";
import { Connections } from "./http/connections.ts";
import { type Match, Router } from "./http/router.ts";
import { createAgentServer } from "./http/server.ts";
import { LineProcess, RestartingHelper } from "./line-process.ts";
import { portsRoute } from "./ports.ts";
import { executeStreamRoutes } from "./streams/execute-stream.ts";
import { terminalRoute } from "./streams/terminal.ts";
import { tunnelRoute } from "./streams/tunnel.ts";
import { acceptUpgrades } from "./streams/upgrades.ts";
import { watchRoute } from "./streams/watch.ts";
import { cacheRoutes } from "./system/cache.ts";
import { SystemCounters } from "./system/counters.ts";
import { type GuestIdentity, identityRoutes } from "./system/identity.ts";
import { infoRoutes } from "./system/info.ts";
import { metricsRoutes } from "./system/metrics.ts";
import { processRoutes } from "./system/processes.ts";
import { keepVsockRelay } from "./vsock-relay.ts";

const config = configFrom(process.env);
try {
  mkdirSync(config.workdir, { recursive: true });
} catch {
  // A user's file has that name, which is allowed.
}
// Removes unfinished uploads of an earlier agent.
rmSync(config.uploadDir, { recursive: true, force: true });

const isSuccessor = existsSync(config.keyFile);
const identity: GuestIdentity = {
  agentKey: isSuccessor ? readFileSync(config.keyFile, "utf8") : undefined,
  sandboxId: undefined,
};
const environment = new Environment(config.envFile);
const activity = new GuestActivity();
const connections = new Connections();
const counters = new SystemCounters();
const idempotency = new IdempotencyMemory(config.limits.idempotency);
const helper = new RestartingHelper(
  () => new LineProcess(config.python, [`${config.helperDir}/guest_helper.py`]),
);
const kernel = new PythonKernel({ ...config, env: () => environment.forProcess({}), isSuccessor });
const runner = new Runner({ config, environment, kernel, activity });
const background = new BackgroundExecutions(runner, config.limits);

const webSockets = [
  ...executeStreamRoutes({ config, environment, runner }),
  terminalRoute(config, environment),
  watchRoute(config),
];
const router = new Router([
  ...executeRoutes({ config, environment, kernel, runner, background, idempotency }),
  ...processRoutes(config, background),
  ...fileRoutes(config),
  ...environmentRoutes(environment),
  ...cacheRoutes(idempotency),
  ...metricsRoutes({ config, activity, counters, runner, background, idempotency }),
  ...identityRoutes({ config, environment, kernel, identity, helper, connections, activity }),
  portsRoute(config.port),
  ...infoRoutes({ config, identity, kernel, activity, counters, paths: servedPaths }),
]);

const server = createAgentServer({
  router,
  keys: identity,
  bodyLimits: { maxBytes: config.limits.bodyBytes, budget: new Budget(config.limits.bodiesBytes) },
  connections,
  begin,
});
acceptUpgrades(server, {
  keys: identity,
  connections,
  activity,
  gate: new Gate(config.limits.streams, "streams are open"),
  webSockets,
  raw: [tunnelRoute],
});
server.listen(config.port, "0.0.0.0");
if (config.hasVsock) keepVsockRelay(config.port);
process.once("SIGTERM", () => {
  helper.current.kill();
  server.close(() => process.exit(0));
});

function servedPaths(): string[] {
  return [...router.routes, ...webSockets]
    .map(({ path }) => path)
    .filter((path) => !path.startsWith("/_torpor"));
}

/** Calls of the host and health checks are no activity of the sandbox. */
function begin({ route }: Match): (outcome: { isError: boolean }) => void {
  const startedAtMs = performance.now();
  const end = route.access === undefined ? activity.request() : () => {};
  return ({ isError }) => {
    end();
    counters.add(`${route.method} ${route.path}`, performance.now() - startedAtMs, isError);
  };
}
