/**
 * Arguments and variables of a program, through every call that takes them: excess is refused by
 * name, and allowed values arrive.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type AgentProcess, frames, ofType, send, startAgent } from "./harness.ts";

const LARGEST = 128 * 1024 - 1;

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());
beforeEach(async () => void (await agent.call("DELETE", "/env")));

const tooMany = Object.fromEntries(["A", "B", "C"].map((name) => [name, "x".repeat(100_000)]));
const tooLong = { MINE: "x".repeat(LARGEST) };

describe("variables that no program could be started with", () => {
  const run = {
    command: "true",
    code: "true",
    language: "bash",
    callback_url: "http://127.0.0.1:9/",
  };
  const CASES: [string, string, (variables: unknown) => unknown, string][] = [
    ["PUT", "/env", (variables) => ({ env_vars: variables }), "env_vars"],
    ["PATCH", "/env", (variables) => ({ env_vars: variables }), "env_vars"],
    ...[
      "/execute",
      "/execute/rich",
      "/execute/ipython",
      "/execute/background",
      "/execute/async",
      "/commands/run",
      "/commands/background",
    ].map((path): [string, string, (variables: unknown) => unknown, string] => [
      "POST",
      path,
      (env) => ({ ...run, env }),
      "env",
    ]),
  ];
  test.each(CASES)(
    "%s %s names the field and what it may be",
    async (method, path, body, field) => {
      const refusal = async (variables: unknown) => {
        const answer = await agent.call(method, path, body(variables));
        return [answer.status, answer.body["code"], answer.body["message"]];
      };
      const refused = (message: string) => [
        400,
        "INVALID_REQUEST",
        expect.stringContaining(message),
      ];
      expect(await refusal(tooMany)).toEqual(refused(`"${field}" must be at most 262144 bytes`));
      expect(await refusal(tooLong)).toEqual(
        refused(`"${field}.MINE" must be at most 131071 bytes`),
      );
      expect(await refusal({ "A B": "x" })).toEqual(refused(`"${field}.A B" must have a name`));
      expect(await refusal({ A: "\ud800" })).toEqual(
        refused(`"${field}.A" must not hold half a surrogate pair`),
      );
      expect(await refusal({ A: "a\0b" })).toEqual(refused(`"${field}.A" must not hold a NUL`));
      expect((await agent.call("GET", "/env")).body).toMatchObject({ count: 0 });
    },
  );

  test.each(["/execute/stream", "/commands/stream"])("%s", async (path) => {
    const socket = await agent.connect(path);
    send(socket, { ...run, type: "execute", env: tooLong });
    expect((await frames(socket, ofType("complete"))).find(ofType("error"))).toMatchObject({
      code: "INVALID_REQUEST",
      error: expect.stringContaining('"env.MINE"'),
    });
  });

  test("what is merged counts together", async () => {
    const half = { A: "x".repeat(100_000), B: "x".repeat(100_000) };
    expect((await agent.call("PATCH", "/env", { env_vars: half })).status).toBe(200);
    const answer = await agent.call("PATCH", "/env", { env_vars: { C: "x".repeat(100_000) } });
    expect([answer.status, answer.body["message"]]).toEqual([
      400,
      expect.stringContaining('"env_vars" must be at most 262144 bytes'),
    ]);
    expect((await agent.call("GET", "/env")).body).toMatchObject({ count: 2 });
  });

  test("in the file, where a user may have written: left out", async () => {
    const file = join(agent.root, "var/lib/torpor/env.json");
    await agent.call("PUT", "/env", { env_vars: { GOOD: "1" } });
    const kept = JSON.parse(await readFile(file, "utf8")) as Record<string, string>;
    await writeFile(file, JSON.stringify({ ...kept, BAD: "a\0b", "": "x", ...tooLong, NUMBER: 1 }));
    await using again = await startAgent({ TORPOR_GUEST_ROOT: agent.root });
    expect((await again.call("GET", "/env")).body).toMatchObject({
      env_vars: { GOOD: "1" },
      count: 1,
    });
    expect(await again.shell("echo $GOOD", { workdir: "/" })).toMatchObject({
      stdout: "1\n",
      success: true,
    });
  });
});

describe("what a program is started with", () => {
  test("the most that is allowed of everything, together", async () => {
    const most = Object.fromEntries(["A", "B"].map((name) => [name, "x".repeat(LARGEST - 10)]));
    const names = Object.fromEntries(Array.from({ length: 20_000 }, (_, at) => [`N${at}`, ""]));
    expect((await agent.call("PUT", "/env", { env_vars: names })).status).toBe(200);
    const args = [
      "-c",
      'echo $# ${#A} ${#B} "${N7-unset}"',
      ...Array.from({ length: 80_000 }, () => "xx"),
      "x".repeat(LARGEST),
    ];
    const { status, body } = await agent.call("POST", "/commands/run", {
      command: "bash",
      args,
      env: most,
    });
    expect([status, body["stderr"], body["stdout"]]).toEqual([
      200,
      "",
      `80000 ${LARGEST - 10} ${LARGEST - 10} \n`,
    ]);
  });

  test.each<[string, unknown, RegExp]>([
    [
      "a shell line",
      { command: `: ${"x".repeat(LARGEST)}` },
      /"command" must be at most 131071 bytes/,
    ],
    [
      "one argument",
      { command: "echo", args: ["a", "x".repeat(LARGEST + 1)] },
      /"args\[1\]" must be at most 131071 bytes/,
    ],
    [
      "all of them",
      { command: "echo", args: Array.from({ length: 200_000 }, () => "") },
      /"args" must be at most 1048576 bytes together/,
    ],
  ])("too much for Linux in %s is refused", async (_, body, message) => {
    const answer = await agent.call("POST", "/commands/run", body);
    expect([answer.status, answer.body["message"]]).toEqual([400, expect.stringMatching(message)]);
  });

  test("what any login has is there, and may be changed", async () => {
    const look = "echo $USER $LOGNAME $SHELL $HOME $LANG $NODE_PATH";
    expect(await agent.shell(look)).toMatchObject({
      stdout: `root root /bin/bash ${join(agent.root, "root")} C.UTF-8 /usr/local/lib/node_modules\n`,
    });
    expect(await agent.shell(look, { env: { SHELL: "/bin/sh", NODE_PATH: "" } })).toMatchObject({
      stdout: expect.stringMatching(/^root root \/bin\/sh .* C.UTF-8 *\n/),
    });
  });
});
