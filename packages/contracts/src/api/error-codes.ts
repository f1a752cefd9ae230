/**
 * The codes that a client can see: of responses, with their HTTP status, and of causes, which
 * explain why an operation ended or why a sandbox is in its state. Codes are API: never renamed,
 * never reused, and only an outage is a 5xx. docs/errors.md is generated from these tables.
 */
export interface ErrorCodeMeaning {
  status: number;
  when: string;
  /** Advice for the client. */
  remedy: string;
}

const SEND_AGAIN = "Send the request again; `Retry-After` says when.";

export const ERROR_CODES = {
  INVALID_REQUEST: {
    status: 400,
    when: "A field, parameter or header is wrong.",
    remedy: "Correct what `details.fields` names.",
  },
  INVALID_JSON: { status: 400, when: "The body is not JSON.", remedy: "Correct the body." },
  MISSING_PARAMETER: {
    status: 400,
    when: "A required field is not there.",
    remedy: "Add what `details.fields` names.",
  },
  AUTHENTICATION_REQUIRED: {
    status: 401,
    when: "The request has no API key, and no token.",
    remedy: "Send the key in `X-API-Key`, or the token of the sandbox.",
  },
  INVALID_TOKEN: {
    status: 401,
    when: "The key, token or link is unknown, revoked, expired, or for something else.",
    remedy: "Get a new one.",
  },
  FORBIDDEN: {
    status: 403,
    when: "The key may not do this: building a template, giving away more than it has, joining as another host.",
    remedy: "Use a key that may.",
  },
  SCOPE_MISSING: {
    status: 403,
    when: "The key lacks a scope.",
    remedy: "Use a key with the scope that `details.missing_scope` names.",
  },
  QUOTA_EXCEEDED: {
    status: 403,
    when: "The organization has used up a quota.",
    remedy: "End what `details.quota` counts; `details` has `limit`, `used` and `needed`.",
  },
  SANDBOX_NOT_FOUND: {
    status: 404,
    when: "There is no such sandbox in the organization, or it was deleted.",
    remedy: "Create one; its events say why it ended.",
  },
  TEMPLATE_NOT_FOUND: {
    status: 404,
    when: "There is no such template.",
    remedy: "Use one of `details.known_templates`.",
  },
  RESOURCE_NOT_FOUND: {
    status: 404,
    when: "There is no such path, host, operation, key or other resource in the organization.",
    remedy: "Correct the path or the id.",
  },
  PORT_NOT_OPEN: {
    status: 404,
    when: "Nothing listens on the port of a preview.",
    remedy: "Start a server in the sandbox.",
  },
  ENDPOINT_NOT_FOUND: {
    status: 404,
    when: "The guest agent has no such path.",
    remedy: "See [sandbox-api.md](sandbox-api.md).",
  },
  SNAPSHOT_NOT_HERE: {
    status: 404,
    when: "Between hosts: the host does not hold the snapshot.",
    remedy: "The asking host fetches it from the store.",
  },
  REQUEST_TIMEOUT: {
    status: 408,
    when: "The request did not arrive whole within 30 s.",
    remedy: "Send it again.",
  },
  CONFLICT: {
    status: 409,
    when: "The state of the resource does not allow the request; also traffic to a paused sandbox.",
    remedy:
      "See `details`: `current_state`, `requested`, `allowed`, and `blocking_operation` if there is one.",
  },
  SANDBOX_CREATING: {
    status: 409,
    when: "Traffic to a sandbox that is still being created.",
    remedy: "Wait for its create.",
  },
  SANDBOX_STOPPED: {
    status: 409,
    when: "Traffic to a sandbox that is stopped.",
    remedy: "Start it.",
  },
  SANDBOX_NOT_RUNNING_HERE: {
    status: 409,
    when: "The sandbox left its host while the request was on its way.",
    remedy: "Check what was carried out, then send the request again.",
  },
  CONNECTION_LOST: {
    status: 409,
    when: "The connection to the sandbox broke before it answered.",
    remedy: "Check what was carried out before you send the request again.",
  },
  PREVIEW_UNAVAILABLE: {
    status: 409,
    when: "The port of a preview cannot be reached for another reason than that nothing listens.",
    remedy: "See the message.",
  },
  ANSWER_HEADERS_TOO_LARGE: {
    status: 409,
    when: "The headers of an application's answer are larger than 64 KiB together.",
    remedy: "Make them smaller; the request was carried out.",
  },
  SNAPSHOT_UNREADABLE: {
    status: 409,
    when: "Between hosts: the host cannot read the snapshot that it holds.",
    remedy: "The asking host fetches it from the store.",
  },
  OPERATION_CANCELLED: {
    status: 409,
    when: "The operation backed out before it was committed.",
    remedy: "Ask again if you still want it.",
  },
  OPERATION_SUPERSEDED: {
    status: 409,
    when: "A later request replaced the operation.",
    remedy: "Look at the sandbox; ask again if you still want it.",
  },
  OPERATION_TIMEOUT: {
    status: 409,
    when: "The operation was not carried out within its time limit; the sandbox is as before.",
    remedy: "Ask again; `Retry-After` is set where a start did not begin in time.",
  },
  OPERATION_FAILED: {
    status: 409,
    when: "The operation failed, and its host gave no other reason.",
    remedy: "Look at the sandbox, then ask again.",
  },
  SANDBOX_DELETED: {
    status: 410,
    when: "A request with an `Idempotency-Key` was carried out, and its sandbox deleted since.",
    remedy: "Use a new key for another sandbox. `details` has `sandbox_id` and `operation_id`.",
  },
  PAYLOAD_TOO_LARGE: {
    status: 413,
    when: "The body is too large.",
    remedy: "Send less.",
  },
  UNSUPPORTED_MEDIA_TYPE: {
    status: 415,
    when: "The body is not sent as JSON.",
    remedy: "Send `Content-Type: application/json`.",
  },
  IDEMPOTENCY_KEY_REUSED: {
    status: 422,
    when: "The `Idempotency-Key` came before with another request.",
    remedy: "Use a new key for a new request.",
  },
  RESOURCE_LIMIT_ERROR: {
    status: 429,
    when: "No host had room in time, or the right labels, image or processor.",
    remedy:
      "Send it again later with the same `Idempotency-Key`, waiting longer each time, or ask for less; `details.reasons` counts the hosts by what each lacks ([placement.md](placement.md)).",
  },
  RATE_LIMIT_EXCEEDED: {
    status: 429,
    when: "There were too many requests in a minute or at once, too many wrong keys, too many that wait for one sandbox, or too many starts before this one on its host.",
    remedy: "Wait for as long as `Retry-After` and `details.retry_after_seconds` say.",
  },
  HEADERS_TOO_LARGE: {
    status: 431,
    when: "The headers of the request are larger than 64 KiB together.",
    remedy: "Send fewer.",
  },
  INTERNAL_ERROR: {
    status: 500,
    when: "Torpor made a mistake.",
    remedy: "Report it with the request id, under which it was logged.",
  },
  OPERATION_IN_PROGRESS: {
    status: 503,
    when: "The operation has not ended within the time that a request waits; it continues.",
    remedy: "Send the request again to wait longer, or read the operation.",
  },
  SERVICE_UNAVAILABLE: {
    status: 503,
    when: "The database, the schedulers or the sandbox's host cannot be reached. Nothing was carried out.",
    remedy: SEND_AGAIN,
  },
} as const satisfies Record<string, ErrorCodeMeaning>;

export type ErrorCode = keyof typeof ERROR_CODES;

/** True if an operation that ends with this cause gets a 429, because a later retry may succeed. */
export function isRefusedForNow(code: string): boolean {
  return Object.hasOwn(ERROR_CODES, code) && ERROR_CODES[code as ErrorCode].status === 429;
}

/**
 * Causes of operations, events and drains that are not codes of responses. An operation that ends
 * with such a cause gets a 409 with that code.
 */
export const CAUSE_CODES = {
  SANDBOX_ACTIVE: {
    when: "An automatic pause found the sandbox in use and gave up.",
    remedy: "Nothing: the sandbox runs on.",
  },
  CREATE_FAILED: {
    when: "The host could not create the sandbox.",
    remedy: "Read the message; create another one.",
  },
  START_FAILED: {
    when: "The host could not start the sandbox; its files are kept.",
    remedy: "Read the message; start it again.",
  },
  PAUSE_FAILED: {
    when: "The pause failed, and the sandbox runs on.",
    remedy: "Read the message (a full disk, for example); pause it again.",
  },
  RESUME_FAILED: {
    when: "The VMM could not be started; the snapshot is untouched.",
    remedy: "Resume it again.",
  },
  MEMORY_LOST: {
    when: "The VMM ended in the middle of a pause or resume, and the memory is lost; the files are kept.",
    remedy: "Start the sandbox.",
  },
  SNAPSHOT_INVALID: {
    when: "The snapshot is damaged or incomplete, and nothing of it was run.",
    remedy: "Stop the sandbox to keep its files, or restore the host's disk.",
  },
  SNAPSHOT_INCOMPATIBLE: {
    when: "The snapshot cannot be restored by this host's VMM or processor.",
    remedy: "Resume it where a host can; see [hosts.md](operate/hosts.md).",
  },
  SNAPSHOT_UNAVAILABLE: {
    when: "The snapshot could not be fetched from its host or the store.",
    remedy: "Ask again when one of them is back.",
  },
  REPLICATION_FAILED: {
    when: "The snapshot could not be copied to the store.",
    remedy: "Mend the store; the next pause that waits for it copies again.",
  },
  NO_SNAPSHOT_STORE: {
    when: "The host has no snapshot store.",
    remedy: "Configure one; see [snapshots.md](snapshots.md).",
  },
  VMM_UNRESPONSIVE: {
    when: "The VMM does not answer, so that the sandbox cannot be paused.",
    remedy: "Wait until it answers, or stop the sandbox.",
  },
  VMM_KILLED: {
    when: "The VMM was killed, by hand or because the host's memory ran out.",
    remedy: "Start the sandbox; its files are kept.",
  },
  VMM_FAILED: {
    when: "The VMM failed.",
    remedy: "Start the sandbox; report the message.",
  },
  VMM_ENDED: {
    when: "The VMM ended, and nothing says why.",
    remedy: "Start the sandbox.",
  },
  GUEST_POWERED_OFF: {
    when: "The guest powered off.",
    remedy: "Start the sandbox.",
  },
  GUEST_PANICKED: {
    when: "The guest's kernel panicked.",
    remedy: "Start the sandbox.",
  },
  GUEST_RESTARTED: {
    when: "The guest restarted, and its memory is lost.",
    remedy: "Start the sandbox.",
  },
  HOST_RESTARTED: {
    when: "The host was restarted while the sandbox ran.",
    remedy: "Start the sandbox.",
  },
  VM_FROZEN: {
    when: "The VM is frozen, because its host had no lease; the operation was not begun.",
    remedy: "Ask again when the host is back.",
  },
  HOST_LEASE_ENDED: {
    when: "The host's lease ended, so that the sandbox could not run once more to save its files.",
    remedy: "Ask again when the host is back.",
  },
  HOST_ERROR: {
    when: "The host failed to carry out the command.",
    remedy: "Read the message; ask again.",
  },
  HOST_REPORTED_FAILURE: {
    when: "The host reported that the sandbox cannot continue, and gave no reason.",
    remedy: "Read the host's log; delete the sandbox.",
  },
  HOST_LOST: {
    when: "The host is lost. A run with `on_host_loss: restore` is restored elsewhere.",
    remedy: "Ask again; what is in the store can be resumed elsewhere.",
  },
  HOST_RETIRED: {
    when: "The lost host was retired, and its clean-up with it.",
    remedy: "Nothing.",
  },
  LEASE_ENDED: {
    when: "A host did not renew its lease.",
    remedy: "Look at the host.",
  },
  NOTHING_TO_RESTORE: {
    when: "No snapshot of the sandbox was ever in the store.",
    remedy: "Wait for the host.",
  },
  HOST_NOT_FENCED: {
    when: "No fence ran on the lost host, so that the VM may still run.",
    remedy: "Wait for the host, or retire it.",
  },
  POLICY_NOT_IN_FORCE: {
    when: "The run began before `on_host_loss: restore` was set.",
    remedy: "Wait for the host.",
  },
  RESUMED_TOO_SOON: {
    when: "The sandbox was resumed soon after automatic pauses.",
    remedy: "Raise `idle_seconds`, or find out what wakes it.",
  },
  MESSAGE_NOT_SENDABLE: {
    when: "The command is too large for the message servers.",
    remedy: "Send less, or raise their limit.",
  },
  UNKNOWN_COMMAND: {
    when: "The host's agent is too old for the command.",
    remedy: "Upgrade the agent.",
  },
  DRAIN_EXPIRED: {
    when: "The host was not empty by the drain's deadline.",
    remedy: "Drain it again with more time.",
  },
  NO_CAPACITY_ELSEWHERE: {
    when: "No other host can take the sandbox, so the drain waits.",
    remedy: "Add room.",
  },
  NOT_REPLICATED: {
    when: "The sandbox could not be copied, so the drain cannot move it.",
    remedy: "Look at the store.",
  },
  SANDBOX_RESUMED: {
    when: "The sandbox was resumed while it was being moved; the drain tries again later.",
    remedy: "Nothing.",
  },
  SANDBOX_IN_ERROR: {
    when: "The sandbox is in the state error, and cannot be moved.",
    remedy: "Delete it.",
  },
  DISCARD_REQUESTED: {
    when: "An operator asked the host to discard a copy.",
    remedy: "Nothing.",
  },
  SANDBOX_UNKNOWN: {
    when: "The host has a sandbox that the database does not know.",
    remedy: "See [hosts.md](operate/hosts.md).",
  },
  SANDBOX_STALE: {
    when: "The host has a copy of a sandbox that is elsewhere.",
    remedy: "See [hosts.md](operate/hosts.md).",
  },
  SANDBOX_MISSING: {
    when: "The host does not have a sandbox that the database places on it.",
    remedy: "See [hosts.md](operate/hosts.md).",
  },
} as const satisfies Record<string, Omit<ErrorCodeMeaning, "status">>;
