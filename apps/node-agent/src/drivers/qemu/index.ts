/** The parts of the QEMU driver for a program that drives QEMU itself. */
export { qemuArguments } from "./command-line.ts";
export { qmp } from "./qmp.ts";
