/**
 * Networks that hosts may be in. Gateways send clients' requests, and what grants access to a host,
 * to the address that the host registers.
 */
import { BlockList, isIP } from "node:net";
import { ConfigurationError } from "@torpor/service";

const CIDR = /^([0-9a-fA-F.:]+)\/(\d{1,3})$/;

export class HostNetworks {
  private readonly text: string;
  private readonly inside = new BlockList();

  /** `text`: `10.0.0.0/8,fd00::/8`; empty: any network. Throws ConfigurationError. */
  constructor(text: string) {
    this.text = text;
    for (const network of text.split(",").filter((one) => one !== "")) {
      const [, address = "", bits = ""] = CIDR.exec(network.trim()) ?? [];
      try {
        this.inside.addSubnet(address, Number(bits), isIP(address) === 6 ? "ipv6" : "ipv4");
      } catch (cause) {
        const message = `invalid configuration: HOST_NETWORKS must be networks such as 10.0.0.0/8, with commas between them; ${network} is none`;
        throw new ConfigurationError(message, { cause });
      }
    }
  }

  /** The reason why a host may not be at `dataPlaneUrl`, which has passed dataPlaneUrlProblem. */
  problemOf(dataPlaneUrl: string): string | undefined {
    if (this.text === "") return undefined;
    const host = new URL(dataPlaneUrl).hostname.replace(/^\[(.*)\]$/, "$1");
    const family = isIP(host);
    if (family === 0)
      return `dataPlaneUrl must have an address for a host, not a name: hosts may be in ${this.text}`;
    return this.inside.check(host, family === 6 ? "ipv6" : "ipv4")
      ? undefined
      : `dataPlaneUrl is at ${host}: hosts may be in ${this.text} (HOST_NETWORKS of the schedulers)`;
  }
}
