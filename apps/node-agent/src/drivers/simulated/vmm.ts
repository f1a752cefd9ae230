/**
 * The process of a simulated VM: `node vmm.ts <runDir> <guestPort>`, in the VM's directory. It starts with its vCPUs standing still.
 *
 * Control, one line per connection on `<runDir>/control.sock`: status | run | pause | save | load <base64>.
 * Guest: the toy of @torpor/simulated-guest, HTTP on 127.0.0.1:<guestPort>.
 */
import { createServer } from "node:net";
import { SimulatedGuest } from "@torpor/simulated-guest";

const [runDir = "", port = "0"] = process.argv.slice(2);
const guest = new SimulatedGuest({ diskPath: "disk.raw", onPowerOff: () => process.exit(0) });

const control: Record<string, (argument: string) => string> = {
  status: () => (guest.isRunning ? "running" : "paused"),
  run: () => {
    guest.run();
    return "ok";
  },
  pause: () => {
    guest.pause();
    return "ok";
  },
  save: () => guest.saveMemory().toString("base64"),
  load: (argument) => {
    guest.loadMemory(Buffer.from(argument, "base64"));
    return "ok";
  },
};

createServer({ allowHalfOpen: true }, (socket) => {
  let text = "";
  socket.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  socket.on("error", () => socket.destroy());
  socket.on("end", () => {
    const [name = "", argument = ""] = text.trim().split(" ");
    socket.end(control[name]?.(argument) ?? "unknown");
  });
}).listen(`${runDir}/control.sock`);

guest.server.listen(Number(port), "127.0.0.1");
