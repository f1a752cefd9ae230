"""What ends the sandbox."""

from cases import ACCESS, case, error_of, expect, go


async def is_deleted(kit, box):
    error = await error_of(lambda: box.get_info())
    expect(type(error).__name__, "NotFoundError")


@case("Sandbox", "kill")
async def kill(kit):
    await go(kit.box.kill())
    await is_deleted(kit, kit.box)


@case("Sandbox", "with")
async def context_manager(kit):
    if kit.is_async:
        async with kit.Class.create(template="code-interpreter", **ACCESS) as box:
            expect((await box.commands.run("echo in")).stdout, "in\n")
    else:
        with kit.Class.create(template="code-interpreter", **ACCESS) as box:
            expect(box.commands.run("echo in").stdout, "in\n")
    await is_deleted(kit, box)
    return "at the end of the block the sandbox is deleted"
