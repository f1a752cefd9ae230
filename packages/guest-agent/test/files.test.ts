/** Files: allowed paths, whole and partial transfers, memory. */
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { chmod, mkdir, open, readdir, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type AgentProcess, startAgent, until } from "./harness.ts";

const MIB = 1024 ** 2;

let agent: AgentProcess;
beforeAll(async () => {
  agent = await startAgent();
});
afterAll(async () => await agent[Symbol.asyncDispose]());

const write = (body: Record<string, unknown>) => agent.call("POST", "/files/write", body);
const query = (path: string) => new URLSearchParams({ path }).toString();
const refusal = ({ status, body }: { status: number; body: Record<string, unknown> }) =>
  `${status} ${String(body["code"])}`;

describe("reading and writing", () => {
  test("text, with a mode, and directories made on the way", async () => {
    const path = agent.workspace("a/b/c.txt");
    expect(await write({ path, content: "grüße\n", mode: "0600" })).toMatchObject({
      status: 200,
      body: { success: true, path, size: 8 },
    });
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect((await agent.call("GET", `/files/read?${query(path)}`)).body).toMatchObject({
      content: "grüße\n",
      size: 8,
    });
    expect(await readdir(agent.workspace("a/b"))).toEqual(["c.txt"]);
  });

  test("bytes, both ways", async () => {
    const bytes = randomBytes(1000);
    await write({ path: "bytes.bin", content: bytes.toString("base64"), encoding: "base64" });
    expect(await readFile(agent.workspace("bytes.bin"))).toEqual(bytes);
    const { body } = await agent.call("GET", "/files/read?path=bytes.bin&encoding=base64");
    expect(Buffer.from(String(body["content"]), "base64")).toEqual(bytes);
  });

  test("overwrite false leaves what is there", async () => {
    await write({ path: "once.txt", content: "first" });
    expect(refusal(await write({ path: "once.txt", content: "second", overwrite: false }))).toBe(
      "409 FILE_ALREADY_EXISTS",
    );
    expect(await readFile(agent.workspace("once.txt"), "utf8")).toBe("first");
    expect((await write({ path: "new.txt", content: "x", overwrite: false })).status).toBe(200);
  });

  test("listing has both spellings of each field", async () => {
    await mkdir(agent.workspace("listed/dir"), { recursive: true });
    await writeFile(agent.workspace("listed/file"), "12345");
    await chmod(agent.workspace("listed/file"), 0o644);
    const { body } = await agent.call("GET", `/files/list?${query(agent.workspace("listed"))}`);
    expect(body["files"]).toMatchObject([
      { name: "dir", is_dir: true, is_directory: true },
      {
        name: "file",
        size: 5,
        is_dir: false,
        permissions: "0644",
        modified: expect.any(String),
        modified_time: expect.any(String),
      },
    ]);
  });

  test("exists, mkdir (also again), remove with everything below", async () => {
    const path = agent.workspace("m/n");
    expect((await agent.call("GET", `/files/exists?${query(path)}`)).body).toMatchObject({
      exists: false,
    });
    for (let time = 0; time < 2; time += 1)
      expect((await agent.call("POST", "/files/mkdir", { path })).status).toBe(200);
    expect((await agent.call("GET", `/files/exists?${query(path)}`)).body).toMatchObject({
      exists: true,
    });
    expect(
      (await agent.call("DELETE", `/files/remove?${query(agent.workspace("m"))}`)).status,
    ).toBe(200);
    expect((await agent.call("GET", `/files/exists?${query(path)}`)).body).toMatchObject({
      exists: false,
    });
  });

  test("removing a link removes the link", async () => {
    await writeFile(agent.workspace("kept"), "kept");
    await symlink(agent.workspace("kept"), agent.workspace("link"));
    expect((await agent.call("DELETE", "/files/remove?path=link")).status).toBe(200);
    expect(await readFile(agent.workspace("kept"), "utf8")).toBe("kept");
  });
});

describe("what may be touched", () => {
  const CALLS: [
    string,
    (path: string) => Promise<{ status: number; body: Record<string, unknown> }>,
  ][] = [
    ["read", (path) => agent.call("GET", `/files/read?${query(path)}`)],
    ["download", (path) => agent.call("GET", `/files/download?${query(path)}`)],
    ["list", (path) => agent.call("GET", `/files/list?${query(path)}`)],
    ["exists", (path) => agent.call("GET", `/files/exists?${query(path)}`)],
    ["write", (path) => write({ path, content: "x" })],
    ["mkdir", (path) => agent.call("POST", "/files/mkdir", { path })],
    ["remove", (path) => agent.call("DELETE", `/files/remove?${query(path)}`)],
  ];

  test.each(CALLS)("%s stays inside the roots, whatever the path looks like", async (_, call) => {
    await symlink("/etc", agent.workspace("out")).catch(() => {});
    await symlink(agent.workspace("out"), agent.workspace("out2")).catch(() => {});
    const attacks = [
      "/etc/passwd",
      "../../../../../../etc/passwd",
      `${agent.workspace()}/../../../etc/passwd`,
      "out/passwd",
      "out2/passwd",
      "out/new/file",
      `${agent.root}/workspace-evil/x`,
    ];
    for (const path of attacks)
      expect(`${path}: ${refusal(await call(path))}`).toBe(`${path}: 403 PATH_NOT_ALLOWED`);
    expect(refusal(await call("a\0b"))).toBe("400 INVALID_PATH");
  });

  test("links in a circle, names too long, directories and pipes are said to be what they are", async () => {
    await symlink(agent.workspace("circle"), agent.workspace("circle"));
    await agent.shell("mkfifo pipe");
    expect(refusal(await agent.call("GET", "/files/read?path=circle"))).toBe("400 INVALID_PATH");
    expect(refusal(await agent.call("GET", `/files/read?path=${"x".repeat(300)}`))).toBe(
      "400 INVALID_PATH",
    );
    expect(refusal(await agent.call("GET", "/files/read?path=pipe"))).toBe("400 INVALID_PATH");
    expect(refusal(await agent.call("GET", `/files/download?${query(agent.workspace())}`))).toBe(
      "400 INVALID_PATH",
    );
    expect(refusal(await write({ path: agent.workspace(), content: "x" }))).toBe(
      "400 INVALID_PATH",
    );
    expect(refusal(await agent.call("DELETE", `/files/remove?${query(agent.workspace())}`))).toBe(
      "400 INVALID_PATH",
    );
    expect(refusal(await agent.call("GET", "/files/read?path=none"))).toBe("404 FILE_NOT_FOUND");
    expect(refusal(await agent.call("GET", "/files/list?path=none"))).toBe("404 FILE_NOT_FOUND");
  });
});

describe("download", () => {
  const content = randomBytes(10_000);
  const get = (headers: Record<string, string>, method = "GET") =>
    agent.fetch(method, "/files/download?path=ranged.bin", { headers });
  beforeAll(async () => await writeFile(agent.workspace("ranged.bin"), content));

  test.each([
    ["bytes=0-99", 0, 100],
    ["bytes=9000-", 9000, 10_000],
    ["bytes=-10", 9990, 10_000],
    ["bytes=9990-20000", 9990, 10_000],
    ["bytes=-20000", 0, 10_000],
  ])("Range %s", async (range, from, to) => {
    const response = await get({ range });
    expect(response.status).toBe(206);
    expect(response.headers.get("content-range")).toBe(`bytes ${from}-${to - 1}/10000`);
    expect(response.headers.get("content-length")).toBe(String(to - from));
    expect(Buffer.from(await response.arrayBuffer())).toEqual(content.subarray(from, to));
  });

  test("a range outside the file is 416, one that is none gives the whole file", async () => {
    const outside = await get({ range: "bytes=10000-" });
    expect(outside.status).toBe(416);
    expect(outside.headers.get("content-range")).toBe("bytes */10000");
    for (const range of ["bytes=5-2", "lines=1-2", "bytes=0-1,5-6"])
      expect((await get({ range })).status).toBe(200);
  });

  test("HEAD and If-Range", async () => {
    const head = await get({}, "HEAD");
    expect(head.headers.get("content-length")).toBe("10000");
    const etag = String(head.headers.get("etag"));
    expect((await get({ range: "bytes=0-1", "if-range": etag })).status).toBe(206);
    expect((await get({ range: "bytes=0-1", "if-range": '"other"' })).status).toBe(200);
  });

  test("an empty file, and a name outside ASCII", async () => {
    await writeFile(agent.workspace("leer ü.txt"), "");
    const response = await agent.fetch("GET", `/files/download?${query("leer ü.txt")}`);
    expect([
      response.status,
      response.headers.get("content-length"),
      (await response.arrayBuffer()).byteLength,
    ]).toEqual([200, "0", 0]);
  });
});

describe("upload", () => {
  const form = (fields: [string, string | Blob, string?][]) => {
    const data = new FormData();
    for (const [name, value, fileName] of fields) {
      if (typeof value === "string") data.append(name, value);
      else data.append(name, value, fileName);
    }
    return data;
  };
  const post = async (body: FormData | string, headers: Record<string, string> = {}) => {
    const response = await agent.fetch("POST", "/files/upload", { body, headers });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  };
  const leftovers = async () =>
    await readdir(join(agent.root, "var/lib/torpor/uploads")).catch(() => []);

  test("the path may come after the file, and may be a directory", async () => {
    const blob = new Blob(["hello"]);
    expect(
      (
        await post(
          form([
            ["file", blob, "x.txt"],
            ["path", "up/one.txt"],
          ]),
        )
      ).body,
    ).toMatchObject({ path: agent.workspace("up/one.txt"), size: 5 });
    expect(
      (
        await post(
          form([
            ["path", "up/"],
            ["file", blob, "two.txt"],
          ]),
        )
      ).body,
    ).toMatchObject({ path: agent.workspace("up/two.txt") });
    expect(await readFile(agent.workspace("up/two.txt"), "utf8")).toBe("hello");
  });

  test("bad forms are refused, name what is wrong, and leave nothing behind", async () => {
    const blob = new Blob(["hello"]);
    expect(await post(form([["path", "x"]]))).toMatchObject({
      status: 400,
      body: { message: '"file" is required' },
    });
    expect(await post(form([["file", blob, "x"]]))).toMatchObject({
      status: 400,
      body: { message: '"path" is required' },
    });
    expect(
      refusal(
        await post(
          form([
            ["path", "../../etc/x"],
            ["file", blob, "x"],
          ]),
        ),
      ),
    ).toBe("403 PATH_NOT_ALLOWED");
    expect(await post("{}", { "content-type": "application/json" })).toMatchObject({
      status: 400,
      body: { message: expect.stringContaining("Content-Type") },
    });
    expect(
      (await post("--b\r\nnonsense", { "content-type": "multipart/form-data; boundary=b" })).status,
    ).toBe(400);
    expect(await leftovers()).toEqual([]);
  });

  test("a client that leaves in the middle leaves nothing behind", async () => {
    const left = new AbortController();
    const body = new ReadableStream<Uint8Array>({
      start: (controller) =>
        controller.enqueue(
          Buffer.from(
            '--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\nhalf',
          ),
        ),
    });
    const headers = { "content-type": "multipart/form-data; boundary=b" };
    const gone = agent
      .fetch("POST", "/files/upload", { body, headers, duplex: "half", signal: left.signal })
      .catch(() => {});
    await until("it has begun", async () => (await leftovers()).length === 1);
    left.abort();
    await gone;
    await until("nothing is left", async () => (await leftovers()).length === 0);
  });

  test("192 MiB go up and down again through flat memory", async () => {
    const SIZE_MIB = 192;
    const source = join(agent.root, "source.bin");
    const chunk = randomBytes(MIB);
    const file = await open(source, "w");
    for (let at = 0; at < SIZE_MIB; at += 1) await file.write(chunk);
    await file.close();
    const before = await agent.rssBytes();
    let peak = before;
    const watch = setInterval(
      () => void agent.rssBytes().then((rss) => (peak = Math.max(peak, rss))),
      20,
    );
    const head = `--b\r\ncontent-disposition: form-data; name="path"\r\n\r\nbig.bin\r\n--b\r\ncontent-disposition: form-data; name="file"; filename="b"\r\n\r\n`;
    const body = ReadableStream.from(
      (async function* () {
        yield Buffer.from(head);
        yield* createReadStream(source, { highWaterMark: 256 * 1024 });
        yield Buffer.from("\r\n--b--\r\n");
      })(),
    );
    const uploaded = await agent.fetch("POST", "/files/upload", {
      body,
      duplex: "half",
      headers: { "content-type": "multipart/form-data; boundary=b" },
    });
    expect(await uploaded.json()).toMatchObject({ size: SIZE_MIB * MIB });
    const hash = createHash("sha256");
    const response = await agent.fetch("GET", "/files/download?path=big.bin");
    for await (const part of response.body ?? []) hash.update(part);
    clearInterval(watch);
    const expected = createHash("sha256");
    for (let at = 0; at < SIZE_MIB; at += 1) expected.update(chunk);
    expect(hash.digest("hex")).toBe(expected.digest("hex"));
    // Unused chunks stay in memory until they are collected.
    expect((peak - before) / MIB).toBeLessThan(SIZE_MIB / 2);
  });
});

test("a file that is too large to read in one piece says what to do instead", async () => {
  await agent.shell("head -c 17000000 /dev/zero > large");
  expect((await agent.call("GET", "/files/read?path=large")).body["message"]).toContain(
    "/files/download",
  );
});

/** Sends everything before it reads the response, as many clients do. */
async function sendLarge(headers: string[], path: string): Promise<string> {
  const isChunked = headers.includes("transfer-encoding: chunked");
  const socket = connect(agent.port, "127.0.0.1");
  socket.write(
    [
      `POST ${path} HTTP/1.1`,
      "host: guest",
      "x-torpor-agent-key: test-key",
      ...headers,
      "",
      "",
    ].join("\r\n"),
  );
  const chunk = Buffer.alloc(MIB, "x");
  for (let at = 0; at < 40; at += 1) {
    if (isChunked) socket.write(`${MIB.toString(16)}\r\n`);
    if (!socket.write(isChunked ? Buffer.concat([chunk, Buffer.from("\r\n")]) : chunk))
      await once(socket, "drain");
  }
  if (isChunked) socket.write("0\r\n\r\n");
  let text = "";
  socket.on("data", (data) => (text += String(data)));
  await until("an answer", () => text.includes("}"));
  socket.destroy();
  return text;
}

test.each([
  ["with its length", `content-length: ${40 * MIB}`],
  ["in chunks", "transfer-encoding: chunked"],
])(
  "a body that is too large, sent %s, is answered on the connection that it came on",
  async (_, header) => {
    const text = await sendLarge([header], "/files/write");
    expect(text).toMatch(/^HTTP\/1\.1 413 [^]*\/files\/upload/);
  },
);

test("an upload that fails in the middle is answered on the connection that it came on", async () => {
  const text = await sendLarge(
    ["transfer-encoding: chunked", "content-type: multipart/form-data; boundary=b"],
    "/files/upload",
  );
  expect(text).toMatch(/^HTTP\/1\.1 400 [^]*malformed/);
});
