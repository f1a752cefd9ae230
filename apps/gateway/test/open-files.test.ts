import { describe, expect, test } from "vitest";
import { openFileLimit, shareOpenFiles } from "../src/open-files.ts";

const asked = (given: Partial<Parameters<typeof shareOpenFiles>[0]> = {}) => ({
  CONNECTIONS_PER_ADDRESS: 512,
  DATABASE_POOL_MAX: 20,
  ...given,
});

describe("open files", () => {
  test.each([2_812, 4_096, 20_000, 262_144, 1_048_576])(
    "LP3: of %d, no more are given out than there are",
    (limit) => {
      const { connections, previews } = shareOpenFiles(asked(), limit);
      expect(connections).toBeGreaterThanOrEqual(512);
      expect(connections).toBeLessThanOrEqual(20_000);
      expect(previews).toBeGreaterThanOrEqual(1_000);
      expect(connections * 3 + previews + 20 + 256).toBeLessThanOrEqual(limit);
    },
  );

  test("below a domain previews need none", () => {
    expect(shareOpenFiles(asked({ PUBLIC_DOMAIN: "example.com" }), 2_000)).toMatchObject({
      previews: 0,
    });
  });

  test.each([
    [{}, 1_024, 2_812],
    [{ CONNECTIONS_MAX: 10_000 }, 20_000, 31_276],
    [{ CONNECTIONS_PER_ADDRESS: 5_000 }, 10_000, 16_276],
    [{ CONNECTIONS_PER_ADDRESS: 0, DATABASE_POOL_MAX: 1_000 }, 1_024, 3_024],
    [{ PUBLIC_DOMAIN: "example.com" }, 1_024, 1_812],
  ])(
    "%o with %d: the refusal names %d, which is enough, and one less is not",
    (given, limit, wanted) => {
      expect(() => shareOpenFiles(asked(given), limit)).toThrow(
        new RegExp(`may have ${limit} files open.*ulimit -n ${wanted}\`.*LimitNOFILE=${wanted} `),
      );
      expect(() => shareOpenFiles(asked(given), wanted - 1)).toThrow(/raise the limit/);
      expect(shareOpenFiles(asked(given), wanted).connections).toBeGreaterThan(0);
    },
  );

  test("what is asked for is given, and no more", () => {
    expect(shareOpenFiles(asked({ CONNECTIONS_MAX: 2_000 }), 1_000_000).connections).toBe(2_000);
  });

  test("the limit is read as Linux writes it", () => {
    const limits = (soft: string) =>
      `Limit  Soft Limit  Hard Limit  Units\nMax open files            ${soft}                20000                files\n`;
    expect(openFileLimit(limits("1024"))).toBe(1_024);
    expect(openFileLimit(limits("unlimited"))).toBeGreaterThan(1e9);
    expect(openFileLimit()).toBeGreaterThan(0);
  });
});
