/**
 * Problems that users of similar systems have reported, and Torpor's promises about them. Test
 * names carry the numbers (`S13: …`); docs/scenarios.md is generated from this table and those
 * names.
 */
interface Scenario {
  /** The problem that users reported. */
  report: string;
  promise: string;
  /** Set if no test guards the promise: the reason, and what a test would need. */
  untested?: string;
}

/** The first is S1. */
export const SCENARIOS: readonly Scenario[] = [
  {
    report: "Edits survive the first resume and are lost from the second on.",
    promise: "Memory and files are the same after any number of pauses and resumes.",
  },
  {
    report: "A resume fails once, and the sandbox is lost with it.",
    promise: "A failed resume leaves the snapshot untouched, and the next resume uses it.",
  },
  {
    report: "A pause succeeds, and the resume answers 404.",
    promise: "A sandbox whose pause was acknowledged is there until it is deleted.",
  },
  {
    report: "A pause succeeds, the upload of its snapshot fails, and the memory is lost.",
    promise:
      "A paused sandbox says how durable its snapshot is, and a damaged or incomplete one is refused before anything runs.",
  },
  {
    report: "A resume begins before the upload has ended, and reads half a snapshot.",
    promise: "A snapshot in the store is whole, or not there at all.",
  },
  {
    report: "A resume reports success, and the file system is empty.",
    promise: "Files written before a pause are there after pause, stop and start.",
  },
  {
    report: "Some runs end early, without an event or a reason.",
    promise: "Every end of a run has an event with its cause, which outlives the sandbox.",
  },
  {
    report: "A request body that comes in chunks is ignored, and its defaults apply.",
    promise: "A body counts however it is framed.",
  },
  {
    report: "Labels and metadata are lost by a pause.",
    promise: "Metadata and policies are kept over every transition.",
  },
  {
    report: "A sandbox is stuck while it starts, and its delete is refused.",
    promise: "A delete is accepted in every state and ends what is under way.",
  },
  {
    report: "A sandbox is stuck in its delete, and counts against the quota.",
    promise:
      "A deleted sandbox is gone for its owner at once; the host's clean-up is repeated until it is confirmed.",
  },
  {
    report: "A missing field leaves a sandbox in a state that nothing leads out of.",
    promise: "Every state but deleted has a way on.",
  },
  {
    report: "A full disk makes a pause or a move repeat for ever.",
    promise: "A full disk fails the operation with its name; the sandbox runs on.",
  },
  {
    report: "A sandbox is in the state error, and nothing tells why.",
    promise: "A sandbox in error always has a cause.",
  },
  {
    report: "A client disconnects, and the clean-up that was bound to its request stops half-way.",
    promise: "No operation depends on the client that asked for it.",
  },
  {
    report: "The VM is paused, and the record says pausing for ever.",
    promise: "No transitional state outlives the deadline of its operation.",
  },
  {
    report: "A loop of pauses and resumes leaves processes behind.",
    promise: "An ended VM leaves no process and nothing that it used of its host.",
  },
  {
    report: "A delete of a paused sandbox has to resume it first, and fails.",
    promise: "A paused sandbox is deleted without being resumed.",
  },
  {
    report: "A call to the VMM fails half-way and leaves a live VM that nothing owns.",
    promise:
      "Each call to a VMM may fail in every way: the repeat ends in the same place, with one VMM at most.",
  },
  {
    report: "A broken sandbox needs a support ticket.",
    promise: "A sandbox whose VMM has died is stopped, says why, and can be started by its user.",
  },
  {
    report: "A sandbox that is being paused cannot be started until that has ended.",
    promise: "A resume cancels a pause that is not committed, and never waits for the upload.",
  },
  {
    report: "A resume right after a pause answers OK and never happens.",
    promise: "An accepted operation is carried out, whatever message about it is lost.",
  },
  {
    report: "The sweeper for idle sandboxes pauses one that was just resumed.",
    promise: "Idle time counts from the newest resume.",
  },
  {
    report: "Pause, resume and connect at the same time lose one of the requests.",
    promise:
      "Requests that race are ordered: one executes, one waits, the others join or conflict.",
  },
  {
    report: "An automatic pause or deletion acts on a sandbox in the middle of something else.",
    promise: "An automatic pause asks the host and the guest last, and gives way to any use.",
  },
  {
    report: "A sandbox drops out of an index and is never expired or listed.",
    promise: "Rows are the only index: lists neither skip nor repeat a sandbox.",
  },
  {
    report: "A lock is released too early, and a create is carried out twice.",
    promise:
      "A create has one effect, however often it is repeated and however many schedulers begin it.",
  },
  {
    report: "A late writer overwrites a newer state, and a healthy sandbox shows an error.",
    promise: "Only newer observations apply, and every change compares before it sets.",
  },
  {
    report: "One place on a host is given to two sandboxes.",
    promise: "Capacity is claimed with the host's row locked, and never exceeded.",
  },
  {
    report: "A sandbox takes over what is left of an earlier run, or runs twice.",
    promise:
      "A VM of another run is never taken for the sandbox's: it is frozen, and discarded only when that is proven or asked for.",
  },
  {
    report: "Two callers wake a sandbox at the same time, and one of them gets a 409.",
    promise: "Concurrent requests for the same end share one operation.",
  },
  {
    report: "A reconnect or a resume loses the timeout or the policy.",
    promise: "Timeouts and policies are kept until a user changes them.",
  },
  {
    report: "A restarted agent kills or loses the VMs of its host.",
    promise: "VMs outlive the agent, which finds them and continues their operations.",
  },
  {
    report: "A host dies, and traffic to its paused sandboxes is answered 503 for ever.",
    promise:
      "A sandbox in the store is resumed elsewhere; one that cannot be says so with the reason.",
  },
  {
    report: "A restarted agent finds its network devices busy, and VMs are unreachable.",
    promise: "What a live VM uses stays as it is over a crash of the agent; the rest is removed.",
  },
  {
    report: "A host is drained, and its sandboxes still show as ready.",
    promise: "A drain moves sandboxes to other hosts, where they go on.",
  },
  {
    report: "A transient error removes the record of a VM that lives.",
    promise: "Silence and errors never delete a sandbox; only a delete does.",
  },
  {
    report: "A health loop evicts the only host again and again.",
    promise: "No host is lost while no scheduler could have renewed its lease.",
  },
  {
    report: "State in a process's memory is lost with the process, and VMs are orphaned.",
    promise: "Nothing that matters is in one process's memory alone: any of them may be killed.",
  },
  {
    report: "After a crash of the daemon only a full reset helps.",
    promise: "A killed process is started again and continues, without any repair by hand.",
  },
  {
    report: "An expired or abandoned request leaks its sandbox.",
    promise: "A sandbox whose create was abandoned, or whose timeout has run out, is deleted.",
  },
  {
    report: "A resume that is retried on another host pulls its snapshot again from the start.",
    promise: "A fetch continues with what has arrived, whatever its source.",
  },
  {
    report: "The lifetime ends while the memory is still being loaded.",
    promise: "The time that a sandbox sleeps or is being resumed does not count for its programs.",
  },
  {
    report: "A resume takes too long.",
    promise: "Resume times are measured, and published in benchmarks.md.",
    untested:
      "A time is no assertion on a shared machine: `./torpor bench lifecycle` measures it, and compares with an earlier result. A limit needs a machine of its own.",
  },
  {
    report: "A sandbox cannot be paused again right after its resume.",
    promise: "A resumed sandbox can be paused at once.",
  },
  {
    report: "Memory that is loaded on demand crashes the guest together with huge pages.",
    promise: "Memory is loaded whole, and its hash compared, before a vCPU runs.",
    untested:
      "Loading on demand is not used, so that there is nothing to guard. A test would need real KVM, huge pages, and a driver that loads on demand.",
  },
  {
    report: "The clock is wrong after a resume, and TLS fails.",
    promise: "The clock is right and the randomness new before any user code runs.",
  },
  {
    report: "A freeze of the wrong processes hangs the guest agent.",
    promise: "Helpers of the guest agent may be killed; a pause works all the same.",
  },
  {
    report: "A connect to a dead sandbox answers 200.",
    promise: "A connect answers 200 only when the sandbox runs.",
  },
  {
    report: "A placement fails, and the reason is hidden.",
    promise: "A refusal counts the hosts by what each of them lacks.",
  },
  {
    report: "Conflicts are answered with 400 or 500, and a misleading text.",
    promise: "A conflict is a 409 that names the state and what is allowed.",
  },
  {
    report: "A timeout of 0 or -10 is accepted, and the sandbox ends at once.",
    promise: "Values that make no sense are refused by the name of their field.",
  },
  {
    report: "A resume without a body is refused, and later requests fail.",
    promise: "A transition needs no body, whatever its content type says.",
  },
  {
    report: "Work inside the sandbox does not count as use, and it is stopped in the middle.",
    promise: "Commands, executions and open streams are use, no matter who started them.",
  },
  {
    report: "Time while paused counts against the timeout.",
    promise: "The timeout stops while the sandbox is paused or stopped.",
  },
];
