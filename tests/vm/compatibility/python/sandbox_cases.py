"""Sandbox and AsyncSandbox: what a sandbox is, and templates."""

import json
import urllib.request

import hopx_ai
from cases import ACCESS, BASE_URL, Refused, case, error_of, expect, go, hold, items

TEMPLATE = "code-interpreter"
READ_GREETING = "import os; print(os.environ['GREETING'])"


@case("Sandbox", "create")
async def create(kit):
    kit.box = await go(
        kit.Class.create(
            template=TEMPLATE, env_vars={"GREETING": "hello"}, timeout_seconds=3000, **ACCESS
        )
    )
    expect((await kit.code(READ_GREETING)).stdout, "hello\n")
    expect((await go(kit.box.get_info())).timeout_seconds, 3000)
    error = await error_of(lambda: kit.Class.create(template="code-interpreta", **ACCESS))
    expect(type(error).__name__, "TemplateNotFoundError")
    error = await error_of(
        lambda: kit.Class.create(template=TEMPLATE, env_vars={"A": "x" * 200_000}, **ACCESS)
    )
    expect((type(error).__name__, error.code), ("ValidationError", "INVALID_REQUEST"))
    hold("env_vars.A" in error.message, error.message)


@case("Sandbox", "connect")
async def connect(kit):
    box = await go(kit.Class.connect(kit.box.sandbox_id, **ACCESS))
    expect((await go(box.run_code("print('connected')"))).stdout, "connected\n")


@case("Sandbox", "debug", only="sync")
async def debug(kit):
    box = kit.Class.debug(kit.box.get_info().public_host, kit.box.get_token())
    expect(box.run_code("print('direct')").stdout, "direct\n")
    return "with the sandbox's public_host and token, past the control plane"


@case("Sandbox", "pause", "resume")
async def pause(kit):
    await kit.code("kept = 42")
    await go(kit.box.pause())
    expect(await kit.status(), "paused")
    await go(kit.box.resume())
    expect(await kit.status(), "running")
    expect((await kit.code("print(kept)")).stdout, "42\n")


@case("Sandbox", "list", "iter")
async def list_and_iter(kit):
    listed = await go(kit.Class.list(status="running", limit=50, **ACCESS))
    hold(kit.box.sandbox_id in [one.sandbox_id for one in listed], listed)
    seen = await items(
        kit.Class.iter(region="local", **ACCESS), lambda one: one.sandbox_id == kit.box.sandbox_id
    )
    expect(seen[-1].sandbox_id, kit.box.sandbox_id)


@case("Sandbox", "get_info")
async def get_info(kit):
    info = await go(kit.box.get_info())
    expect(
        (info.sandbox_id, info.status, info.template_name),
        (kit.box.sandbox_id, "running", TEMPLATE),
    )
    expect((info.resources.vcpu, info.resources.memory_mb), (1, 512))


@case("Sandbox", "set_timeout", "get_time_to_expiry", "is_expiring_soon", "get_expiry_info")
async def expiry(kit):
    await go(kit.box.set_timeout(3600))
    left = await go(kit.box.get_time_to_expiry())
    hold(3000 < left <= 3600, left)
    expect(await go(kit.box.is_expiring_soon(60)), False)
    expect(await go(kit.box.is_expiring_soon(7200)), True)
    info = await go(kit.box.get_expiry_info())
    expect((info.has_timeout, info.is_expired), (True, False))
    return "counts while the sandbox runs"


@case("Sandbox", "refresh_token", "get_token")
async def tokens(kit):
    before = await go(kit.box.get_token())
    await go(kit.box.refresh_token())
    hold(await go(kit.box.get_token()) != before, before)
    expect((await kit.code("print(1)")).stdout, "1\n")
    return "every token stays good until the sandbox is deleted"


@case("Sandbox", "is_healthy", "ensure_healthy", "health_check")
async def health(kit):
    expect(await go(kit.box.is_healthy()), True)
    await go(kit.box.ensure_healthy())
    expect((await go(kit.Class.health_check(**ACCESS)))["status"], "ok")


@case("Sandbox", "get_agent_info")
async def agent(kit):
    expect((await go(kit.box.get_agent_info()))["vm_id"], kit.box.sandbox_id)


@case("Sandbox", "get_preview_url", "agent_url")
async def preview(kit):
    for call in (lambda: kit.box.get_preview_url(3000), lambda: kit.box.agent_url):
        error = await error_of(call)
        hold("preview URL" in error.message, error.message)
    raise Refused("by the SDK itself, which knows the addresses of hopx.dev only")


@case("Sandbox", "get_metrics_snapshot", "get_agent_metrics")
async def metrics(kit):
    for read in (kit.box.get_metrics_snapshot, kit.box.get_agent_metrics):
        seen = await go(read())
        hold(seen["total_executions"] > 0, seen)
        hold(seen["system"]["memory"]["total"] > 100_000_000, seen)


@case("Sandbox", "list_system_processes", "get_jupyter_sessions")
async def processes(kit):
    hold(len(await go(kit.box.list_system_processes())) > 3, "processes")
    hold(len(await go(kit.box.get_jupyter_sessions())) > 0, "sessions")


#: Prefix of these cases' templates. The other class makes and deletes its own at the same time.
OWN = "made-by-"


async def template_names(kit):
    seen = [one.name for one in await go(kit.Class.list_templates(**ACCESS))]
    return [name for name in seen if not name.startswith(OWN)]


@case("templates", "list_templates", "get_template")
async def templates(kit):
    expect(await template_names(kit), [TEMPLATE])
    one = await go(kit.Class.get_template(TEMPLATE, **ACCESS))
    expect((one.name, one.language), (TEMPLATE, "python"))


@case("templates", "delete_template")
async def delete_template(kit):
    mine = f"{OWN}{kit.kind}"
    make_template(kit.api_key, mine)
    await go(kit.Class.delete_template(mine, **ACCESS))
    names = [one.name for one in await go(kit.Class.list_templates(**ACCESS))]
    hold(mine not in names, names)
    return "with a key that has the scope operator"


def make_template(api_key, name):
    size = {"vcpu": 1, "memory_mb": 64, "disk_mb": 16}
    body = {"name": name, "image_sha256": "a" * 64, "default_resources": size}
    headers = {"x-api-key": api_key, "content-type": "application/json"}
    request = urllib.request.Request(
        f"{BASE_URL}/v1/templates", json.dumps(body).encode(), headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        expect(answer.status, 201)


@case("templates", "Template.build")
async def build(kit):
    template = (
        hopx_ai.create_template("python:3.11")
        .run_cmd("true")
        .set_env("A", "1")
        .set_workdir("/workspace")
    )
    options = hopx_ai.template.BuildOptions(name="mine", api_key=kit.api_key, base_url=BASE_URL)
    try:
        await hopx_ai.Template.build(template, options)
    except Exception as error:
        hold("403" in str(error) or "Forbidden" in str(error), error)
        raise Refused("images are built on the hosts (infra/images)") from error
    raise AssertionError("it did not fail")
