import { loadConfig } from "@torpor/service";
import { type Static, Type } from "typebox";

const Environment = Type.Object({
  LOG_LEVEL: Type.String({ default: "info" }),
  DATABASE_URL: Type.String({ pattern: "^postgres(ql)?://" }),
  NATS_URL: Type.String({ pattern: "^(nats|tls)://" }),
  NATS_USER: Type.Optional(Type.String()),
  NATS_PASSWORD_FILE: Type.Optional(Type.String()),
  LISTEN_HOST: Type.String({ default: "127.0.0.1" }),
  LISTEN_PORT: Type.Integer({ minimum: 0, maximum: 65_535, default: 8787 }),
  EDGE_PORT: Type.Integer({ minimum: 1, maximum: 65_535, default: 7777 }),
  TOKEN_SECRET_FILE: Type.String(),
  HOST_DATA_KEY_FILE: Type.String(),
  REGION: Type.String({ default: "local" }),
  SHUTDOWN_GRACE_MS: Type.Integer({ minimum: 100, default: 10_000 }),
});
export type Config = Static<typeof Environment>;

export const configFrom = (env: NodeJS.ProcessEnv): Config => loadConfig(Environment, env);
