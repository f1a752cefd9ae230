import { expect, test } from "vitest";
import { askedShape, fits, inOptions, shapeOf } from "../src/shape.ts";

test("what is not asked for has a default; what is asked for and is there again fits, in whatever order", () => {
  expect(shapeOf(askedShape([]))).toEqual({
    hosts: 2,
    gateways: 1,
    schedulers: 2,
    natsServers: 1,
    driver: "qemu",
  });
  const up = shapeOf(askedShape(["--hosts", "3", "--nats", "3"]));
  expect(inOptions(up)).toBe("--hosts 3 --schedulers 2 --gateways 1 --nats 3 --driver qemu");
  for (const again of [
    [],
    ["--hosts", "3"],
    ["--nats", "3", "--hosts=3"],
    inOptions(up).split(" "),
  ])
    expect(fits(askedShape(again), up)).toBe(true);
  for (const other of [
    ["--hosts", "2"],
    ["--hosts", "3", "--nats", "1"],
    ["--driver", "simulated"],
  ])
    expect(fits(askedShape(other), up)).toBe(false);
});

test.each([
  [["--hosts", "0"], '--hosts must be a number from 1 to 16, not "0"'],
  [["--hosts", ""], '--hosts must be a number from 1 to 16, not ""'],
  [["--gateways", "x"], '--gateways must be a number from 1 to 16, not "x"'],
  [["--schedulers", "17"], '--schedulers must be a number from 1 to 16, not "17"'],
  [["--nats", "2"], '--nats must be 1, 3 or 5, not "2"'],
  [["--driver", "xen"], '--driver must be qemu or simulated, not "xen"'],
])("%j is refused by name", (args, message) => {
  expect(() => askedShape(args)).toThrow(message);
});
