/** Rules of the product, each broken in one place, and the tests that must notice. */

export interface Guard {
  project: "unit" | "integration";
  /** The smallest set of test files that turns red. */
  guards: string[];
  /** A regular expression for the names of the tests that run, where not all of the files' do. */
  tests?: string;
}

export interface Mutation extends Guard {
  /** What is wrong with the product then. */
  name: string;
  /** The rule that no longer holds. */
  rule: string;
  file: string;
  /** Occurs exactly once in the file. */
  find: string;
  replace: string;
}

export const MUTATIONS: Mutation[] = [
  {
    name: "a sandbox that came to a host after its inventory was compared is not asked for",
    rule: "what has not been compared since it came, left or disagreed is asked for",
    file: "apps/scheduler/src/answer-asks.ts",
    find: "  return { reconciledInventory: reconciled, ...shown };",
    replace:
      "  return { reconciledInventory: reconciled, ...(shown.showSandboxes?.length === -1 ? shown : {}) };",
    project: "integration",
    guards: ["apps/scheduler/test/inventory-changes.it.test.ts"],
  },
  {
    name: "a check ends by a report from before the sandbox moved",
    rule: "what has not been compared since it came, left or disagreed is asked for",
    file: "packages/db/src/queries/beats.ts",
    find: "\n      AND host_checks.version = seen.version",
    replace: "",
    project: "integration",
    guards: ["apps/scheduler/test/inventory-changes.it.test.ts"],
  },
  {
    name: "changes are believed since an inventory that was not compared",
    rule: "absence is concluded from a whole inventory, or from the host's word",
    file: "packages/db/src/queries/beats.ts",
    find: "hosts.reconciled_inventory = seen.since AND ",
    replace: "",
    project: "integration",
    guards: ["tests/integration/db-beats.test.ts"],
  },
  {
    name: "a beat is heard before the uses that it tells of are recorded",
    rule: "a sandbox's use is recorded no later than the beat that tells of it",
    file: "packages/db/src/queries/beats.ts",
    find: "? sql`WHERE (SELECT count(*) FROM activity) >= 0`",
    replace: "? sql``",
    project: "integration",
    guards: ["tests/integration/db-beats.test.ts"],
  },
  {
    name: "the ticket of one run opens another",
    rule: "whoever opens a data plane shows a ticket for that run",
    file: "packages/contracts/src/host/tickets.ts",
    find: "`run/${sandboxId}/${epoch}`",
    replace: "`run/${sandboxId.length}/${typeof epoch}`",
    project: "unit",
    guards: ["apps/node-agent/test/data-plane.test.ts"],
  },
  {
    name: "another host than was meant is sent the request",
    rule: "a gateway sends nothing to a host before that has shown its own certificate",
    file: "packages/identity/src/fleet-tls.ts",
    find: "  if (found !== undefined && spiffeIdOf(found) === spiffeIdOf(expected)) return undefined;",
    replace: "  if (found !== undefined) return undefined;",
    project: "unit",
    guards: ["packages/identity/test/identity.test.ts"],
  },
  {
    name: "a token lets in as many hosts as come",
    rule: "a token lets one host join, once",
    file: "packages/db/src/queries/host-admissions.ts",
    find: 'if (token.usedAt !== null && !isRepeat) return refuse("used");',
    replace: "",
    project: "integration",
    guards: ["tests/integration/db-host-admissions.test.ts"],
  },
  {
    name: "a revoked host gets a lease",
    rule: "a host that is revoked has no keys and gets no lease",
    file: "packages/db/src/queries/hosts.ts",
    find: "    if (host.revokedAt !== null) return { granted: false, reason: wasRevoked(hostId, host.revokedAt) };\n",
    replace: "",
    project: "integration",
    guards: ["tests/integration/db-host-admissions.test.ts"],
  },
  {
    name: "observations are handled in the order in which they come",
    rule: "a host's observations wait for its own, not for others'",
    file: "apps/scheduler/src/worker.ts",
    find: '      laneOf: (subject) => hostIdOf(subject) ?? "",\n',
    replace: "",
    project: "integration",
    guards: ["apps/scheduler/test/strangers.it.test.ts"],
    tests: "waits for none of another host",
  },
  {
    name: "any number of a host's observations may wait in the stream",
    rule: "a host has a share of the stream",
    file: "packages/bus/src/ensure-streams.ts",
    find: "  if (maxMessagesPerSubject === undefined) return {};",
    replace: "  if (maxMessagesPerSubject !== 0) return {};",
    project: "integration",
    guards: ["apps/node-agent/test/reporter.it.test.ts"],
  },
  {
    name: "a host is asked for sandboxes of an image that it has not",
    rule: "sandboxes go to hosts that hold their image",
    file: "packages/placement/src/fleet.ts",
    find: '  if (!host.imageSha256s.includes(traits.imageSha256)) return "image_missing";\n',
    replace: "",
    project: "unit",
    guards: ["packages/placement/test/placement.test.ts"],
  },
  {
    name: "what is stored of a sandbox is garbage when it is asked for under another",
    rule: "nothing that is needed is named as garbage",
    file: "apps/scheduler/src/answer-asks.ts",
    find: "asked.storeKeys.filter((key) => isStoredOf(asked.sandboxId, key))",
    replace: "asked.storeKeys.filter((key) => isStoredOf(key.slice(0, 18), key))",
    project: "integration",
    guards: ["apps/scheduler/test/strangers.it.test.ts"],
    tests: "names nothing that is needed",
  },
  {
    name: "a host's questions take all turns",
    rule: "a host waits for its own questions, not for others'",
    file: "packages/bus/src/ask.ts",
    find: "const QUESTIONS_OF_A_HOST: LaneLimits = { atOnce: 16, atOncePerLane: 4, waiting: 64 };",
    replace:
      "const QUESTIONS_OF_A_HOST: LaneLimits = { atOnce: 1e6, atOncePerLane: 1e6, waiting: 1e6 };",
    project: "integration",
    guards: ["apps/scheduler/test/strangers.it.test.ts"],
    tests: "15,000 times",
  },
  {
    name: "the epoch of a command is not checked",
    rule: "lower (epoch, op_seq) is refused by the host",
    file: "apps/node-agent/src/lifecycle/accept.ts",
    find: "return command.epoch - record.epoch || command.opSeq - record.opSeq;",
    replace: "return command.opSeq - record.opSeq;",
    project: "integration",
    guards: ["apps/node-agent/test/accept.it.test.ts"],
  },
  {
    name: "a command is published before the commit",
    rule: "messages are published only after the transaction that wrote them has committed",
    file: "apps/scheduler/src/decide.ts",
    find: "  const decided = await decideFromRows(db, wanted, { decideFrom, onOvertaken });",
    replace:
      "  const early: typeof decideFrom = async (view) => {\n" +
      "    const decision = await decideFrom(view);\n" +
      "    const messages = decision.plan?.messages ?? [];\n" +
      "    await publishCommitted(messages.map((message, id) => ({ id, ...message })));\n" +
      "    return decision;\n" +
      "  };\n" +
      "  const decided = await decideFromRows(db, wanted, { decideFrom: early, onOvertaken });",
    project: "integration",
    guards: ["apps/scheduler/test/delete.it.test.ts"],
  },
  {
    name: "a file is not synced before it is renamed",
    rule: "after a power cut a reader sees the old content of a durable file or the new",
    file: "apps/node-agent/src/host/files.ts",
    find: "      await handle.writeFile(content);\n      await handle.sync();\n",
    replace: "      await handle.writeFile(content);\n",
    project: "unit",
    guards: ["apps/node-agent/test/files.test.ts"],
  },
  {
    name: "a user's file is not synced before it is renamed",
    rule: "what a file call has answered for is on the sandbox's disk",
    file: "packages/guest-agent/src/files/write-file.ts",
    find: "    await handle.chmod(mode);\n    await handle.sync();\n",
    replace: "    await handle.chmod(mode);\n",
    project: "unit",
    guards: ["packages/guest-agent/test/files-durable.test.ts"],
  },
  {
    name: "a command is acknowledged before it is journalled",
    rule: "a command is known, and acknowledged, once it is journalled",
    file: "apps/node-agent/src/lifecycle/accept.ts",
    find:
      "  await deps.store.writeJournal(command.spec.sandboxId, journal);\n" +
      "  return takeUp(host, entry, journal);\n",
    replace:
      "  const journalled = deps.store.writeJournal(command.spec.sandboxId, journal);\n" +
      "  const carryOut = takeUp(host, entry, journal);\n" +
      "  return () => journalled.then(carryOut);\n",
    project: "integration",
    guards: ["apps/node-agent/test/accept.it.test.ts"],
  },
  {
    name: "a cancelled start is launched",
    rule: "once a cancel is acknowledged, nothing launches what it cancels",
    file: "apps/node-agent/src/drivers/vmm-process.ts",
    find: "    signal.throwIfAborted();\n    return spawnDetached",
    replace: "    return spawnDetached",
    project: "integration",
    guards: ["apps/node-agent/test/launch.it.test.ts"],
    tests: "is about to launch",
  },
  {
    name: "the compare-and-set leaves the generation out",
    rule: "of two that move a sandbox at once one wins, and the other is told",
    file: "packages/db/migrations/0022_plans_in_sets.sql",
    find: "WHEN known.generation <> (plan->>'generation')::bigint",
    replace: "WHEN known.generation IS NULL",
    project: "integration",
    guards: ["tests/integration/db-moves.test.ts"],
  },
  {
    name: "no capacity is claimed",
    rule: "what a sandbox holds is reserved on its host, which never carries more than it has",
    file: "packages/plans/src/plan.ts",
    find: "claims: claimsBetween(sandbox, row),",
    replace: "claims: [],",
    project: "integration",
    guards: ["tests/integration/db-moves.test.ts"],
  },
  {
    name: "a lease counts from its answer",
    rule: "a host counts its lease from before it asked: it ends no later than the control plane's",
    file: "apps/node-agent/src/shell/membership.ts",
    find: ".renew(askedAtBootMs, reply.value.leaseMs)",
    replace: ".renew(bootMs(), reply.value.leaseMs)",
    project: "integration",
    guards: ["apps/node-agent/test/membership.it.test.ts"],
    tests: "a lease counts from before it was asked for",
  },
  {
    name: "the memory of a snapshot is not verified",
    rule: "a damaged snapshot is refused before the point of no return",
    file: "apps/node-agent/src/drivers/cloud-hypervisor/memory.ts",
    find: "Promise.all([api.restore(INBOX, limitMs), wrongHash(snapshotDir, files, signal)])",
    replace: "Promise.all([api.restore(INBOX, limitMs), undefined])",
    project: "integration",
    guards: ["apps/node-agent/test/cloud-hypervisor.it.test.ts"],
    tests: "it is refused before anything ran",
  },
  {
    name: "the token of another sandbox is accepted",
    rule: "a token opens its own sandbox only",
    file: "apps/gateway/src/tokens.ts",
    find: '{ algorithms: ["HS256"], issuer: ISSUER, subject: sandboxId }',
    replace: '{ algorithms: ["HS256"], issuer: ISSUER }',
    project: "unit",
    guards: ["apps/gateway/test/tokens.test.ts"],
  },
  {
    name: "a revoked token is accepted",
    rule: "a token is good until its sandbox's tokens are revoked",
    file: "apps/gateway/src/tokens.ts",
    find: "if (grant.generation < sandbox.tokenGeneration) return undefined;",
    replace: "if (grant.generation > sandbox.tokenGeneration) return undefined;",
    project: "unit",
    guards: ["apps/gateway/test/tokens.test.ts"],
  },
  {
    name: "a key with any scope passes",
    rule: "a route lets in only keys with the scope that it declares",
    file: "apps/gateway/src/scopes.ts",
    find: "  if (missing !== undefined) throw scopeMissing(missing, owned);\n",
    replace:
      "  if (owned.length === 0 && missing !== undefined) throw scopeMissing(missing, owned);\n",
    project: "unit",
    guards: ["apps/gateway/test/scopes.test.ts"],
  },
  {
    name: "a preview's cookie counts for the pages of others",
    rule: "what a page of another site or sandbox asks of a preview is not its visitor's",
    file: "apps/gateway/src/edge/preview-session.ts",
    find: "if (!isPreview(door) || !isOwnOrigin(headers.origin, headers.host)) return false;",
    replace: "if (!isPreview(door)) return false;",
    project: "unit",
    guards: ["apps/gateway/test/preview-session.test.ts"],
  },
  {
    name: "the loopback edge serves whoever reaches the machine",
    rule: "the loopback edge serves nothing from outside",
    file: "apps/gateway/src/edge/server.ts",
    find: "const isServed = serves?.(localAddress) ?? true;",
    replace: "const isServed = true;",
    project: "unit",
    guards: ["apps/gateway/test/edge-server.test.ts"],
  },
  {
    name: "one sandbox's connections take those of all",
    rule: "one client's flood makes no other wait",
    file: "apps/gateway/src/edge/server.ts",
    find: "|| there >= maxPerAddress",
    replace: "",
    project: "unit",
    guards: ["apps/gateway/test/edge-server.test.ts"],
  },
  {
    name: "every event of a sandbox makes who waits read",
    rule: "a request that waits reads its operation's row when the end is told, and once an interval",
    file: "apps/gateway/src/wait-for-operation.ts",
    find: "if (event.operationId === operationId) return false;",
    replace: "if (event.operationId === operationId) return true;",
    project: "integration",
    guards: ["apps/gateway/test/wait-for-operation.it.test.ts"],
  },
  {
    name: "an end that was heard before the wait began is forgotten",
    rule: "a request that waits reads its operation's row when the end is told, and once an interval",
    file: "apps/gateway/src/wait-for-operation.ts",
    find: "!isNew || deps.events.hasEnded(id)",
    replace: "!isNew",
    project: "integration",
    guards: ["apps/gateway/test/wait-for-operation.it.test.ts"],
  },
  {
    name: "an operation whose command can never be sent waits for its deadline",
    rule: "an operation whose message can never be sent ends with the reason",
    file: "packages/db/src/queries/refused-messages.ts",
    find: '"waiting" ? "intent" : "command"',
    replace: '"waiting" ? "intent" : "none"',
    project: "integration",
    guards: ["apps/scheduler/test/unsendable.it.test.ts"],
  },
  {
    name: "one key's flood takes all turns at the database",
    rule: "one client's flood makes no other wait",
    file: "apps/gateway/src/database-turns.ts",
    find: "lanes.add(lane, atItsTurn)",
    replace: "lanes.add(OWN_LANE, atItsTurn)",
    project: "unit",
    guards: ["apps/gateway/test/database-turns.test.ts"],
  },
  {
    name: "a deleted sandbox is listed",
    rule: "a sandbox that is deleted is in no list, from the tombstone on",
    file: "packages/db/src/queries/sandboxes.ts",
    find: "        isAlive,\n        filter.states === undefined",
    replace: "        filter.states === undefined",
    project: "integration",
    guards: ["tests/integration/db-operations.test.ts"],
  },
  {
    name: "a route asks for every organization",
    rule: "what a tenant's request asks the database, it asks for its own organization",
    file: "apps/gateway/src/routes/patch-sandbox.ts",
    find: "patchSandbox(forOrganization(deps.db, organizationId), id,",
    replace: "patchSandbox(deps.db, id,",
    project: "integration",
    guards: ["tests/integration/gateway-organizations.test.ts"],
  },
  {
    name: "quotas are counted without their lock",
    rule: "an organization never has more than its quotas, whoever asks together",
    file: "packages/db/src/queries/quotas.ts",
    find: '    .for("update");\n',
    replace: "    .limit(1);\n",
    project: "integration",
    guards: ["tests/integration/db-quotas.test.ts"],
    tests: "of 40 creates",
  },
];
