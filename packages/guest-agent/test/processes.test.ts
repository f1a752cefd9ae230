/** What a call leaves running, what a time limit ends, and where a program runs. */
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import {
  type AgentProcess,
  type ReceivedFrame,
  frames,
  freePort,
  ofType,
  send,
  startAgent,
  textOf,
  until,
} from "./harness.ts";

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());

type Body = Record<string, unknown>;
/** Far longer than a call needs that does not wait for its remaining processes. */
const LIMIT = { timeout: 30 };
const content = async (file: string) =>
  (await readFile(agent.workspace(file), "utf8").catch(() => "")).trim();
const processes = async () =>
  (await agent.call("GET", "/execute/processes")).body["processes"] as Body[];
const entry = async (started: Body) =>
  (await processes()).find((one) => one["process_id"] === started["process_id"]);
const stream = async (path: string, message: Body) => {
  const socket = await agent.connect(path);
  send(socket, message);
  return socket;
};

describe("what a program leaves running", () => {
  /** Writes continuously until the .end file exists; `file` records the progress. */
  const job = (file: string) =>
    `i=0; while [ ! -e ${file}.end ]; do
       i=$((i+1)); echo line $i; echo line $i >&2; echo $i > ${file}; sleep 0.01
     done; echo ended > ${file}`;
  /** The job continues: a write to a closed pipe would have ended it. */
  const livedOn = async (file: string) => {
    const before = Number(await content(file));
    await until("it goes on", async () => Number(await content(file)) > before + 10);
    await writeFile(agent.workspace(`${file}.end`), "");
    await until("it has run to its end", async () => (await content(file)) === "ended");
  };
  const inShell = (line: string) => ["/commands/run", { command: line }] as const;
  const code = (language: string, text: string) => ["/execute", { code: text, language }] as const;

  test.each([
    ["&", (file: string) => inShell(`(${job(file)}) & echo done`)],
    ["nohup", (file: string) => inShell(`nohup sh -c '${job(file)}' & echo done`)],
    ["setsid", (file: string) => inShell(`setsid sh -c '${job(file)}' & echo done`)],
    ["a subshell that ends", (file: string) => inShell(`( (${job(file)}) & ); echo done`)],
    ["bash", (file: string) => code("bash", `{ ${job(file)}; } & echo done`)],
    [
      "JavaScript",
      (file: string) =>
        code(
          "js",
          `const { spawn } = require("child_process");
           spawn("sh", ["-c", ${JSON.stringify(job(file))}], { stdio: "inherit", detached: true }).unref();
           console.log("done");`,
        ),
    ],
  ])(
    "%s: the call returns with what the program itself wrote, and its child lives on",
    async (name, callOf) => {
      const file = `progress-${name.replaceAll(/\W/g, "_")}`;
      const [path, body] = callOf(file);
      const answer = (await agent.call("POST", path, { ...body, ...LIMIT })).body;
      expect(answer).toMatchObject({ exit_code: 0, success: true, timed_out: false });
      expect(answer["stdout"]).toMatch(/^(line \d+\n)*done\n/);
      await livedOn(file);
    },
  );

  test("a server that logs each request answers many", async () => {
    const port = await freePort();
    await agent.shell(
      `python3 -u -m http.server ${port} --bind 127.0.0.1 & echo $! > server`,
      LIMIT,
    );
    try {
      const isUp = async () =>
        (await fetch(`http://127.0.0.1:${port}/server`).catch(() => undefined))?.ok === true;
      await until("it answers", isUp);
      for (let round = 0; round < 20; round += 1) expect(await isUp()).toBe(true);
    } finally {
      await agent.shell("kill $(cat server)");
    }
  });

  test("of a stream: its result comes, and the child lives on", async () => {
    const socket = await stream("/commands/stream", {
      command: `(${job("streamed")}) & echo done`,
      ...LIMIT,
    });
    const all = await frames(socket, ofType("complete"));
    expect(textOf(all, "stdout")).toContain("done\n");
    expect(all.at(-1)).toMatchObject({ success: true });
    await livedOn("streamed");
  });

  test("of a background execution: it is completed, and the child lives on", async () => {
    const { body } = await agent.call("POST", "/commands/background", {
      command: `(${job("background")}) & echo done`,
    });
    await until("completed", async () => (await entry(body))?.["status"] === "completed");
    expect((await entry(body))?.["stdout"]).toContain("done\n");
    await livedOn("background");
  });

  /**
   * More than the sender buffers (lockstep.ts), less than the buffer and the pipe hold: `seq` ends.
   */
  const NUMBERS = "seq 1 102000";
  const numbersEnded = () =>
    until("it has ended, and the agent has seen it", async () => {
      const children = String(
        (await agent.shell(`ps -o args= --ppid ${agent.process.pid}`))["stdout"],
      );
      return !children.includes(NUMBERS) && !children.includes("defunct");
    });

  test("R2: a slow reader gets all that the program wrote, however much its child adds", async () => {
    const chatter = "(while sleep 0.01; do echo chatter; [ -e quiet ] && exit; done) >&2 &";
    const socket = await stream("/commands/stream", {
      command: `${chatter} ${NUMBERS}; echo END`,
      ...LIMIT,
    });
    socket.pause();
    await numbersEnded();
    socket.resume();
    const text = textOf(await frames(socket, ofType("complete"), 60_000), "stdout");
    await writeFile(agent.workspace("quiet"), "");
    expect(text.length).toBe(602_895 + 4);
    expect(text.endsWith("102000\nEND\n")).toBe(true);
  });

  test("R3: a client that leaves after the program's end ends nothing", async () => {
    const socket = await stream("/commands/stream", {
      command: `(${job("left")}) >&2 & ${NUMBERS}`,
      ...LIMIT,
    });
    socket.pause();
    await until("the child runs", async () => Number(await content("left")) > 0);
    await numbersEnded();
    socket.terminate();
    await livedOn("left");
  });

  test("what many of them write is dropped, not kept", async () => {
    const before = await agent.rssBytes();
    const eachBytes = 20_000_000;
    const all = Array.from({ length: 40 }, (_, at) =>
      agent.shell(`(head -c ${eachBytes} /dev/zero; echo > wrote-${at}) & true`, LIMIT),
    );
    for (const body of await Promise.all(all))
      expect(body).toMatchObject({ exit_code: 0, timed_out: false });
    await until(
      "all have written",
      async () => String((await agent.shell("ls wrote-* | wc -l"))["stdout"]).trim() === "40",
    );
    // Data that was read stays in memory until it is collected.
    expect((await agent.rssBytes()) - before).toBeLessThan((all.length * eachBytes) / 2);
  });

  test.each([
    "exec > >(tee log) 2>&1; echo first; echo last",
    "echo first; echo last > >(sleep 0.1; cat)",
    "(sleep 0.1; echo last) & echo first",
  ])("what ends soon after the program is waited for: %s", async (command) => {
    const answer = await agent.call("POST", "/commands/run", {
      command: "bash",
      args: ["-c", command],
    });
    expect(answer.body).toMatchObject({ success: true, stdout: "first\nlast\n" });
  });

  test.each(["timeout 300 sleep 297", "timeout 300 sleep 297 | cat", "set -m; sleep 297 & wait"])(
    "R3: at a time limit, groups of its own end with the program: %s",
    async (line) => {
      const command = { command: "bash", args: ["-c", `${line}; echo over`], timeout: 1 };
      expect((await agent.call("POST", "/commands/run", command)).body["exit_code"]).toBe(124);
      const left = "ps ax -o args | grep '[s]leep 297' | wc -l";
      await until("none is left", async () => (await agent.shell(left))["stdout"] === "0\n");
    },
  );

  test("standard output and error can be opened by their names, input is at its end", async () => {
    const command = "echo out > /dev/stdout; echo error | tee /dev/stderr; cat /dev/stdin; cat";
    expect(await agent.shell(command)).toMatchObject({
      success: true,
      stdout: "out\nerror\n",
      stderr: "error\n",
    });
  });

  test("standard error can be opened by its name after the agent was started anew", async () => {
    await using other = await startAgent({}, async (root) => {
      const pipes = join(root, "run/torpor/pipes");
      await mkdir(pipes);
      for (let left = 1; left <= 64; left += 1) await writeFile(join(pipes, String(left)), "");
    });
    expect(await other.shell("echo error > /dev/stderr")).toMatchObject({ stderr: "error\n" });
  });

  test("many at once have pipes of their own, also when what was made is used up", async () => {
    const answers = Array.from({ length: 100 }, (_, at) => agent.shell(`echo ${at} > /dev/stdout`));
    expect((await Promise.all(answers)).map(({ stdout }) => stdout)).toEqual(
      Array.from({ length: 100 }, (_, at) => `${at}\n`),
    );
  });

  test("at a time limit, one that has left the session lives on", async () => {
    await agent.shell("setsid sleep 296 & sleep 60", { timeout: 1 });
    expect((await agent.shell("pkill -f '[s]leep 296'"))["exit_code"]).toBe(0);
  });

  test("at a time limit it ends with the program", async () => {
    const body = await agent.shell(`(while sleep 0.01; do echo x > limited; done) & sleep 60`, {
      timeout: 0.5,
    });
    expect(body).toMatchObject({ exit_code: 124, timed_out: true });
    await rm(agent.workspace("limited"), { force: true });
    await agent.shell("sleep 0.3");
    expect(await content("limited")).toBe("");
  });

  test("a time limit of a later call leaves it alone", async () => {
    await agent.shell(`(${job("earlier")}) & true`, LIMIT);
    expect(await agent.shell("sleep 60", { timeout: 0.2 })).toMatchObject({ exit_code: 124 });
    await livedOn("earlier");
  });
});

describe("time limits", () => {
  const background: [string, Body, number][] = [
    ["/commands/background", { command: "sleep 60" }, 120],
    ["/execute/background", { code: "sleep 60", language: "bash" }, 300],
    [
      "/execute/async",
      { code: "sleep 60", language: "bash", callback_url: "http://127.0.0.1:1" },
      1800,
    ],
  ];
  const started: Body[] = [];
  afterEach(async () => {
    for (const body of started.splice(0))
      await agent.call("POST", `/execute/kill/${String(body["process_id"])}`);
  });
  const start = async (path: string, body: Body, headers = {}) => {
    const answer = (await agent.call("POST", path, body, headers)).body;
    started.push(answer);
    return { answer: answer["timeout"], list: (await entry(answer))?.["timeout"] };
  };

  test.each(background)(
    "%s: none by default; the one in force is told",
    async (path, body, sdkDefault) => {
      expect(await start(path, body)).toEqual({ answer: 0, list: 0 });
      expect(await start(path, { ...body, timeout: 0 })).toEqual({ answer: 0, list: 0 });
      expect(await start(path, { ...body, timeout: 45.5 })).toEqual({ answer: 45.5, list: 45.5 });
      expect(await start(path, { ...body, timeout: sdkDefault })).toEqual({
        answer: sdkDefault,
        list: sdkDefault,
      });
    },
  );

  test.each(background)(
    "%s: what an SDK sends for a caller that named none is none",
    async (path, body, sdkDefault) => {
      for (const agentName of ["axios/1.13.2", "hopx-python/0.1.0"]) {
        const headers = { "user-agent": agentName };
        expect(await start(path, { ...body, timeout: sdkDefault }, headers)).toEqual({
          answer: 0,
          list: 0,
        });
        expect(await start(path, { ...body, timeout: sdkDefault + 1 }, headers)).toEqual({
          answer: sdkDefault + 1,
          list: sdkDefault + 1,
        });
      }
    },
  );

  test("0 is none in the foreground too, and the answer tells the limit", async () => {
    expect(await agent.shell("echo a", { timeout: 0 })).toMatchObject({
      stdout: "a\n",
      timeout: 0,
      timed_out: false,
    });
    expect(await agent.shell("echo a", { timeout: 7 })).toMatchObject({ timeout: 7 });
    expect(await agent.shell("echo a")).toMatchObject({ timeout: 120 });
    expect(await agent.shell("echo a", { timeout: 2_000_000 })).toMatchObject({
      stdout: "a\n",
      timeout: 2_000_000,
    });
    const { body } = await agent.call("POST", "/execute", {
      code: "echo a",
      language: "bash",
      timeout: 0,
    });
    expect(body).toMatchObject({ stdout: "a\n", timeout: 0 });
  });

  test("0 is none for a stream", async () => {
    const all = await frames(
      await stream("/commands/stream", { command: "sleep 0.1; echo a", timeout: 0 }),
      ofType("complete"),
    );
    expect(textOf(all, "stdout")).toBe("a\n");
    expect(all.find(ofType("result"))).toMatchObject({ exit_code: 0, timeout: 0 });
  });

  test.each([
    "/commands/run",
    "/commands/background",
    "/execute",
    "/execute/background",
    "/execute/ipython",
  ])("%s: one that no timer can count is refused, not cut", async (path) => {
    for (const timeout of [2_000_001, 1e300]) {
      const { status, body } = await agent.call("POST", path, {
        command: "true",
        code: "1",
        timeout,
      });
      expect({ status, message: body["message"] }).toEqual({
        status: 400,
        message: expect.stringMatching(/"timeout".*2000000/),
      });
    }
    for (const timeout of [-1, "5", true, [], {}])
      expect(
        (await agent.call("POST", path, { command: "true", code: "1", timeout })).body["message"],
      ).toMatch(/"timeout"/);
  });

  test("of a stream too", async () => {
    const all = await frames(
      await stream("/commands/stream", { command: "true", timeout: 2_000_001 }),
      ofType("complete"),
    );
    expect(all[0]).toMatchObject({
      type: "error",
      code: "INVALID_REQUEST",
      error: expect.stringMatching(/"timeout".*2000000/),
    });
  });
});

describe("the working directory", () => {
  const workspace = () => agent.workspace();
  beforeEach(async () => {
    await rm(workspace(), { recursive: true, force: true });
    await rm(join(agent.root, "elsewhere"), { recursive: true, force: true });
  });
  afterAll(async () => {
    await rm(workspace(), { recursive: true, force: true });
    await mkdir(workspace());
  });

  /** Contents of the default directory's path, and the directory where a program then runs. */
  const states: [string, () => Promise<unknown>, () => string][] = [
    ["missing", async () => {}, () => "/"],
    ["a file", () => writeFile(workspace(), "x"), () => "/"],
    ["a link to nothing", () => symlink(join(agent.root, "nowhere"), workspace()), () => "/"],
    ["a link to itself", () => symlink(workspace(), workspace()), () => "/"],
    ["there", () => mkdir(workspace()), () => workspace()],
    [
      "a link to a directory",
      async () => {
        await mkdir(join(agent.root, "elsewhere"));
        await symlink(join(agent.root, "elsewhere"), workspace());
      },
      () => join(agent.root, "elsewhere"),
    ],
  ];

  test.each(states)("%s: every call without a wish runs", async (_name, make, where) => {
    await make();
    const expected = `${where()}\n`;
    expect(await agent.shell("pwd -P")).toMatchObject({ stdout: expected, exit_code: 0 });
    // The SDKs name the default directory with every call.
    expect(await agent.shell("pwd -P", { workdir: workspace() })).toMatchObject({
      stdout: expected,
    });
    expect(await agent.shell("pwd -P", { working_dir: `${workspace()}/` })).toMatchObject({
      stdout: expected,
    });
    expect(await agent.shell("pwd -P", { workdir: null })).toMatchObject({ stdout: expected });
    const { body } = await agent.call("POST", "/execute", { code: "pwd -P", language: "bash" });
    expect(body).toMatchObject({ stdout: expected });
    const all = await frames(
      await stream("/commands/stream", { command: "pwd -P" }),
      ofType("complete"),
    );
    expect(textOf(all, "stdout")).toBe(expected);
    const { body: started } = await agent.call("POST", "/commands/background", {
      command: "pwd -P",
    });
    await until("it has ended", async () => (await entry(started))?.["status"] === "completed");
    expect((await entry(started))?.["stdout"]).toBe(expected);
  });

  test.each(states)("%s: a terminal opens", async (_name, make, where) => {
    await make();
    const socket = await agent.connect("/terminal");
    let text = "";
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as ReceivedFrame;
      if (frame["type"] === "output") text += String(frame["data"]);
    });
    send(socket, { type: "input", data: "echo in:$(pwd -P):\n" });
    await until("its directory", () => text.includes(`in:${where()}:`));
    socket.close();
  });

  test.each(states)("%s: an agent that is started anew starts", async (_name, make) => {
    await using other = await startAgent({}, async (root) => {
      await rm(join(root, "workspace"), { recursive: true });
      await make();
      await rename(workspace(), join(root, "workspace")).catch(() => {});
    });
    expect(await other.shell("echo up")).toMatchObject({ stdout: "up\n" });
  });

  test("one that is asked for must be a directory", async () => {
    await mkdir(workspace());
    await writeFile(agent.workspace("file"), "");
    await symlink("nothing", agent.workspace("broken"));
    for (const name of ["workdir", "working_dir"]) {
      for (const path of [
        agent.workspace("none"),
        agent.workspace("file"),
        agent.workspace("broken"),
        agent.workspace("file/x"),
        "none",
      ]) {
        const { status, body } = await agent.call("POST", "/commands/run", {
          command: "pwd",
          [name]: path,
        });
        expect({ status, code: body["code"] }).toEqual({
          status: 400,
          code: "DIRECTORY_NOT_FOUND",
        });
        expect(body["message"]).toContain(`"${name}"`);
      }
    }
  });

  test("one that is asked for may be a link, and relative to the default one", async () => {
    await mkdir(agent.workspace("real"), { recursive: true });
    await symlink("real", agent.workspace("link"));
    const expected = { stdout: `${agent.workspace("real")}\n` };
    for (const workdir of [
      agent.workspace("real"),
      agent.workspace("link"),
      "real",
      "link",
      "./link/../real",
    ])
      expect(await agent.shell("pwd -P", { workdir })).toMatchObject(expected);
    const other = await mkdtemp(join(agent.root, "other-"));
    expect(await agent.shell("pwd -P", { workdir: other })).toMatchObject({ stdout: `${other}\n` });
  });

  test("made again, it is used again", async () => {
    expect(await agent.shell("pwd -P")).toMatchObject({ stdout: "/\n" });
    await mkdir(workspace());
    expect(await agent.shell("pwd -P")).toMatchObject({ stdout: `${workspace()}\n` });
    expect(
      await agent.shell(`rm -rf ${workspace()}; mkdir ${workspace()}; touch ${workspace()}/new`),
    ).toMatchObject({ exit_code: 0 });
    expect(await agent.shell("ls")).toMatchObject({ stdout: "new\n" });
  });
});
