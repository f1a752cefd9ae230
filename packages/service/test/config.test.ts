import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Type } from "typebox";
import { describe, expect, test } from "vitest";
import { ConfigurationError, loadConfig, readSecret } from "../src/index.ts";

const Environment = Type.Object({
  URL: Type.String({ pattern: "^postgres://" }),
  PORT: Type.Integer({ minimum: 1, maximum: 65_535, default: 8787 }),
  DRIVER: Type.Enum(["qemu", "simulated"]),
  KEY_FILE: Type.String(),
  OPTIONAL: Type.Optional(Type.String()),
});
const GOOD = { URL: "postgres://user:secret@db/torpor", DRIVER: "qemu", KEY_FILE: "/k" };

function problems(env: NodeJS.ProcessEnv): string {
  try {
    loadConfig(Environment, env);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigurationError);
    return (error as Error).message;
  }
  throw new Error("it was accepted");
}

describe("configuration", () => {
  test("numbers are converted, defaults filled in, what is not named is left out", () => {
    expect(loadConfig(Environment, { ...GOOD, PORT: "80", HOME: "/root" })).toEqual({
      ...GOOD,
      PORT: 80,
    });
    expect(loadConfig(Environment, GOOD)).toEqual({ ...GOOD, PORT: 8787 });
  });

  test("every problem is named at once: what is missing by its own name, too", () => {
    const message = problems({ URL: "mysql://db", PORT: "eighty" });
    for (const name of ["URL", "PORT", "DRIVER", "KEY_FILE"])
      expect(message).toMatch(new RegExp(`\\b${name}\\b`));
    expect(message).not.toContain("OPTIONAL");
    expect(message).not.toContain("\n");
  });

  test.each([
    ["out of range", { ...GOOD, PORT: "70000" }, "PORT"],
    ["no whole number", { ...GOOD, PORT: "1.5" }, "PORT"],
    ["not one of the choices", { ...GOOD, DRIVER: "xen" }, "DRIVER"],
    ["empty where a pattern holds", { ...GOOD, URL: "" }, "URL"],
  ])("%s is refused, by name", (_, env, name) => {
    expect(problems(env)).toContain(name);
  });

  test("a setting with choices is refused with the choices", () => {
    expect(problems({ ...GOOD, DRIVER: "xen" })).toContain("DRIVER must be one of qemu, simulated");
  });

  test("values are never repeated: they may be secrets", () => {
    expect(
      problems({ ...GOOD, URL: "secret-without-a-scheme", DRIVER: "another-secret" }),
    ).not.toMatch(/secret/);
  });
});

describe("secrets", () => {
  test("are read without the newline behind them; an empty or missing file is a configuration error that names it", () => {
    const dir = mkdtempSync(join(tmpdir(), "torpor-secret-"));
    try {
      writeFileSync(join(dir, "good"), "s3cret\n");
      writeFileSync(join(dir, "empty"), "\n");
      expect(readSecret(join(dir, "good"))).toBe("s3cret");
      expect(() => readSecret(join(dir, "empty"))).toThrow(/empty/);
      expect(() => readSecret(join(dir, "gone"))).toThrow(ConfigurationError);
      expect(() => readSecret(join(dir, "gone"))).toThrow(join(dir, "gone"));
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
