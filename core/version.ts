/** Who we are, and whom we follow. The product's number has one home: package.json. */
import packageFile from "../package.json" with { type: "json" };

/** This product's own version. */
export const productVersion: string = packageFile.version;

/**
 * The Pgpool-II whose behaviour is the contract: the number and code name that `SHOW pool_version`
 * answers (spec config/show.md section 5, config/versions.md).
 */
export const compatibleVersion = "4.8.0 (mitsukakeboshi)";

/** What `pgpool --version` prints. Scripts take the third word as Pgpool-II's version. */
export const versionLine = `pgpool-II version ${compatibleVersion}, pgpool ${productVersion}`;
