"""
What a case has to work with, and the list of all of them: each is run with `Sandbox` (sync) and
with `AsyncSandbox` (async).
"""

import asyncio
import inspect
import os
import time

import hopx_ai

BASE_URL = os.environ["HOPX_BASE_URL"]
ACCESS = {"base_url": BASE_URL}
CASES = []


class Refused(Exception):
    """The call is refused, clearly and at once: the note says why. Such a row is no failure."""


class Case:
    def __init__(self, section, covers, run, only):
        self.section, self.covers, self.run, self.only = section, covers, run, only

    @property
    def title(self):
        return ", ".join(self.covers)


def case(section, *covers, only=None):
    """Decorates a coroutine of the kit, which returns a note or nothing."""

    def register(run):
        CASES.append(Case(section, covers, run, only))
        return run

    return register


async def go(value):
    """What a call returns, sync or async."""
    return await value if inspect.isawaitable(value) else value


async def items(stream, is_last=lambda item: False):
    seen = []
    if hasattr(stream, "__aiter__"):
        async for item in stream:
            seen.append(item)
            if is_last(item):
                break
    else:
        for item in stream:
            seen.append(item)
            if is_last(item):
                break
    return seen


def expect(actual, wanted):
    if actual != wanted:
        raise AssertionError(f"{actual!r} is not {wanted!r}")


def hold(condition, actual):
    if not condition:
        raise AssertionError(f"not so: {actual!r}")


async def until(what, look, limit_s=60):
    deadline = time.monotonic() + limit_s
    while not await look():
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {limit_s} s: {what}")
        await asyncio.sleep(0.2)


async def error_of(call):
    """The error that `call` raises."""
    try:
        await go(call())
    except hopx_ai.HopxError as error:
        return error
    raise AssertionError("it did not fail")


class Kit:
    """One class of the SDK, and the sandbox that its cases share."""

    def __init__(self, kind):
        self.kind = kind
        self.is_async = kind == "async"
        self.Class = hopx_ai.AsyncSandbox if self.is_async else hopx_ai.Sandbox
        self.box = None

    def limit(self, seconds):
        """The time limit of a run: each class has a name of its own for it."""
        return {"timeout_seconds" if self.is_async else "timeout": seconds}

    async def code(self, code, **more):
        return await go(self.box.run_code(code, **more))

    async def status(self, box=None):
        return (await go((box or self.box).get_info())).status
