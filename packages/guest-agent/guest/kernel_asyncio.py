"""asyncio in a cell as in a script: a cell is called by the kernel's own event loop, in which
asyncio refuses to run another one, or the same one again.

`asyncio.run`, `Runner.run` and the `run_…` of a loop of the user's own run as if no loop were
running: nothing of the kernel's is entered a second time. What runs in the kernel's loop itself
(the one that `get_event_loop` gives, and `create_task` without a `run`) is stepped on from within.
"""

import asyncio
import asyncio.tasks
import functools
from asyncio import base_events, events, runners


def allow_nested_runs(kernel_loop):
    asyncio.run = runners.run = outside(kernel_loop, runners.run)
    runners.Runner.run = outside(kernel_loop, runners.Runner.run)
    loop = base_events.BaseEventLoop
    loop.run_forever = outside(kernel_loop, loop.run_forever)
    loop.run_until_complete = nested(kernel_loop, outside(kernel_loop, loop.run_until_complete))


def outside(kernel_loop, run):
    @functools.wraps(run)
    def call(*args, **kwargs):
        # Inside a loop of the user's own, asyncio refuses as usual.
        if events._get_running_loop() is not kernel_loop or args[:1] == (kernel_loop,):
            return run(*args, **kwargs)
        task = leave(kernel_loop)
        try:
            return run(*args, **kwargs)
        finally:
            enter(kernel_loop, task)
            events.set_event_loop(kernel_loop)

    return call


def nested(kernel_loop, run):
    @functools.wraps(run)
    def call(self, future):
        if self is not kernel_loop or events._get_running_loop() is not kernel_loop:
            return run(self, future)
        return step_until_done(self, asyncio.ensure_future(future, loop=self))

    return call


def step_until_done(loop, future):
    # The loop iteration that called this function expects at least this many ready handles.
    waiting = len(loop._ready)
    task = leave(loop)
    events._set_running_loop(loop)
    try:
        while not future.done():
            loop._run_once()
    finally:
        enter(loop, task)
        for _ in range(waiting - len(loop._ready)):
            loop.call_soon(lambda: None)
    return future.result()


def leave(loop):
    task = asyncio.tasks.current_task(loop)
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    events._set_running_loop(None)
    return task


def enter(loop, task):
    events._set_running_loop(loop)
    if task is not None:
        asyncio.tasks._enter_task(loop, task)
