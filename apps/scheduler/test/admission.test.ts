import type { HostId } from "@torpor/contracts";
import { describe, expect, test } from "vitest";
import { admissionProblem } from "../src/hosts/admission.ts";

const asked = (dataPlaneUrl = "https://10.0.0.5:9401") => ({
  hostId: "host-1" as HostId,
  dataPlaneUrl,
});
const joined = { revokedAt: null, dataPlaneHost: null, certificateExpiresAt: null };
const required = { admission: "required", tls: "optional" } as const;
const optional = { admission: "optional", tls: "optional" } as const;

describe("who may register", () => {
  test("a host that has joined, wherever it is unless that was said", () => {
    expect(admissionProblem(asked(), joined, required)).toBeUndefined();
    for (const [url, dataPlaneHost] of [
      ["https://10.0.0.5:9401", "10.0.0.5"],
      ["https://Host-1.example:9401", "host-1.EXAMPLE"],
      ["https://[fd00::1]:9401", "fd00::1"],
    ] as const)
      expect(admissionProblem(asked(url), { ...joined, dataPlaneHost }, required)).toBeUndefined();
    expect(
      admissionProblem(
        asked("https://10.0.0.6:9401"),
        { ...joined, dataPlaneHost: "10.0.0.5" },
        required,
      ),
    ).toBe("dataPlaneUrl is at 10.0.0.6: this host was admitted at 10.0.0.5 alone");
  });

  test("none that has not joined, where that is asked for", () => {
    expect(admissionProblem(asked(), undefined, required)).toMatch(
      /host-1 has not joined this fleet: make a token/,
    );
    expect(admissionProblem(asked(), undefined, optional)).toBeUndefined();
  });

  test("none that was revoked, whatever is asked for", () => {
    const revoked = { ...joined, revokedAt: new Date("2031-05-01T12:00:00Z") };
    for (const rule of [required, optional])
      expect(admissionProblem(asked(), revoked, rule)).toMatch(
        /host-1 was revoked at 2031-05-01T12:00:00.000Z; let it join again/,
      );
  });

  test("none without TLS that has a certificate, or where TLS is asked for", () => {
    const plain = asked("http://169.254.169.254");
    const certified = { ...joined, certificateExpiresAt: new Date() };
    const refusal = /dataPlaneUrl begins with http:: this host is to be reached by TLS alone/;
    expect(admissionProblem(plain, certified, optional)).toMatch(refusal);
    expect(admissionProblem(plain, joined, { ...optional, tls: "required" })).toMatch(refusal);
    expect(admissionProblem(plain, undefined, { ...optional, tls: "required" })).toMatch(refusal);
    expect(admissionProblem(plain, joined, required)).toBeUndefined();
    expect(admissionProblem(asked(), certified, required)).toBeUndefined();
  });
});
