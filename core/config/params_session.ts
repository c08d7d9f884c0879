/**
 * Parameters of a client session: where it connects, how it proves who it is, and the pool of
 * backend connections behind it.
 */

import type { Rows } from "./param.ts";

export const connectionParams = {
  listen_addresses: {
    type: "list",
    initial: "localhost",
    separator: ",",
    context: "restart",
    brief: "TCP addresses for clients: * is every address, empty is Unix sockets only",
  },
  port: {
    type: "int",
    initial: 9999,
    min: 1024,
    max: 65535,
    context: "restart",
    brief: "TCP port for clients, and the suffix of the Unix sockets",
  },
  unix_socket_directories: {
    type: "list",
    initial: "/tmp",
    separator: ",",
    context: "restart",
    since: "4.4",
    brief: "Directories of the Unix sockets for clients",
  },
  unix_socket_group: {
    type: "string",
    initial: "",
    context: "restart",
    since: "4.4",
    brief: "Group that owns the Unix sockets",
  },
  unix_socket_permissions: {
    type: "int",
    initial: 0o777,
    min: 0,
    max: 0o777,
    written: "octal",
    shown: "octal",
    context: "restart",
    since: "4.4",
    brief: "Mode of the Unix sockets, in octal with a leading 0",
  },
  listen_backlog_multiplier: {
    type: "int",
    initial: 2,
    min: 1,
    context: "restart",
    brief: "Clients that may wait to be accepted, as a multiple of num_init_children",
  },
  serialize_accept: {
    type: "bool",
    initial: false,
    context: "restart",
    brief: "Take turns at accepting clients; one accepting process has no need of it",
  },
  transport: {
    type: "enum",
    initial: "bun",
    values: ["bun", "node"],
    context: "restart",
    since: "0.1",
    brief: "Socket library: Bun's own, or node:net (slower; the only one outside Bun)",
  },
} as const satisfies Rows;

export const authenticationParams = {
  enable_pool_hba: {
    type: "bool",
    initial: false,
    context: "reload",
    brief: "Admit clients by the rules of pool_hba.conf",
  },
  pool_passwd: {
    type: "string",
    initial: "pool_passwd",
    context: "restart",
    secret: true,
    brief: "File of passwords, beside pgpool.conf; empty for none",
  },
  authentication_timeout: {
    type: "int",
    initial: 60,
    min: 0,
    unit: "s",
    context: "restart",
    brief: "Time a client has to prove who it is; 0 is no limit",
  },
  allow_clear_text_frontend_auth: {
    type: "bool",
    initial: false,
    context: "reload",
    brief: "Ask for a clear-text password when pool_passwd has none to log in to a backend with",
  },
} as const satisfies Rows;

export const sslParams = {
  ssl: {
    type: "bool",
    initial: false,
    context: "restart",
    brief: "Offer TLS to clients and ask backends for it",
  },
  ssl_key: {
    type: "string",
    initial: "",
    context: "reload",
    brief: "Private key of the server certificate",
  },
  ssl_cert: {
    type: "string",
    initial: "",
    context: "reload",
    brief: "Server certificate, relative to the directory of pgpool.conf",
  },
  ssl_ca_cert: {
    type: "string",
    initial: "",
    context: "reload",
    brief: "Certificate authorities that vouch for peers",
  },
  ssl_ca_cert_dir: {
    type: "string",
    initial: "",
    context: "reload",
    brief: "Directory of certificate authorities that vouch for peers",
  },
  ssl_crl_file: {
    type: "string",
    initial: "",
    context: "reload",
    since: "4.2",
    brief: "Certificates that were revoked",
  },
  ssl_ciphers: {
    type: "string",
    initial: "HIGH:MEDIUM:+3DES:!aNULL",
    context: "reload",
    brief: "Ciphers allowed up to TLS 1.2",
  },
  ssl_prefer_server_ciphers: {
    type: "bool",
    initial: false,
    context: "reload",
    brief: "Our order of ciphers counts, not the client's",
  },
  ssl_ecdh_curve: {
    type: "string",
    initial: "prime256v1",
    context: "reload",
    brief: "Curve of the ECDH key exchange",
  },
  ssl_dh_params_file: {
    type: "string",
    initial: "",
    context: "reload",
    brief: "Diffie-Hellman parameters; empty uses built-in ones",
  },
  ssl_passphrase_command: {
    type: "string",
    initial: "",
    context: "reload",
    since: "4.2",
    brief: "Command that prints the passphrase of ssl_key; %p is the prompt",
  },
} as const satisfies Rows;

export const poolingParams = {
  num_init_children: {
    type: "int",
    initial: 32,
    min: 1,
    context: "restart",
    brief: "Clients served at once; later ones wait",
  },
  reserved_connections: {
    type: "int",
    initial: 0,
    min: 0,
    context: "restart",
    brief: "Refuse clients once fewer than this many places are free; 0 lets them wait",
  },
  max_pool: {
    type: "int",
    initial: 4,
    min: 0,
    context: "restart",
    brief: "Cached connections per client place and backend",
  },
  connection_cache: {
    type: "bool",
    initial: true,
    context: "restart",
    brief: "Keep backend connections for the next client",
  },
  child_life_time: {
    type: "int",
    initial: 300,
    min: 0,
    unit: "s",
    context: "restart",
    brief: "Age at which an idle client place is renewed; 0 is never",
  },
  child_max_connections: {
    type: "int",
    initial: 0,
    min: 0,
    context: "restart",
    brief: "Clients after which a place is renewed; 0 is never",
  },
  connection_life_time: {
    type: "int",
    initial: 0,
    min: 0,
    unit: "s",
    context: "restart",
    brief: "Idle time after which a cached backend connection is closed; 0 is never",
  },
  client_idle_limit: {
    type: "int",
    initial: 0,
    min: 0,
    unit: "s",
    context: "session",
    brief: "Idle time after which a client is sent away; 0 is never",
  },
  reset_query_list: {
    type: "list",
    initial: "ABORT;DISCARD ALL",
    separator: ";",
    context: "reload",
    brief: "Statements that clean a backend connection when its client leaves",
  },
} as const satisfies Rows;

export const processManagementParams = {
  process_management_mode: {
    type: "enum",
    initial: "static",
    values: ["static", "dynamic"],
    context: "reload",
    since: "4.4",
    brief: "Keep a fixed number of client places, or follow demand",
  },
  process_management_strategy: {
    type: "enum",
    initial: "gentle",
    values: ["aggressive", "gentle", "lazy"],
    context: "reload",
    since: "4.4",
    brief: "How eagerly idle places are given up in dynamic mode",
  },
  min_spare_children: {
    type: "int",
    initial: 5,
    min: 1,
    context: "reload",
    since: "4.4",
    brief: "Fewest idle places in dynamic mode",
  },
  max_spare_children: {
    type: "int",
    initial: 10,
    min: 1,
    context: "reload",
    since: "4.4",
    brief: "Most idle places in dynamic mode",
  },
} as const satisfies Rows;

export const filesParams = {
  pid_file_name: {
    type: "string",
    initial: "/var/run/pgpool/pgpool.pid",
    context: "restart",
    brief: "File of our process id, relative to the directory of pgpool.conf",
  },
  work_dir: {
    type: "string",
    initial: "/tmp",
    context: "restart",
    since: "4.7",
    brief: "Directory of pgpool_status and lock files",
  },
} as const satisfies Rows;
