/** QEMU as this host drives it, for a program that drives the same one by itself. */
export { qemuArguments } from "./command-line.ts";
export { qmp } from "./qmp.ts";
