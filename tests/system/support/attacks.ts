/**
 * The attacks that strangers.test.ts tries against a live fleet, and the outcome of each. The table
 * of docs/threat-model.md is written from this one (`pnpm generate`). The code of the attacks is in
 * attacks-of-hosts.ts and attacks-of-clients.ts.
 */
interface Attack {
  /** Text in the documentation. */
  attack: string;
  outcome: string;
  /** The ordinary run tries this attack, too: one of a host, and one of a client. */
  isOrdinary?: true;
}

export const ATTACKS_OF_HOSTS = {
  replies: {
    attack: "a host names JetStream's API as the place of answers, 50 times a second",
    outcome: "no stream is touched",
  },
  others: {
    attack: "a host sends reports, heartbeats and requests as another host, 100 times a second",
    outcome: "refused by the NATS server; the other's sandboxes and lease stay as they are",
  },
  registrations: {
    attack: "a host registers `not a url`, or port 94011, as its address, 20 times a second",
    outcome: "refused, with the reason; every other sandbox's address is served",
  },
  templates: {
    attack: "a host registers another image under a template's name, 10 times a second",
    outcome: "templates stay as they are",
  },
  bounds: {
    attack: "a host reports numbers and texts that no database stores, 100 times a second",
    outcome: "each is rejected once, and none is delivered again",
  },
  ungiven: {
    attack:
      "a host reports 300 times, with numbers that were never given out, on another's sandbox",
    outcome: "nothing is applied, and each is delivered once",
  },
  questions: {
    attack: "a host asks for its lease 500 times a second",
    outcome: "others' leases are renewed",
    isOrdinary: true,
  },
  findings: {
    attack: "a host reports sandboxes that there are not, 100 a second",
    outcome: "1,000 findings are kept, the rest is only counted",
  },
  commits: {
    attack:
      "a host asks to commit others' operations, and what of others' is garbage, 50 times a second",
    outcome: "refused; nothing that is kept is named as garbage",
  },
} as const satisfies Record<string, Attack>;

export const ATTACKS_OF_CLIENTS = {
  streams: {
    attack: "an operator removes the stream of events, once a second",
    outcome: "made again; requests and transitions go on",
  },
  operatorRoutes: {
    attack: "a tenant's key calls the routes of operators, 50 times a second",
    outcome: "403; hosts and findings stay as they are",
  },
  foreign: {
    attack: "a tenant reads, pauses and deletes another's sandbox, 50 times a second",
    outcome: "404; it runs on",
  },
  lists: {
    attack: "another tenant lists 30 times a second",
    outcome: "answered",
  },
  parameters: {
    attack: "a list with a parameter that there is not, `?metdata[job]=a` say, 50 times a second",
    outcome: "400 that names it",
  },
  variables: {
    attack: "creates with 1 MiB of environment variables, 5 a second",
    outcome: "400 before anything is written",
  },
  keys: {
    attack: "100 wrong API keys a second, of one address",
    outcome: "401, then 429; keys that are good go on, from the same address too",
    isOrdinary: true,
  },
  links: {
    attack: "100 wrong links to a preview a second, of one address",
    outcome: "401, then 429; who has a token passes, from the same address too",
  },
  connections: {
    attack: "600 connections that say nothing, to the API and to a sandbox's address each",
    outcome:
      "those over an address's 512 are closed; who has a key passes, from the same address too",
  },
  bodies: {
    attack: "100 requests whose bodies come a byte at a time, without a credential",
    outcome: "answered 401 before their bodies, and closed",
  },
  probes: {
    attack: "`GET /health` of a paused sandbox without a token, 50 times a second",
    outcome: "409; it sleeps on",
  },
  tab: {
    attack: "a page that comes back whenever its sandbox was paused",
    outcome: "its pauses come later, and its events say why",
  },
  headers: {
    attack: "headers of 70 KiB, 20 requests a second, to the API and to a sandbox's address",
    outcome: "431, JSON with a request id",
  },
  malformed: {
    attack: "what is no HTTP, 50 times a second, to the API and to a sandbox's address",
    outcome: "400, JSON with a request id",
  },
} as const satisfies Record<string, Attack>;

export type HostAttack = keyof typeof ATTACKS_OF_HOSTS;
export type ClientAttack = keyof typeof ATTACKS_OF_CLIENTS;

const BEGIN = "<!-- Written by `pnpm generate` from tests/system/support/attacks.ts. -->\n";
const END = "<!-- End of what is generated. -->\n";

/** Returns the document with the current table. Throws when the document has no place for it. */
export function withAttacks(document: string): string {
  const [before, rest] = document.split(BEGIN);
  const after = rest?.split(END)[1];
  if (before === undefined || after === undefined)
    throw new Error(`the document has no place for the attacks: ${BEGIN}…${END}`);
  const all: Attack[] = [...Object.values(ATTACKS_OF_HOSTS), ...Object.values(ATTACKS_OF_CLIENTS)];
  const rows = all.map(({ attack, outcome }) => `| ${attack} | ${outcome} |\n`).join("");
  return `${before}${BEGIN}\n| attack | outcome |\n|---|---|\n${rows}\n${END}${after}`;
}
