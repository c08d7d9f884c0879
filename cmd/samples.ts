/** The configuration samples, by the names that an installation gives them in etc/. */
import { sampleText } from "../core/config/sample.ts";
import { pcpConfSample, poolHbaConfSample } from "../core/config/samples.ts";

export const sampleFiles = () => ({
  "pgpool.conf.sample": sampleText(),
  "pcp.conf.sample": pcpConfSample,
  "pool_hba.conf.sample": poolHbaConfSample,
});

export type SampleName = keyof ReturnType<typeof sampleFiles>;
