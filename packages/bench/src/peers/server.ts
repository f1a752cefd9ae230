/** `server.ts PEER PORT DATABASE_URL`: one job per request, through Fastify. */
import Fastify from "fastify";
import { PEERS } from "./jobs.ts";

const [name = "", port = "", databaseUrl = ""] = process.argv.slice(2);
const open = PEERS[name];
if (open === undefined)
  throw new Error(`there is no "${name}"; there are ${Object.keys(PEERS).join(", ")}`);
const doJob = await open(databaseUrl);
const app = Fastify();
app.get("/health", () => ({ ok: true }));
app.post("/jobs", async () => {
  await doJob();
  return { status: "ended" };
});
await app.listen({ host: "127.0.0.1", port: Number(port) });
