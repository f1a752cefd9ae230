export {
  type CoreHandler,
  handleRequests,
  request,
  type RequestHandler,
  type RequestReply,
  subscribeCore,
} from "./request.ts";
export { connectBus, serversIn, type Bus, type BusOptions } from "./connect.ts";
export {
  consume,
  type ConsumeOptions,
  type MessageContext,
  type MessageVerdict,
} from "./consume.ts";
export {
  type ConsumerState,
  ensureConsumer,
  ensureStreams,
  restoreMissing,
} from "./ensure-streams.ts";
export { Lanes } from "./lanes.ts";
export {
  maxMessageBytes,
  publish,
  publishCore,
  type OutgoingMessage,
  type Published,
} from "./publish.ts";
export { HOST_API_PREFIX, hostPermissions, hostServices, inboxPrefixOf } from "./permissions.ts";
export { createNatsKey, isNatsPublicKey, type NatsKey, publicKeyOf } from "./nats-key.ts";
export { busAccess, NATS_CREDENTIALS } from "./settings.ts";
