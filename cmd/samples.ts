/** The samples, configuration and scripts, by the names that an installation gives them in etc/. */
import { sampleText } from "../core/config/sample.ts";
import { pcpConfSample, poolHbaConfSample } from "../core/config/samples.ts";
import { sampleScripts } from "./sample_scripts.ts";

export const sampleFiles = () => ({
  "pgpool.conf.sample": sampleText(),
  "pcp.conf.sample": pcpConfSample,
  "pool_hba.conf.sample": poolHbaConfSample,
});

/** Executable, as `failover.sh.sample`. */
export const scriptSamples = (): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(sampleScripts).map(([name, text]) => [`${name}.sample`, text]));

export type SampleName = keyof ReturnType<typeof sampleFiles>;
