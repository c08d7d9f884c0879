/**
 * The configuration as the program sees it: one property per parameter, typed by its row, and the
 * nodes gathered from their indexed lines.
 */

import type { NodeId } from "../cluster/state.ts";
import type { ParamValue, ScalarName } from "./params.ts";

/** `backend_flagN`. */
export type BackendFlag = {
  readonly allowToFailover: boolean;
  readonly alwaysPrimary: boolean;
};

/** One backend slot; its place in `Config.backends` is its id, gaps included. */
export type BackendConfig = {
  readonly id: NodeId;
  /** Never empty: an unset one is the default socket directory. A leading `/` is a socket directory. */
  readonly hostname: string;
  /** 0 in an unused slot. */
  readonly port: number;
  /** As written; see `weightFraction`. */
  readonly weight: number;
  /** `weight` by the sum of the weights of all used slots; 0 when that sum is 0. */
  readonly weightFraction: number;
  readonly data_directory: string;
  readonly flag: BackendFlag;
  readonly application_name: string;
  /** Seconds; 0 checks nothing. The indexed value, else the index-free one; so for all below. */
  readonly health_check_period: number;
  /** Seconds. */
  readonly health_check_timeout: number;
  readonly health_check_user: string;
  readonly health_check_password: string;
  readonly health_check_database: string;
  readonly health_check_max_retries: number;
  /** Seconds. */
  readonly health_check_retry_delay: number;
  /** Milliseconds. */
  readonly connect_timeout: number;
};

/** Whether the slot has a backend. Sessions and checks pass over those that have none. */
export const isUsed = (backend: BackendConfig): boolean => backend.port !== 0;

/** One member of the watchdog cluster, ourselves included; its place is its pgpool node id. */
export type WatchdogNodeConfig = {
  readonly id: number;
  /** Empty stands for the name of this host, and only for the local node. */
  readonly hostname: string;
  /** 0 in an unused slot. */
  readonly wd_port: number;
  readonly pgpool_port: number;
};

/** Where heartbeats of one member are received, and the devices to use. */
export type HeartbeatConfig = {
  readonly id: number;
  /** Several addresses are separated by `;`. */
  readonly hostname: string;
  readonly port: number;
  readonly device: string;
};

/** Where reads of a user, database or application go (`*_redirect_preference_list`). */
export type Redirect = {
  /** Case-insensitive and anchored. */
  readonly pattern: RegExp;
  readonly node: "primary" | "standby" | NodeId;
  /** Share of the sessions that go there, 0 to 1. */
  readonly ratio: number;
};

type Scalars = { readonly [N in ScalarName]: ParamValue<N> };

/**
 * Immutable; a reload or a PGPOOL SET makes a new one. Numbers are in the base unit of their row
 * (see params_*.ts): times in seconds unless the row says ms or min, sizes in bytes unless kB.
 */
export type Config = Scalars & {
  /** Up to the highest used slot. */
  readonly backends: readonly BackendConfig[];
  readonly watchdogNodes: readonly WatchdogNodeConfig[];
  readonly heartbeats: readonly HeartbeatConfig[];
  /** Our place in `watchdogNodes`; undefined without a watchdog. */
  readonly pgpoolNodeId: number | undefined;
  readonly redirects: {
    readonly user: readonly Redirect[];
    readonly database: readonly Redirect[];
    readonly appName: readonly Redirect[];
  };
  /** The text of each list parameter as it was written, which is what SHOW prints. */
  readonly listsAsWritten: { readonly [name: string]: string };
};
