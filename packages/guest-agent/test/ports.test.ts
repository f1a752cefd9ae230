import { expect, test } from "vitest";
import { listeningPorts } from "../src/ports.ts";

const HEAD =
  "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

test("listening ports of both families, each once, ascending, without the agent's own and without connections", () => {
  const tcp = `${HEAD}   0: 00000000:1E61 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 0100007F:1F91 0100007F:A000 01 00000000:00000000 00:00000000 00000000  1000        0 3 1\n`;
  const tcp6 = `${HEAD}   0: 00000000000000000000000000000000:0BB8 00000000000000000000000000000000:0000 0A 0 0 0 1000 0 4 1
   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0 0 0 1000 0 5 1\n`;
  expect(listeningPorts([tcp, tcp6], 7777)).toEqual({ ports: [3000, 8080], etag: "3000-8080" });
});

test("nothing that listens has a tag of its own, which differs from no tag", () => {
  expect(listeningPorts([HEAD, ""], 7777)).toEqual({ ports: [], etag: "none" });
});
