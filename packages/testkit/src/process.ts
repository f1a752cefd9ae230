/**
 * A server process of a test: can be ended and started again with its data, and ends with the test.
 */
import { isAlive, signalProcess } from "@torpor/service";
import { type Component, startProcess, stopProcess, waitHealthy } from "@torpor/fleet";

const READY_LIMIT_MS = 60_000;

export interface ServerProcess {
  start(): Promise<void>;
  stop(signal?: NodeJS.Signals): Promise<void>;
  signal(name: NodeJS.Signals): void;
}

export function serverProcess(component: Component, stopSignal: NodeJS.Signals): ServerProcess {
  return {
    start: async () => {
      if (component.process !== undefined && isAlive(component.process)) return;
      component.process = await startProcess(component);
      await waitHealthy(component, READY_LIMIT_MS, new AbortController().signal);
    },
    stop: async (signal = stopSignal) => {
      if (component.process !== undefined) await stopProcess(component.process, signal, 5_000);
      delete component.process;
    },
    signal: (name) => {
      if (component.process !== undefined) signalProcess(component.process, name);
    },
  };
}
