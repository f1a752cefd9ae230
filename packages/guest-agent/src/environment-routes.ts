import type { Environment } from "./environment.ts";
import { AgentError, missingParameter } from "./errors.ts";
import { type Body, optionalBoolean, variablesField } from "./fields.ts";
import type { RoutedRequest, Route } from "./http/router.ts";

/** /env: every response is the complete set of variables, with the values of secrets masked. */
export function environmentRoutes(environment: Environment): Route[] {
  const show = () => {
    const variables = environment.masked();
    return {
      env_vars: variables,
      count: Object.keys(variables).length,
      timestamp: new Date().toISOString(),
    };
  };
  const after = (change: (request: RoutedRequest) => void) => (request: RoutedRequest) => {
    change(request);
    return show();
  };
  return [
    { method: "GET", path: "/env", handle: show },
    { method: "PUT", path: "/env", handle: after(({ body }) => environment.replace(given(body))) },
    { method: "PATCH", path: "/env", handle: after((request) => patch(environment, request)) },
    { method: "DELETE", path: "/env", handle: after(() => environment.replace({})) },
    {
      method: "DELETE",
      path: "/env/:key",
      handle: after(({ params }) => remove(environment, params["key"] ?? "")),
    },
  ];
}

/** Throws when the body has no variables: an empty set would remove all of them. */
function given(body: Body): Record<string, string> {
  if (body["env_vars"] === undefined || body["env_vars"] === null)
    throw missingParameter("env_vars");
  return variablesField(body, "env_vars");
}

function patch(environment: Environment, { body }: RoutedRequest): void {
  const variables = given(body);
  if (optionalBoolean(body, "merge") === false) environment.replace(variables);
  else environment.merge(variables);
}

function remove(environment: Environment, key: string): void {
  if (!environment.delete(key))
    throw new AgentError(404, "RESOURCE_NOT_FOUND", `there is no variable ${key}`);
}
