/** Composition root of the guest agent: the process that serves the in-sandbox API and the host's control calls. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { configFrom } from "./config.ts";
import { Environment, environmentRoutes } from "./environment.ts";
import { executeRoutes } from "./execute.ts";
import { fileRoutes } from "./files.ts";
import { type Identity, identityRoutes } from "./identity.ts";
import { type Counters, infoRoutes } from "./info.ts";
import { LineProcess } from "./line-process.ts";
import { portsRoute } from "./ports.ts";
import { PythonKernel } from "./python-kernel.ts";
import { createAgentServer, type Route } from "./server.ts";

const config = configFrom(process.env);
mkdirSync(config.workdir, { recursive: true });
const environment = new Environment(config.envFile);
const agentKey = config.keyFile !== undefined && existsSync(config.keyFile) ? readFileSync(config.keyFile, "utf8") : undefined;
const identity: Identity = { agentKey, sandboxId: undefined };
const counters: Counters = { requests: 0, errors: 0 };
const helper = new LineProcess("python3", [`${config.helperDir}/guest_helper.py`]);
const kernel = new PythonKernel({
  helperDir: config.helperDir,
  userCgroup: config.userCgroup,
  maxOutputBytes: config.maxOutputBytes,
  env: () => environment.forProcess({}),
});

const routes: Route[] = [
  ...executeRoutes({ config, environment, kernel }),
  ...fileRoutes(config),
  portsRoute(config.port),
  ...environmentRoutes(environment),
  ...identityRoutes({ config, environment, kernel, identity, helper }),
  ...infoRoutes(config, identity, kernel, counters, () => routes.map((route) => route.path).filter((path) => !path.startsWith("/_torpor"))),
];

const server = createAgentServer(routes, identity, {
  maxBodyBytes: config.maxBodyBytes,
  count: (isError) => {
    counters.requests += 1;
    if (isError) counters.errors += 1;
  },
});
server.listen(config.port, "0.0.0.0");
process.once("SIGTERM", () => {
  helper.kill();
  server.close(() => process.exit(0));
});
