/** When a certificate is renewed, and when a missing renewal is a problem. */
import type { X509Certificate } from "node:crypto";
import type { WorkProblem } from "@torpor/service";

/** Both times by the same clock. */
export interface Validity {
  notBeforeMs: number;
  notAfterMs: number;
}

/** Part of the lifetime after which a certificate is renewed: a third is left for retries. */
const RENEWED_AT = 2 / 3;
/** Certificates of one moment are renewed over this part of their lifetime, not all at once. */
const SPREAD = 1 / 10;
/** By then, any renewal is done. */
const PROBLEM_AT = 5 / 6;
const SERIAL_DIGITS = 8;

export function validityOf({ validFrom, validTo }: X509Certificate): Validity {
  return { notBeforeMs: Date.parse(validFrom), notAfterMs: Date.parse(validTo) };
}

/** `share`, 0 to 1: position within the spread, always the same for one certificate. */
export function renewalDueMs({ notBeforeMs, notAfterMs }: Validity, share: number): number {
  return notBeforeMs + (notAfterMs - notBeforeMs) * (RENEWED_AT + SPREAD * (share - 1 / 2));
}

/** Random for each certificate, because the serial number is random. */
export function shareOf({ serialNumber }: Pick<X509Certificate, "serialNumber">): number {
  const digits = serialNumber.slice(-SERIAL_DIGITS);
  return Number.parseInt(digits, 16) / 16 ** digits.length;
}

export const isRenewalDue = (certificate: X509Certificate, nowMs: number): boolean =>
  renewalDueMs(validityOf(certificate), shareOf(certificate)) <= nowMs;

/**
 * Problem with a program's own certificate, for its health report. `whyNot`: result of the last
 * attempt, if the program renews the certificate itself.
 */
export function certificateProblems(
  certificate: X509Certificate | undefined,
  whyNot?: string,
  nowMs = Date.now(),
): WorkProblem[] {
  if (certificate === undefined) return [];
  const { notBeforeMs, notAfterMs } = validityOf(certificate);
  const sinceMs = notBeforeMs + (notAfterMs - notBeforeMs) * PROBLEM_AT;
  if (nowMs < sinceMs) return [];
  const ends = `${nowMs < notAfterMs ? "ends" : "has ended"} at ${new Date(notAfterMs).toISOString()}`;
  const why = whyNot === undefined ? "" : ` (${whyNot})`;
  return [
    {
      code: "CERTIFICATE_ENDS",
      subject: certificate.subjectAltName ?? certificate.subject,
      since: new Date(sinceMs).toISOString(),
      message: `The certificate in TLS_CERT_FILE ${ends} and was not renewed${why}: put a new one in its place, it is taken up within a minute (docs/operate/security.md).`,
    },
  ];
}
