/** The Python kernel in the image's own tree: which cells run, their results, and their state. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type AgentProcess, frames, ofType, send, textOf, until } from "./harness.ts";
import { startImageAgent } from "./image.ts";

type Body = Record<string, unknown>;

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startImageAgent();
});
/** Restores the kernel, whatever earlier tests did to it, in any order. */
beforeEach(async () => {
  await agent.call("DELETE", "/env");
  await run(
    "import asyncio, os, signal, subprocess, sys, threading, time\n" +
      "from IPython.display import clear_output, display\n" +
      "os.chdir('/workspace'); kept = 1",
  );
});
afterAll(async () => {
  await agent[Symbol.asyncDispose]();
});

async function run(code: string, more: Body = {}): Promise<Body> {
  return (await agent.call("POST", "/execute", { code, timeout: 60, ...more })).body;
}
const printed = async (code: string, more: Body = {}) => (await run(code, more))["stdout"];
/** Checks state that an earlier cell has left. */
const isKept = async () =>
  expect(await run("print(kept)")).toMatchObject({ stdout: "1\n", stderr: "", success: true });
const LOST = "are lost";

describe("K3: a cell is run, or the answer says that it was not", () => {
  test("a cell after one that failed, side by side and at once after it, 40 times", async () => {
    for (let round = 0; round < 40; round += 1) {
      const [failed, printed] = await Promise.all([run("1/0"), run("print(7)")]);
      expect(failed).toMatchObject({
        success: false,
        exit_code: 1,
        stderr: expect.stringContaining("ZeroDivisionError"),
      });
      expect(printed).toMatchObject({ success: true, stdout: "7\n", stderr: "" });
      await run("1/0");
      expect(await run("print(8)")).toMatchObject({ success: true, stdout: "8\n" });
    }
  });

  test("a NUL is refused, half a character is one that says so; the cells beside run", async () => {
    const [nul, half, beside] = await Promise.all([
      agent.call("POST", "/execute", { code: "print(1)\0" }),
      run('print(ascii("\ud800x"))'),
      run("print(9)"),
    ]);
    expect(nul).toMatchObject({
      status: 400,
      body: { message: expect.stringContaining('"code"') },
    });
    expect(half).toMatchObject({ success: true, stdout: "'\\ufffdx'\n" });
    expect(beside).toMatchObject({ success: true, stdout: "9\n" });
    await isKept();
  });

  test("a syntax error, an empty cell and a cell that prints half a character are what they are", async () => {
    expect(await run("def f(:")).toMatchObject({
      success: false,
      exit_code: 1,
      stderr: expect.stringContaining("SyntaxError"),
    });
    expect(await run("")).toMatchObject({ success: true, stdout: "", stderr: "" });
    expect(await run("print(chr(0xd800))")).toMatchObject({
      success: false,
      stderr: expect.stringContaining("UnicodeEncodeError"),
    });
    await isKept();
  });

  test.each([
    ["import sys; sys.exit(0)", 0, ""],
    ["sys.exit()", 0, ""],
    ["sys.exit(3)", 3, ""],
    ["sys.exit('why')", 1, "why\n"],
    ["raise SystemExit(300)", 300 & 0xff, ""],
    ["exit()", 0, ""],
    ["exit", 0, ""],
    ["quit(4)", 4, ""],
    ["async def stop(): sys.exit(5)\nawait stop()", 5, ""],
  ])("%s ends the cell with its code, and the state stays", async (code, exitCode, stderr) => {
    expect(await run(code)).toMatchObject({ success: exitCode === 0, exit_code: exitCode, stderr });
    await isKept();
  });

  test("a child that a cell forks ends with the cell, and is no second kernel", async () => {
    const code =
      "import os\npid = os.fork()\nif pid: os.waitpid(pid, 0)\nprint('parent' if pid else 'child')";
    expect(await run(code)).toMatchObject({ success: true, stdout: "child\nparent\n" });
    expect(
      await printed(
        "from multiprocessing import Pool\nwith Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
      ),
    ).toBe("[1, 2]\n");
    await isKept();
  });

  test("B1: a kernel that ends between two cells costs the second nothing but the state", async () => {
    for (let round = 0; round < 5; round += 1) {
      await run(
        "import os, threading, time\nthreading.Thread(target=lambda: (time.sleep(0.2), os._exit(0))).start()",
      );
      // Cells at many moments around the end of the kernel.
      const answers = [];
      for (let at = 0; at < 6; at += 1)
        answers.push(await run("import time; time.sleep(0.04); print('ran')"));
      const failed = answers.filter(({ success }) => success !== true);
      expect(failed.length, "at most the cell that was running").toBeLessThanOrEqual(1);
      expect(answers.every(({ success, stdout }) => success !== true || stdout === "ran\n")).toBe(
        true,
      );
      expect(
        answers.some(({ stderr }) => String(stderr).includes(LOST)) || failed.length === 1,
      ).toBe(true);
      await run("0");
    }
    expect(await run("import os; os._exit(3)")).toMatchObject({ success: false, exit_code: 3 });
    expect(await run("import os; os._exit(0)")).toMatchObject({ success: false });
    expect(await run("kept = 1; print(2)")).toMatchObject({
      success: true,
      stdout: "2\n",
      stderr: expect.stringContaining(LOST),
    });
    await isKept();
  });
});

describe("an error is one, however it is shown", () => {
  test.each([
    ["a magic that goes on", "%%time\n1/0", 1, "ZeroDivisionError"],
    ["one that captures", "%%capture\n1/0", 1, "ZeroDivisionError"],
    ["a script that exits", "%run /tmp/exits.py", 1, "bad"],
    [
      "an exit in a task",
      "import asyncio, sys\nasync def stop():\n  await asyncio.sleep(0.01)\n  sys.exit(4)\nawait asyncio.gather(stop(), asyncio.sleep(1))",
      4,
      "",
    ],
    [
      "an error without a text",
      "class E(Exception):\n  def __str__(self): sys.exit(3)\nraise E()",
      1,
      "SystemExit",
    ],
    ["a note", "error = ValueError('x'); error.add_note('noted'); raise error", 1, "noted"],
    ["a group", "raise ExceptionGroup('all', [ValueError('inner')])", 1, "ValueError: inner"],
    ["an exit that is too large", "sys.exit(10**20)", 255, ""],
  ])("%s", async (_what, code, exitCode, stderr) => {
    await agent.shell("echo 'import sys; sys.exit(\"bad\")' > /tmp/exits.py");
    expect(await run(code)).toMatchObject({
      success: false,
      exit_code: exitCode,
      stderr: expect.stringContaining(stderr),
    });
    await isKept();
  });

  test("what raises between cells ends nothing", async () => {
    await run(
      "import signal\ndef late(*_): raise TimeoutError\nsignal.signal(signal.SIGALRM, late)",
    );
    await run("signal.setitimer(signal.ITIMER_REAL, 0.05)");
    await run("async def stop(): sys.exit(4)\ntask = asyncio.create_task(stop())");
    await agent.shell("sleep 0.2");
    await isKept();
  });
});

describe("what is printed arrives", () => {
  test("a native library that holds the interpreter, child processes and Python in one order", async () => {
    const code = [
      "import ctypes, os, subprocess",
      "print('first')",
      "n = ctypes.PyDLL(None).printf(b'x' * 100000 + b'\\n')",
      "e = os.system('echo child')",
      "subprocess.run(['echo', 'another'])",
      "os.write(1, b'raw\\n')",
      "n = ctypes.PyDLL(None).printf(b'no end of line')",
    ].join("\n");
    const { stdout, success } = await run(`${code};`);
    expect(success).toBe(true);
    expect(String(stdout).replace(/x{100000}/, "many")).toBe(
      "first\nmany\nchild\nanother\nraw\nno end of line",
    );
    await isKept();
  });

  test("B2: text without a line's end is out before the cell ends, 2 MiB arrive whole, bytes that are no text are marked", async () => {
    const socket = await agent.connect("/execute/stream");
    let seen = "";
    socket.on("message", (data: Buffer) => (seen += data.toString()));
    const ended = frames(socket, ofType("complete"), 60_000);
    send(socket, {
      code: "import os, time\nprint('...', end='')\nwhile not os.path.exists('/tmp/go'): time.sleep(0.02)\nprint('x' * (1 << 21), end='!')",
    });
    await until("the dots are there", () => seen.includes("..."));
    await agent.shell("touch /tmp/go");
    const all = await ended;
    expect(textOf(all, "stdout")).toBe(`...${"x".repeat(1 << 21)}!`);
    expect(await printed("import os; n = os.write(1, b'a\\xffb\\n')")).toBe("a\ufffdb\n");
  });

  test("B3: what a program from an earlier cell prints does not stop it, and is nobody's between cells", async () => {
    await run(
      "import subprocess\nloop = subprocess.Popen('while :; do echo tick; done', shell=True)",
    );
    await run("import time; time.sleep(0.3)");
    expect(await printed("import sys; print(loop.poll(), file=sys.stderr)")).not.toBeUndefined();
    expect((await run("import sys; print(loop.poll(), file=sys.stderr)"))["stderr"]).toBe("None\n");
    await run("loop.kill()");
    await isKept();
  });

  test("a cell that closes standard output closes it for nobody else", async () => {
    expect(await printed("import sys\nsys.stdout.write('out')\nsys.stdout.close()")).toBe("out");
    expect(await printed("print('again')")).toBe("again\n");
  });

  test.each([
    "import io; sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-8')",
    "import os; sys.stdout = os.fdopen(sys.stdout.fileno(), 'w')",
    "os.close(1)",
    "del sys.stdout",
    "import builtins; builtins.print = None",
  ])("%s, twice, leaves the next cell its output", async (code) => {
    await run("kept_print = print");
    for (let time = 0; time < 2; time += 1) {
      await run(`import sys\n${code}`);
      expect(await printed("import sys; sys.stdout.write('there\\n'); 7")).toBe("there\n7\n");
    }
    await run("import builtins, sys; sys.stdout = sys.__stdout__; builtins.print = kept_print");
  });

  test("standard input is at its end", async () => {
    expect(
      await printed(
        "import subprocess; print(subprocess.run(['cat'], capture_output=True).stdout)",
      ),
    ).toBe("b''\n");
    expect(await run("input('? ')")).toMatchObject({
      stdout: "? ",
      stderr: expect.stringContaining("EOFError"),
    });
  });
});

describe("K1: a time limit ends the cell, and nothing else", () => {
  test.each([
    ["a sleep", "import time; time.sleep(600)"],
    ["a loop", "while True: pass"],
    ["a child that is waited for", "import subprocess; subprocess.run(['sleep', '777'])"],
    [
      "a shell that ignores interrupts",
      "import os\nwhile True: os.system(\"trap '' INT; sleep 776\")",
    ],
    ["a loop of shells", "import os\nwhile True: os.system('sleep 0.2')"],
    ["endless output", "while True: print('x' * 60)"],
    ["an endless child", "import subprocess; subprocess.run(['yes'])"],
    ["an await", "import asyncio; await asyncio.sleep(600)"],
    [
      "an await that goes on once",
      "async def wait():\n  try: await asyncio.sleep(600)\n  except asyncio.CancelledError: await asyncio.sleep(600)\nawait wait()",
    ],
    ["a wait in a coroutine", "import time\nasync def wait(): time.sleep(600)\nawait wait()"],
    [
      "asyncio.run",
      "import asyncio\nasync def wait(): await asyncio.sleep(600)\nasyncio.run(wait())",
    ],
    [
      "a loop that goes on once",
      "try:\n  while True: pass\nexcept KeyboardInterrupt:\n  while True: pass",
    ],
  ])("%s is interrupted, the state is kept", async (_what, code) => {
    expect(await run(code, { timeout: 1 })).toMatchObject({
      exit_code: 124,
      timed_out: true,
      success: false,
      stderr: expect.stringContaining("the time limit of 1 s was reached"),
    });
    await isKept();
  });

  test("a server of an earlier cell lives on, also when the kernel does not", async () => {
    const server = "echo $$ > /tmp/server; while :; do echo tick; sleep 0.05; done";
    await run(
      `import subprocess; server = subprocess.Popen(${JSON.stringify(server)}, shell=True)`,
    );
    const lives = async () =>
      expect((await agent.shell("kill -0 $(cat /tmp/server) && echo lives"))["stdout"]).toBe(
        "lives\n",
      );
    await run("while True: pass", { timeout: 1 });
    await lives();
    const holdsOn =
      "import ctypes\nwhile True:\n  try: ctypes.PyDLL(None).usleep(200000)\n  except KeyboardInterrupt: pass";
    expect(await run(holdsOn, { timeout: 1 })).toMatchObject({
      exit_code: 124,
      stderr: expect.stringContaining("did not stop when interrupted"),
    });
    expect((await run("kept = 1"))["stderr"]).toContain(LOST);
    await lives();
    await agent.shell("kill $(cat /tmp/server)");
  });

  test("a client that leaves interrupts its cell, also one that waits", async () => {
    const leaving = new AbortController();
    const body = JSON.stringify({
      code: "import time\nopen('/tmp/began', 'w').close()\ntime.sleep(600)",
    });
    const init = { body, signal: leaving.signal, headers: { "content-type": "application/json" } };
    const left = agent.fetch("POST", "/execute", init).catch(() => "left");
    await until(
      "it began",
      async () => (await agent.shell("ls /tmp"))["stdout"]?.toString().includes("began") === true,
    );
    leaving.abort();
    expect(await left).toBe("left");
    await isKept();
  });
});

describe("each cell finds its variables and its directory", () => {
  test("those of one call are gone after it, and what was there before is there again", async () => {
    await run("import os; os.environ['PATH'] += ':/mine'; os.environ['HAD'] = 'before'");
    const names = "print([os.environ.get(n) for n in ('PATH', 'HOME', 'MINE', 'HAD')])";
    const before = await printed(names);
    expect(await printed(names, { env: { PATH: "/x", HOME: "/h", MINE: "1", HAD: "now" } })).toBe(
      "['/x', '/h', '1', 'now']\n",
    );
    expect(await printed(names)).toBe(before);
    await run("os.environ['MINE'] = 'set by the code'", { env: { MINE: "1" } });
    expect(await printed("print(os.environ.pop('MINE'))")).toBe("set by the code\n");
  });

  test("the sandbox's variables come, change and go, and what they hid is there again", async () => {
    const lang =
      "import os, subprocess; print(os.environ.get('LANG'), subprocess.getoutput('echo $LANG'))";
    const before = await printed(lang);
    await agent.call("PUT", "/env", { env_vars: { LANG: "C", GREETING: "hello" } });
    expect(await printed(lang)).toBe("C C\n");
    expect(await printed("print(os.environ['GREETING'])")).toBe("hello\n");
    await agent.call("DELETE", "/env/LANG");
    expect(await printed(lang)).toBe(before);
    await agent.call("DELETE", "/env");
    expect(await printed("print(os.environ.get('GREETING'))")).toBe("None\n");
  });

  test("TZ and PYTHONPATH work as for a program that starts with them", async () => {
    await agent.shell("mkdir -p /tmp/lib && echo 'here = 7' > /tmp/lib/of_mine.py");
    await agent.call("PATCH", "/env", { env_vars: { TZ: "Asia/Tokyo", PYTHONPATH: "/tmp/lib" } });
    const code =
      "import time, of_mine; print(time.strftime('%H:%M', time.localtime(0)), of_mine.here)";
    expect(await printed(code)).toBe("09:00 7\n");
    expect((await agent.shell(`python3 -c "${code}"`))["stdout"]).toBe("09:00 7\n");
    await agent.call("DELETE", "/env");
    expect(
      await printed(
        "import sys; print(time.strftime('%H', time.localtime(0)), '/tmp/lib' in sys.path)",
      ),
    ).toBe("00 False\n");
  });

  test("a directory that was removed is left, and one that is there again is seen", async () => {
    expect(await printed("import os; print(os.getcwd())")).toBe("/workspace\n");
    await run("os.chdir('/tmp')");
    expect(await printed("print(os.getcwd())")).toBe("/tmp\n");
    await agent.shell("mkdir -p /tmp/gone && echo");
    expect(await printed("print(os.getcwd())", { workdir: "/tmp/gone" })).toBe("/tmp/gone\n");
    await agent.shell("rm -rf /tmp/gone; mkdir /tmp/gone; echo new > /tmp/gone/file");
    expect(await printed("print(os.listdir())", { workdir: "/tmp/gone" })).toBe("['file']\n");
    await agent.shell("ln -s /tmp/gone /tmp/link");
    expect(await printed("print(os.listdir())", { workdir: "/tmp/link" })).toBe("['file']\n");
  });
});

describe("as in a script", () => {
  test.each([
    ["asyncio.run", "print(asyncio.run(main()))", "5\n"],
    ["run_until_complete", "print(asyncio.get_event_loop().run_until_complete(main()))", "5\n"],
    [
      "tasks of the loop",
      "loop = asyncio.get_event_loop()\nprint(loop.run_until_complete(asyncio.gather(*[loop.create_task(main()) for _ in range(3)])))",
      "[5, 5, 5]\n",
    ],
    [
      "a loop of one's own",
      "loop = asyncio.new_event_loop()\nprint(loop.run_until_complete(main()))\nloop.close()",
      "5\n",
    ],
    ["a Runner", "with asyncio.Runner() as runner: print(runner.run(main()))", "5\n"],
    [
      "a time limit",
      "async def late():\n  async with asyncio.timeout(0.01): await asyncio.sleep(9)\ntry: asyncio.run(late())\nexcept TimeoutError: print('late')",
      "late\n",
    ],
    [
      "run within run",
      "async def twice(): asyncio.run(main())\ntry: asyncio.run(twice())\nexcept RuntimeError as error: print(error)",
      "asyncio.run() cannot be called from a running event loop\n",
    ],
    [
      "argparse",
      "import argparse\nparser = argparse.ArgumentParser()\nparser.add_argument('--size', default=3)\nprint(parser.parse_args())",
      "Namespace(size=3)\n",
    ],
  ])("%s", async (_what, code, expected) => {
    const setUp = "import asyncio\nasync def main():\n  await asyncio.sleep(0.01)\n  return 5\n";
    expect(await run(setUp + code)).toMatchObject({ stdout: expected, stderr: "", success: true });
  });

  test("a task goes on over cells, and is awaited in a later one", async () => {
    await run(
      "async def main():\n  await asyncio.sleep(0.01)\n  return 5\ntask = asyncio.create_task(main())",
    );
    expect(await run("print(await task, await main())")).toMatchObject({
      stdout: "5 5\n",
      stderr: "",
    });
  });
});

describe("what is displayed", () => {
  test("the newest of a display that was updated, or cleared, counts", async () => {
    const updated = await run("shown = display('old', display_id=True); shown.update('new')");
    expect(updated).toMatchObject({ result: "'new'", rich_outputs: [{ text: "'new'" }] });
    const cleared = await run(
      "from IPython.display import clear_output\ndisplay(1); clear_output(wait=True); display(2)",
    );
    expect(cleared).toMatchObject({ result: "2", rich_outputs: [{ text: "2" }] });
    expect(await run("display(1); clear_output()")).not.toHaveProperty("rich_outputs");
    expect(await run("shown.update('later')")).toMatchObject({ result: "'later'" });
  });

  test("a display passes for no field of the answer", async () => {
    const answer = await run(
      "display({'stdout': 'x', 'success': False, 'text/plain': 'y'}, raw=True)",
    );
    expect(answer).toMatchObject({ stdout: "", success: true, result: "y" });
  });

  test("every MIME type comes under its name, and help that is shown in a pager is printed", async () => {
    const code =
      "from IPython.display import display, Javascript, Image\n" +
      "display({'image/gif': 'R0lG', 'application/vnd.plotly.v1+json': {'data': []}, 'text/html': '<b>'}, raw=True); display(Javascript('1'))";
    expect(await run(code)).toMatchObject({
      "image/gif": "R0lG",
      "application/vnd.plotly.v1+json": { data: [] },
      "application/javascript": "1",
      html: "<b>",
    });
    expect(await printed("len?")).toContain("Return the number of items");
    const large = await run("display({'text/html': 'x' * (9 << 20)}, raw=True)");
    expect(large["stderr"]).toContain("was cut");
  });

  test("numbers and times of a table and of JSON are exact, as text where JSON cannot hold them", async () => {
    const code =
      "import pandas as pd, numpy as np\n" +
      "pd.DataFrame({'i': [2**63 - 1, 2**53 - 1], 'u': np.array([2**64 - 1, 0], dtype='uint64'), 'f': [1e-12, float('nan')], 'g': [float('inf'), 0.1]," +
      " 't': pd.to_datetime(['2020-01-01T00:00:00.000000001', None]), 'd': pd.to_timedelta([1, 2]), 'n': pd.array([2**60, None], dtype='Int64')," +
      " 'o': [10**30, [1, 2**70]], 'b': [True, False]}, index=[2**62, 1])";
    const { dataframe } = (await run(code)) as { dataframe: Body };
    expect(dataframe).toMatchObject({
      index: ["4611686018427387904", 1],
      data: [
        [
          "9223372036854775807",
          "18446744073709551615",
          1e-12,
          "Infinity",
          "2020-01-01T00:00:00.000000001",
          "P0DT0H0M0.000000001S",
          "1152921504606846976",
          `1${"0".repeat(30)}`,
          true,
        ],
        [
          2 ** 53 - 1,
          0,
          null,
          0.1,
          null,
          "P0DT0H0M0.000000002S",
          null,
          [1, "1180591620717411303424"],
          false,
        ],
      ],
    });
    const json = await run(
      "from IPython.display import JSON; JSON({'big': 2**63, 'small': 1e-12, 'nan': float('nan'), 'in': [-2**53]})",
    );
    expect(json["json"]).toEqual({
      big: "9223372036854775808",
      small: 1e-12,
      nan: "NaN",
      in: ["-9007199254740992"],
    });
  });
});
