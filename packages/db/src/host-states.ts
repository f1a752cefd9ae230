/** `lost`: its lease ran out. `retired`: will not come back. Only `ready` hosts get new sandboxes. */
export const HOST_STATES = ["ready", "cordoned", "draining", "lost", "retired"] as const;
export type HostState = (typeof HOST_STATES)[number];
