/** The contents of the sandbox (docs/sandbox-api.md): what common programs expect of a machine. */
import { Sandbox } from "@hopx-ai/sdk";
import { startVmFleet, type TestFleet, until } from "@torpor/testkit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

let fleet: TestFleet;
let sandbox: Sandbox;
beforeAll(async () => {
  fleet = await startVmFleet();
  sandbox = await Sandbox.create({
    template: "code-interpreter",
    apiKey: fleet.apiKey,
    baseURL: fleet.url,
  });
});
afterAll(async () => {
  await fleet[Symbol.asyncDispose]();
});

async function shell(command: string): Promise<string> {
  const { stdout, stderr, exit_code } = await sandbox.commands.run(command, { timeout: 240 });
  expect({ stderr, exit_code }, command).toEqual({ stderr: "", exit_code: 0 });
  return stdout.trim();
}
async function run(language: "python" | "javascript", code: string): Promise<string> {
  const { stdout, stderr } = await sandbox.runCode(code, { language, timeout: 100 });
  expect(stderr, code).toBe("");
  return stdout.trim();
}

async function inTerminal(line: string, isSeen: (text: string) => boolean): Promise<string> {
  const socket = await sandbox.terminal.connect();
  let text = "";
  socket.on(
    "message",
    (data: Buffer) => (text += (JSON.parse(data.toString()) as { data?: string }).data ?? ""),
  );
  sandbox.terminal.sendInput(socket, `${line}\n`);
  await until(line, () => isSeen(text), 60_000);
  socket.close();
  return text;
}

describe("limits", () => {
  test("65,536 open files, soft and hard, for everything that users run", async () => {
    const most = 65_536;
    const inPython = "import resource\nprint(*resource.getrlimit(resource.RLIMIT_NOFILE))";
    expect(
      await shell(
        "echo $(ulimit -Sn) $(ulimit -Hn); sudo sh -c 'ulimit -n'; su nobody -s /bin/sh -c 'ulimit -n'",
      ),
    ).toBe(`${most} ${most}\n${most}\n${most}`);
    expect(await run("python", inPython)).toBe(`${most} ${most}`);
    expect(
      await run(
        "python",
        `import os\nfiles = [os.open("/dev/null", 0) for _ in range(${most - 1000})]\nprint(len(files))`,
      ),
    ).toBe(String(most - 1000));
    expect(await run("python", "for file in files: os.close(file)")).toBe("");
    const inNode =
      "console.log(require('child_process').execSync('ulimit -Sn; ulimit -Hn').toString())";
    expect(await run("javascript", inNode)).toBe(`${most}\n${most}`);
    await inTerminal("echo soft=$(ulimit -Sn) hard=$(ulimit -Hn).", (text) =>
      text.includes(`soft=${most} hard=${most}.`),
    );
  });

  test("settings of the kernel that common programs ask for", async () => {
    const settings = {
      "fs.file-max": 1_048_576,
      "fs.inotify.max_user_instances": 1024,
      "fs.inotify.max_user_watches": 524_288,
      "net.core.somaxconn": 4096,
      "vm.max_map_count": 262_144,
    };
    const seen = await shell(`sysctl ${Object.keys(settings).join(" ")}`);
    expect(Object.fromEntries(seen.split("\n").map((line) => line.split(" = ")))).toEqual(
      Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, String(value)])),
    );
  });

  test("2,000 threads at the same time", async () => {
    const threads = [
      "import threading",
      "gate = threading.Event()",
      "many = [threading.Thread(target=gate.wait) for _ in range(2000)]",
      "for one in many: one.start()",
      "print(threading.active_count() > 2000)",
      "gate.set()",
      "for one in many: one.join()",
    ].join("\n");
    expect(await run("python", threads)).toBe("True");
  });
});

describe("what a program expects of a machine", () => {
  test("programs", async () => {
    const names =
      "bash bc bzip2 cc column curl dig editor envsubst file fuser g++ gcc gdb getent git gpg gzip hexdump hostname ifconfig ip jq killall less " +
      "locale lsb_release lsof make mount nano nc netstat node npm npx patch perl ping pip pkg-config pkill ps python python3 rsync scp sqlite3 ss " +
      "ssh ssh-keygen strace su sudo tar time tmux top tree umount unzip useradd vi watch wget xxd xz zip zstd";
    expect(
      await shell(`for name in ${names}; do command -v $name > /dev/null || echo $name; done`),
    ).toBe("");
  });

  test("devices, directories, names, time and place", async () => {
    const looks: [string, string][] = [
      [
        "echo in | cat /dev/stdin | (cat /dev/fd/0 > /dev/stdout) | cat; (echo err > /dev/stderr) 2>&1 | cat",
        "in\nerr",
      ],
      [
        "stat -Lc '%a %n' /dev/shm /run/lock /tmp /var/tmp /dev/null",
        "1777 /dev/shm\n1777 /run/lock\n1777 /tmp\n1777 /var/tmp\n666 /dev/null",
      ],
      ["grep -c ' /dev/pts \\| /dev/mqueue ' /etc/mtab", "2"],
      [
        "echo $USER $LOGNAME $SHELL $HOME; umask; id -un; getent passwd 0 | cut -d: -f7",
        "root root /bin/bash /root\n0022\nroot\n/bin/bash",
      ],
      [
        "getent ahostsv4 localhost | head -1; getent ahostsv6 ::1 | head -1; getent services https",
        "127.0.0.1 STREAM localhost\n::1 STREAM ::1\nhttps 443/tcp",
      ],
      [
        "test $(hostname) = $(cat /etc/hostname) && hostname -f > /dev/null && ping -qc1 -W5 localhost | grep -c ' 0% packet loss'",
        "1",
      ],
      [
        "TZ=Asia/Tokyo date -d @0 +%H:%M; LC_ALL=en_US.UTF-8 locale charmap; locale charmap",
        "09:00\nUTF-8\nUTF-8",
      ],
      ["sudo -n id -un; sudo -n -u nobody id -un", "root\nnobody"],
      ["echo 'int main() { return 7; }' | gcc -x c - -o /tmp/seven; /tmp/seven; echo $?", "7"],
      ["tmux new-session -d 'sleep 60' && tmux ls | cut -d: -f1; tmux kill-server", "0"],
    ];
    const seen: [string, string][] = [];
    for (const [command] of looks)
      seen.push([command, (await shell(command)).replaceAll(/ {2,}/g, " ")]);
    expect(seen).toEqual(looks);
    const locale =
      "import locale\nlocale.setlocale(locale.LC_ALL, 'en_US.UTF-8')\nprint(locale.format_string('%d', 1234567, grouping=True))";
    expect(await run("python", `${locale}\nlocale.setlocale(locale.LC_ALL, 'C.UTF-8');`)).toBe(
      "1,234,567",
    );
    const pool =
      "import multiprocessing as m\nwith m.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))";
    expect(await run("python", pool)).toBe("[1, 2]");
    const worker =
      "const { Worker } = require('worker_threads'); new Worker('require(\"worker_threads\").parentPort.postMessage(42)', { eval: true }).on('message', console.log)";
    expect(await run("javascript", worker)).toBe("42");
  });
});

describe("what is installed", () => {
  const WHEEL = "/tmp/hello-1-py3-none-any.whl";
  beforeAll(async () => {
    const made = [
      "import zipfile",
      `with zipfile.ZipFile('${WHEEL}', 'w') as wheel:`,
      "  info = 'hello-1.dist-info/'",
      "  wheel.writestr('hello.py', 'def main(): print(\"hello from a wheel\")')",
      "  wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: hello\\nVersion: 1\\n')",
      "  tags = 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n'",
      "  wheel.writestr(info + 'WHEEL', tags)",
      "  wheel.writestr(info + 'entry_points.txt', '[console_scripts]\\nhello = hello:main\\n')",
      "  wheel.writestr(info + 'RECORD', '')",
    ];
    await run("python", made.join("\n"));
    const greet = { name: "greet", version: "1.0.0", bin: { greet: "index.js" } };
    const lines = ["#!/usr/bin/env node", "module.exports = () => 'greet';"];
    const main = "if (require.main === module) console.log('greet');";
    await sandbox.files.write("/tmp/greet/package.json", JSON.stringify(greet));
    await sandbox.files.write("/tmp/greet/index.js", [...lines, main, ""].join("\n"));
    await shell("tar cz -C /tmp -f /tmp/greet.tgz greet");
  });

  // Takes more than a minute. tests/vm/snapshots.test.ts tests that files stay, and
  // packages/guest-agent/test/installed.vm.test.ts that pip and npm work.
  test(
    "by pip and npm is there at once, and after stop and start",
    { tags: ["exhaustive"], timeout: 900_000 },
    async () => {
      await shell(`pip install --quiet ${WHEEL}`);
      const hello = await run("python", "import hello\nhello.main()");
      expect(hello, "in the kernel that runs already").toBe("hello from a wheel");
      await shell("npm install --silent /tmp/greet.tgz");
      await shell("npm install --silent --global /tmp/greet.tgz");

      const { sandboxes } = fleet.client;
      expect(await sandboxes.stop(sandbox.sandboxId)).toMatchObject({ status: "stopped" });
      expect(await sandboxes.start(sandbox.sandboxId)).toMatchObject({ status: "running" });

      expect(await run("python", "import hello\nhello.main()")).toBe("hello from a wheel");
      const ran = await shell("hello; node_modules/.bin/greet; cd /; greet");
      expect(ran).toBe("hello from a wheel\ngreet\ngreet");
      expect(await run("javascript", "console.log(require('greet')())")).toBe("greet");
    },
  );
});
