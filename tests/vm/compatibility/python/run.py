"""
Every public method of the official Python SDK against a fleet: `run.py sync` or `run.py async`,
with HOPX_BASE_URL and HOPX_API_KEY. One line of JSON for each case on standard output, and at the
end one with the public methods that no case names.
"""

import asyncio
import faulthandler
import json
import os
import sys
import time
import traceback

from hopx_ai.desktop import Desktop

from cases import CASES, Kit, Refused

import sandbox_cases  # noqa: F401  registers its cases, as do the next two
import code_cases  # noqa: F401
import last_cases  # noqa: F401

LIMIT_S = 540
#: Attributes of a sandbox that have a section of their own.
SECTIONS = {"files", "commands", "env", "cache", "terminal", "desktop"}


async def outcome(case, kit):
    try:
        return {"result": "works", "note": await case.run(kit)}
    except Refused as refused:
        return {"result": "refused", "note": str(refused)}
    except Exception as error:
        return {
            "result": "failed",
            "note": f"{type(error).__name__}: {error}\n{traceback.format_exc()}",
        }


def public(owner):
    return {name for name in dir(owner) if not name.startswith("_")} if owner is not None else set()


def uncovered(kit):
    """By section, what the SDK has and no case names: a new version of it may have more."""
    covered = {}
    for case in CASES:
        if case.only in (None, kit.kind):
            covered.setdefault(case.section.split(",")[0], set()).update(case.covers)
    owners = {"Sandbox": kit.Class}
    for name in SECTIONS & public(kit.Class):
        owners[f"sandbox.{name}"] = type(getattr(kit.box, name))
    known = {"Sandbox": SECTIONS | covered["templates"], "sandbox.desktop": public(Desktop)}
    left = {
        section: sorted(public(owner) - covered.get(section, set()) - known.get(section, set()))
        for section, owner in owners.items()
    }
    return {section: names for section, names in left.items() if names}


async def main(kind):
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    kit = Kit(kind)
    kit.api_key = os.environ["HOPX_API_KEY"]
    uncovered_names = None
    for case in CASES:
        if case.only not in (None, kind):
            continue
        started = time.monotonic()
        told = await outcome(case, kit)
        if uncovered_names is None and kit.box is not None:
            uncovered_names = uncovered(kit)
        seconds = round(time.monotonic() - started, 1)
        print(
            json.dumps({"section": case.section, "title": case.title, "seconds": seconds, **told}),
            flush=True,
        )
    print(json.dumps({"uncovered": uncovered_names}), flush=True)


asyncio.run(main(sys.argv[1]))
