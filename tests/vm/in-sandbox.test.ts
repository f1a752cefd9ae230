/**
 * The API inside the sandbox, on real virtual machines with the official SDK: what needs the real
 * kernel, the real cgroups and a real disk.
 */
import { Sandbox } from "@hopx-ai/sdk";
import { startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
let sandbox: Sandbox;
beforeAll(async () => {
  fleet = await startVmFleet();
  sandbox = await newSandbox();
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

const newSandbox = () =>
  Sandbox.create({ template: "code-interpreter", apiKey: fleet.apiKey, baseURL: fleet.url });
/** Calls the agent, and returns also what the SDK does not show. */
const post = async (path: string, body: object): Promise<Record<string, unknown>> =>
  (await fleet.guest(await access(), path, body)).body;
const access = async () => {
  const { sandboxId } = sandbox;
  const { public_host } = await fleet.client.sandboxes.get(sandboxId);
  const { auth_token } = await fleet.client.sandboxes.refreshToken(sandboxId);
  return { public_host, auth_token };
};
const python = async (code: string, target = sandbox) => (await target.runCode(code)).stdout.trim();
const shell = async (command: string, target = sandbox) =>
  (await target.commands.run(command)).stdout.trim();
const operation = (target: Sandbox, verb: "pause" | "resume" | "stop" | "start") =>
  fleet.client.sandboxes[verb](target.sandboxId);

describe("rich output", () => {
  test("a plot is a PNG, a DataFrame is data and HTML, and state persists", async () => {
    const plot = await sandbox.runCode(
      "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.show()",
      { timeout: 120 },
    );
    expect(Buffer.from(String(plot.png), "base64").subarray(1, 4).toString(), plot.stderr).toBe(
      "PNG",
    );
    expect(plot.richOutputs?.[0]?.type).toBe("image/png");
    const frame = (await post("/execute", {
      code: "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2], 'b': ['x', None]})\ndf",
      timeout: 120,
    })) as {
      dataframe: unknown;
      html: string;
      result: string;
    };
    expect(frame.dataframe).toMatchObject({
      columns: ["a", "b"],
      data: [
        [1, "x"],
        [2, null],
      ],
      shape: [2, 2],
      truncated: false,
    });
    expect(frame.html).toContain("<table");
    expect(frame.result).toContain("None");
    expect(await python("print(int(df.a.sum()))")).toBe("3");
  });

  test("JSON, Markdown, SVG and several displays come back as such", async () => {
    const code =
      "from IPython.display import *\ndisplay(JSON({'k': 1}), Markdown('**b**'), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'), HTML('<i>h</i>'))\n6 * 7";
    const body = await post("/execute/rich", { code });
    expect(body).toMatchObject({
      json: { k: 1 },
      markdown: "**b**",
      svg: expect.stringContaining("<svg"),
      html: "<i>h</i>",
      result: "42",
      success: true,
    });
    expect(body["rich_outputs"]).toHaveLength(5);
    expect((await sandbox.runCode("1 / 0")).stderr).toContain("ZeroDivisionError");
    expect(await sandbox.getJupyterSessions()).toMatchObject([{ execution_state: "idle" }]);
    const { system } = (await sandbox.getMetricsSnapshot()) as unknown as {
      system: Record<string, { total: number }>;
    };
    expect(system["disk"]?.total).toBeGreaterThan(1024 ** 3);
    expect(system["memory"]?.total).toBeLessThan(512 * 1024 ** 2);
  });
});

describe("variables given at create", () => {
  const LOOK =
    "import os, sys, time; print(time.strftime('%H', time.localtime(0)), '/workspace/lib' in sys.path, hash('text'))";
  const create = (envVars: Record<string, string>) =>
    Sandbox.create({
      template: "code-interpreter",
      apiKey: fleet.apiKey,
      baseURL: fleet.url,
      envVars,
    });

  test("are the same for the kernel, which was running before, and for programs; also after stop and start", async () => {
    const mine = await create({ TZ: "Asia/Tokyo", PYTHONPATH: "/workspace/lib" });
    const look = LOOK.replace("hash('text')", "os.environ['TZ']");
    for (let start = 0; start < 2; start += 1) {
      expect(await python(look, mine)).toBe("09 True Asia/Tokyo");
      expect(await shell(`python3 -c "${look}"`, mine)).toBe("09 True Asia/Tokyo");
      await operation(mine, "stop");
      await operation(mine, "start");
    }
    await mine.kill();
  });

  test(
    "what only a new interpreter looks at is looked at, and no state is told to be lost",
    { tags: ["exhaustive"] },
    async () => {
      const mine = await create({ PYTHONHASHSEED: "7" });
      const first = await mine.runCode(LOOK, { timeout: 200 });
      expect(first).toMatchObject({ success: true, stderr: "" });
      expect(first.stdout.trim()).toBe(await shell(`python3 -c "${LOOK}"`, mine));
      await mine.kill();
    },
  );
});

describe("streams", () => {
  test("10,000 lines of Python arrive whole and in order through the SDK", async () => {
    let text = "";
    let ended: unknown;
    for await (const message of sandbox.runCodeStream("for i in range(10000): print('line', i)")) {
      if (message.type === "stdout") text += message.data;
      if (message.type === "complete") ended = message;
    }
    expect(text).toBe(Array.from({ length: 10_000 }, (_, at) => `line ${at}\n`).join(""));
    expect(ended).toMatchObject({ success: true });
  });

  test("a terminal has a size, and takes another", async () => {
    const socket = await sandbox.terminal.connect();
    let text = "";
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as { type: string; data?: string };
      if (frame.type === "output") text += frame.data;
    });
    sandbox.terminal.resize(socket, 132, 43);
    sandbox.terminal.sendInput(socket, "stty size; cat /proc/self/cgroup\n");
    await until("its size", () => text.includes("43 132") && text.includes("0::/user"), 60_000);
    socket.close();
    await until(
      "nothing is left of it",
      async () => !(await shell("ps ax -o args")).includes("terminal.py"),
      60_000,
    );
  });
});

test("the agent answers on the guest's vsock too, and again after its relay was killed", async () => {
  const ask = "printf 'GET /health HTTP/1.0\\r\\n\\r\\n' | socat -t 5 - VSOCK-CONNECT:1:7777";
  await until("an answer by vsock", async () => (await shell(ask)).includes("healthy"));
  const relays = "pidof socat";
  const before = await shell(relays);
  await shell(`kill -9 ${before}`);
  await until("an answer by vsock again", async () => (await shell(ask)).includes("healthy"));
  expect(await shell(relays)).not.toBe(before);
});

describe("what users run may fail, the sandbox may not", () => {
  test("all memory taken: the program ends, the agent and the rest go on", async () => {
    const eaten = await sandbox.runCode("kept = 1\nx = bytearray(4 * 1024**3)", { timeout: 60 });
    expect(eaten.success).toBe(false);
    const body = await post("/commands/run", {
      command: "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'",
      timeout: 60,
    });
    expect(body).toMatchObject({ success: false, exit_code: 137 });
    expect((await sandbox.getHealth()).status).toBe("healthy");
    expect(await python("print(kept)")).toBe("1");
  });

  test("a fork bomb is bounded, and gone when its time is over", async () => {
    const neighbour = await newSandbox();
    await neighbour.runCode("kept = 7");
    const bomb = post("/commands/run", {
      command: "bomb() { bomb | bomb & sleep 1; }; bomb; sleep 60",
      timeout: 6,
    });
    await new Promise((resolve) => setTimeout(resolve, 3_000));
    expect((await sandbox.getHealth()).status).toBe("healthy");
    expect(await python("print(kept)", neighbour), "a neighbour does not notice").toBe("7");
    expect(
      Number(
        (
          await post("/commands/run", {
            command: "cat",
            args: ["/sys/fs/cgroup/user/pids.current"],
            timeout: 30,
          })
        )["stdout"],
      ),
    ).toBeLessThanOrEqual(2100);
    await bomb;
    await until(
      "it is gone",
      async () => Number(await shell("cat /sys/fs/cgroup/user/pids.current")) < 20,
      30_000,
    );
    expect(await python("print('again')")).toBe("again");
    await neighbour.kill();
  });

  test("S13: a full disk is a clear refusal; what is there stays, and room made is room", async () => {
    await sandbox.env.update({ KEPT: "1" });
    await shell(
      "fallocate -l $(($(df --output=avail -B1 /workspace | tail -1) - 8388608)) /workspace/full; dd if=/dev/zero of=/workspace/rest bs=64k",
    );
    const error = await sandbox.files.write("/workspace/more", "x".repeat(200_000)).then(
      () => undefined,
      (cause: Error) => cause,
    );
    expect(error?.message).toContain("disk is full");
    await expect(sandbox.env.update({ MORE: "x".repeat(100_000) })).rejects.toThrow("disk is full");
    expect(await sandbox.env.getAll()).toMatchObject({ KEPT: "1" });
    expect(await python("print('runs')")).toBe("runs");
    // A start with a full disk, and with a new Python kernel.
    await operation(sandbox, "stop");
    expect(await operation(sandbox, "start")).toMatchObject({ status: "running" });
    expect(await python("print('starts')")).toBe("starts");
    expect(await sandbox.env.getAll()).toMatchObject({ KEPT: "1" });
    await sandbox.files.remove("/workspace/full");
    await sandbox.files.remove("/workspace/rest");
    await sandbox.files.write("/workspace/more", "x".repeat(200_000));
  });

  test("kill -9 -1: the agent is back, and says that the state is lost", async () => {
    await sandbox.runCode("lost = 1");
    await post("/commands/run", { command: "kill -9 -1" }).catch(() => {});
    await until("the agent answers", async () => await sandbox.isHealthy(), 60_000);
    const next = await sandbox.runCode("print('lost' in globals())", { timeout: 100 });
    expect(next.stdout).toBe("False\n");
    expect(next.stderr).toContain("are lost");
    expect((await sandbox.runCode("print(1)")).stderr).toBe("");
  });

  test("S48, K2: the kernel and the agent's helper may be killed: the next cell runs in a new kernel, and a pause works", async () => {
    await sandbox.runCode("x = 1");
    await shell("pkill -9 -f guest_helpe[r]; pkill -9 -f kernel_mai[n]");
    const next = await sandbox.runCode("y = 2; print('new')", { timeout: 100 });
    expect(next).toMatchObject({ stdout: "new\n", success: true });
    expect(next.stderr).toContain("are lost");
    expect(await operation(sandbox, "pause")).toMatchObject({ status: "paused" });
    expect(await operation(sandbox, "resume")).toMatchObject({ status: "running" });
    expect(await python("print(y)")).toBe("2");
  });
});

test("S43, S55: what runs over a pause goes on, and the time asleep does not count", async () => {
  const code =
    "import time, os\nfor i in range(6):\n  time.sleep(1)\nopen('/workspace/ran', 'a').write('once ')";
  const key = { "idempotency-key": "over-a-pause" };
  const guest = await access();
  const run = () => fleet.guest(guest, "/execute", { code, timeout: 15 }, key);
  const cutOff = run().catch(() => undefined);
  await new Promise((resolve) => setTimeout(resolve, 1_500));
  await operation(sandbox, "pause");
  await cutOff;
  await new Promise((resolve) => setTimeout(resolve, 12_000));
  await operation(sandbox, "resume");
  const joined = await run();
  expect(joined.body).toMatchObject({ success: true, exit_code: 0 });
  expect(await shell("cat /workspace/ran")).toBe("once");
});

test(
  "64 parallel executions over 4 sandboxes all run, and each sees its own sandbox",
  { tags: ["exhaustive"] },
  async () => {
    const others = await Promise.all([newSandbox(), newSandbox(), newSandbox()]);
    const all = [sandbox, ...others];
    await Promise.all(all.map((one, at) => one.runCode(`mine = ${at}`)));
    const results = await Promise.all(
      Array.from({ length: 64 }, (_, at) => python(`print(mine, ${at})`, all[at % 4])),
    );
    expect(results).toEqual(Array.from({ length: 64 }, (_, at) => `${at % 4} ${at}`));
    await Promise.all(others.map((one) => one.kill()));
  },
);
